"""The steps of an erasure, from the freeze to the certificate, and what is reached after it has returned.

Of a person or of a whole tenant: what differs is its extent (`cloud.gdpr.extents`).

Each step is durable before the next and harmless when repeated. Going on with an erasure does the steps before again:
they cost little, and a keyring or a table that was restored in between from a backup holds again what was destroyed.
From the freeze on nothing of the subject is found; from the destroyed key on nothing of it can be read, wherever a copy
may be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

from cloud.audit.model import AuditDraft, Category
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.evidence import Evidence
from cloud.gdpr.extents import Extent, Extents
from cloud.gdpr.levels import AT_ONCE, Level, LevelState
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.ports import ErasureStore
from cloud.gdpr.removal import Removal, emptied
from cloud.gdpr.sealing import person_of
from cloud.gdpr.states import UNDER_WAY
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    ErasureIncompleteError,
    LegalHoldError,
    LuminescentError,
    PermissionDeniedError,
    ProviderUnavailableError,
)
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig
from cloud.storage.engine import ControlEngine
from cloud.tenancy.system import system_predicate

STUCK: Final = timedelta(minutes=10)
"""After so long without a step an erasure is taken to be abandoned, and gone on with by whoever looks."""
_CERTIFY_ATTEMPTS: Final = 5
_STORAGE: Final = (Level.FILE, Level.WAL)

_log = logging.getLogger(__name__)


class Erasing:
    """Brings erasures to their end.

    Args:
        store: Requests and rows of the control plane.
        engine: Engine that holds the placement's lock while rows are removed.
        config: The installation.
        audit: The log.
        evidence: What shows how deep an erasure went.
        on_key_destroyed: Called when a key is destroyed, before that is recorded.
    """

    def __init__(
        self,
        store: ErasureStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        audit: TransactionalAuditLogger,
        evidence: Evidence,
        on_key_destroyed: Callable[[], None],
    ) -> None:
        self._store = store
        self._config = config
        self._audit = audit
        self._evidence = evidence
        self._on_key_destroyed = on_key_destroyed
        self._extents = Extents(store, config)
        self._removal = Removal(engine, "erasure")

    def complete(
        self, predicate: TenantPredicate, erasure: Erasure, audit: AuditDraft, user_id: str | None = None
    ) -> Erasure:
        """Take a frozen erasure to its end.

        Args:
            predicate: Its tenant.
            erasure: The erasure.
            audit: The event of the operation that does it.
            user_id: The person, where the caller named it.

        Raises:
            ErasureIncompleteError: Something is left; it is recorded, and going on continues.
            ConfigurationError: A part cannot be used as it is set up.
            ProviderUnavailableError: A part did not answer; going on continues.
        """
        with self._removal.turn():
            return self._steps(predicate, erasure, audit, user_id)

    def certify(self, erasure: Erasure, user_id: str | None = None) -> Erasure:
        """The erasure with a certificate of its levels as they are now, if there is who signs it.

        Two processes may certify it at once: one certificate is kept, and nobody has seen the other.

        Raises:
            ConfigurationError: The audit log does not say that it ended well.
            ProviderUnavailableError: A part did not answer, or others certify it again and again.
        """
        certifier = self._evidence.certifier
        if certifier is None:
            return erasure
        for _ in range(_CERTIFY_ATTEMPTS):
            if certifier.is_current(erasure):
                return erasure
            text = certifier.certify(erasure, user_id)
            erasure = self._store.mark(erasure, ErasureState.CERTIFIED, certificate=text)
            if erasure.certificate == text:
                return erasure
        raise ProviderUnavailableError("erasure", reason="is certified by others again and again")

    def certify_what_is_not(self, tenant_id: str | None = None) -> int:
        """Certify the erasures that are verified and have no certificate, of one tenant or of all; returns how many."""
        found = self._store.uncertified() if self._evidence.certifier is not None else []
        erasures = [one for one in found if tenant_id in (None, one.tenant_id)]
        for erasure in erasures:
            self.certify(erasure)
        return len(erasures)

    def joined(self, erasure: Erasure, audit: AuditDraft) -> Erasure:
        """An erasure that another process brought to its end meanwhile, with its certificate."""
        found = self._store.finish(erasure, ErasureState.VERIFIED, audit)
        return found if found.certificate is not None else self.certify(found)

    def commit(self, tenant_id: str, subject_id: str | None, user_id: str | None) -> bytes | None:
        """The sealed commitment to whom a certificate will be about, if somebody signs it and the person is named."""
        certifier = self._evidence.certifier
        return None if certifier is None or user_id is None else certifier.commit(tenant_id, subject_id, user_id)

    def handed_out(self, erasure: Erasure) -> Erasure:
        """The erasure with its certificate in the form in which callers get it."""
        certifier = self._evidence.certifier
        if certifier is None or erasure.certificate is None:
            return erasure
        return replace(erasure, certificate=certifier.hand_out(erasure.tenant_id, erasure.certificate))

    def levels_of_nobody(self) -> tuple[LevelState, ...]:
        """What was measured of somebody of whom no key, link or row was found; of files nothing is claimed."""
        now = self._config.clock()
        return tuple(LevelState(level, now, evidence={"found": 0}) for level in AT_ONCE)

    def resume(self) -> int:
        """Finish the erasures that a process was killed in or that were released, at once; returns how many.

        Raises:
            ErasureIncompleteError: One of them still finds something.
            ProviderUnavailableError: A part did not answer.
        """
        return self.finish(self._store.unfinished()) + self.certify_what_is_not()

    def finish(self, erasures: Sequence[Erasure]) -> int:
        """Finish these as the service itself; returns how many."""
        for erasure in erasures:
            telemetry.named(_action(erasure).value, erasure.tenant_id, partial(self._finish, erasure))
        return len(erasures)

    def upkeep(self) -> None:
        """Go on with what was released or abandoned, and reach levels that are due; trouble is for the next time."""
        for erasure in self._store.stuck(STUCK):
            _told(partial(self.finish, (erasure,)), "an erasure could not be finished and is tried again: %s")
        # Rows of all of them are gone before the first is looked at: what is rewritten for one is for each.
        rewritten: dict[tuple[str, ...], Sequence[LevelState]] = {}
        for erasure in self._store.due_levels(self._config.clock()):
            deepen = partial(self._deepen, erasure, rewritten)
            work = partial(telemetry.named, Action.ERASURE_LEVEL.value, erasure.tenant_id, deepen)
            _told(work, "a level of an erasure could not be reached and is tried again: %s")
        _told(self.certify_what_is_not, "an erasure could not be certified and is tried again: %s")

    def go_on(self, predicate: TenantPredicate, erasure: Erasure, audit: AuditDraft) -> Erasure:
        """Take an erasure on that is frozen, failed, or released from a hold.

        Raises:
            LegalHoldError: Another hold keeps it; it is held again.
        """
        if erasure.state not in UNDER_WAY:
            intent = self._audit.draft(
                predicate.scope,
                Action.ERASURE_STEP,
                subject_id=erasure.subject_id,
                category=Category.ADMINISTRATION,
                details={"erasure_id": erasure.erasure_id},
            )
            erasure = self._store.freeze_released(predicate, erasure, intent=intent, audit=audit)
            if erasure.state is ErasureState.HELD:
                raise LegalHoldError(erasure.erasure_id)
            if erasure.state not in UNDER_WAY:
                # Another process was faster, in this moment.
                return self._store.finish(erasure, ErasureState.VERIFIED, audit)
            erasure = self.counted(predicate, erasure)
        return self.complete(predicate, erasure, audit)

    def counted(self, predicate: TenantPredicate, erasure: Erasure) -> Erasure:
        """The erasure with what there is to remove, counted once nothing is added any more."""
        return self._store.mark(erasure, erasure.state, counts=self._extents.of(predicate, erasure).counts())

    def seen(self, predicate: TenantPredicate) -> dict[str, int]:
        """What closing the tenant would remove."""
        return self._extents.of_tenant(predicate).counts()

    def _finish(self, erasure: Erasure) -> None:
        predicate = system_predicate(erasure.tenant_id, "erasure")
        draft = self._audit.draft(predicate.scope, _action(erasure), subject_id=erasure.subject_id)
        # Whose tenant is being closed is erased with it.
        with suppress(LegalHoldError, PermissionDeniedError):
            self.go_on(predicate, erasure, draft)

    def _steps(self, predicate: TenantPredicate, erasure: Erasure, audit: AuditDraft, user_id: str | None) -> Erasure:
        extent = self._extents.of(predicate, erasure)
        if user_id is None:
            # While its key is there: the certificate commits to it.
            user_id = person_of(self._config, erasure, self._store.sealed(predicate, erasure.erasure_id).user)
        step = ErasureState.KEY_DESTROYED
        try:
            if not erasure.counts:
                # It was cut off before anybody counted, or is asked for by the erasure ledger.
                erasure = self.counted(predicate, erasure)
            failpoints.reach(f"{extent.step}.frozen")
            erasure = self._store.mark(erasure, erasure.state, levels=(self._reached(Level.LOGICAL),))
            erasure = self._destroy_keys(erasure, extent)
            step = ErasureState.ROWS_DELETED
            left = emptied(lambda: self._remove_rows(predicate, extent), extent.counts)
            if not left:
                rows = sum(erasure.counts.values())
                level = self._reached(Level.STORE, {"removed": rows, "left": 0})
                erasure = self._store.mark(erasure, ErasureState.ROWS_DELETED, levels=(level,))
                step = ErasureState.STORAGE_REWRITTEN
                erasure = self._rewrite(predicate, erasure)
        except LuminescentError:
            with suppress(ProviderUnavailableError):
                self._store.mark(erasure, ErasureState.FAILED, failed_step=step)
            raise
        failpoints.reach(f"{extent.step}.rewritten")
        if left:
            self._store.finish(erasure, ErasureState.FAILED, audit)
            raise ErasureIncompleteError(left)
        erasure = self._store.finish(erasure, ErasureState.VERIFIED, audit, (self._of_backups(erasure),))
        failpoints.reach(f"{extent.step}.verified")
        return self.certify(erasure, user_id)

    def _destroy_keys(self, erasure: Erasure, extent: Extent) -> Erasure:
        if self._evidence.ledger is not None:
            # Before anything is destroyed: a backup that is restored from now on must bring nobody back.
            self._evidence.ledger.append(erasure)
        found = extent.keys()
        extent.destroy_keys()
        failpoints.reach(f"{extent.step}.key_destroyed")
        # The control plane knows of it, so a copy of the keyring from before is recognized as one.
        self._on_key_destroyed()
        left = extent.keys()
        if left:
            raise ErasureIncompleteError(("keyring.subject",))
        level = self._reached(Level.CRYPTOGRAPHIC, {"destroyed_now": found, "left": left})
        return self._store.mark(erasure, ErasureState.KEY_DESTROYED, levels=(level,))

    def _remove_rows(self, predicate: TenantPredicate, extent: Extent) -> None:
        self._removal.under_locks(lambda: self._store.placements(predicate), extent.remove_rows)
        failpoints.reach(f"{extent.step}.rows_deleted")

    def _rewrite(self, predicate: TenantPredicate, erasure: Erasure) -> Erasure:
        """Reach the levels of the storage at once, or say when that will be."""
        rewriter = self._evidence.rewriter
        if rewriter is None:
            unknown = tuple(LevelState(level, None) for level in _STORAGE)
            return self._store.mark(erasure, erasure.state, levels=unknown)
        if rewriter.at_once():
            try:
                reached = rewriter.rewrite(predicate, self._store.placements(predicate))
            except ProviderUnavailableError as error:
                # Nothing of the person can be read or found: others need not wait, nor this erasure for them.
                _log.warning("the storage is rewritten later: %s", error)
            else:
                return self._store.mark(erasure, ErasureState.STORAGE_REWRITTEN, levels=reached)
        due_at = rewriter.due()
        return self._store.mark(
            erasure, erasure.state, levels=tuple(LevelState(level, None, due_at) for level in _STORAGE)
        )

    def _deepen(self, erasure: Erasure, rewritten: dict[tuple[str, ...], Sequence[LevelState]]) -> None:
        """Reach what is due of an erasure that has returned, record it, and certify it anew."""
        predicate = system_predicate(erasure.tenant_id, "erasure")
        draft = self._audit.draft(
            predicate.scope,
            Action.ERASURE_LEVEL,
            subject_id=erasure.subject_id,
            category=Category.ADMINISTRATION,
            details={"erasure_id": erasure.erasure_id},
        )
        with recorded_failure(self._audit, draft, erasure.tenant_id):
            levels: list[LevelState] = []
            rewriter = self._evidence.rewriter
            if rewriter is not None and any(self._is_due(erasure, level) for level in _STORAGE):
                placements = tuple(self._store.placements(predicate))
                if placements not in rewritten:
                    rewritten[placements] = rewriter.rewrite(predicate, placements)
                levels += rewritten[placements]
            if self._is_due(erasure, Level.BACKUPS):
                levels.append(self._of_backups(erasure))
            if levels:
                erasure = self._store.note_level(erasure, levels, draft)
        self.certify(erasure)

    def _is_due(self, erasure: Erasure, level: Level) -> bool:
        state = erasure.levels.get(level)
        if state is None or state.reached_at is not None or state.due_at is None:
            return False
        return state.due_at <= self._config.clock()

    def _of_backups(self, erasure: Erasure) -> LevelState:
        stored = erasure.levels.get(Level.STORE)
        before = stored.reached_at if stored and stored.reached_at else self._config.clock()
        return self._evidence.backups.level(before) if self._evidence.backups else LevelState(Level.BACKUPS, None)

    def _reached(self, level: Level, evidence: dict[str, int | str] | None = None) -> LevelState:
        return LevelState(level, self._config.clock(), evidence=evidence or {})


def _action(erasure: Erasure) -> Action:
    return Action.TENANT_CLOSE if erasure.whole_tenant else Action.ERASURE


def _told(work: Callable[[], object], message: str) -> None:
    try:
        work()
    except LuminescentError as error:
        _log.warning(message, error)
