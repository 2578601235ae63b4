"""`CloudGDPRService`: erases and exports a person.

An erasure: freeze the subject, destroy its key, drop caches, delete its rows everywhere, look whether anything is
left, record. Each step is durable before the next and may be done again, so a crash resumes where it was. From the
first step on nothing of the subject is found; from the second on nothing of it can be read, wherever a copy may be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.evidence import StorageRewriter
from cloud.gdpr.export import empty_directory, write_bundle
from cloud.gdpr.model import Erasure, ErasurePreview, ErasureState, ExportBundle
from cloud.gdpr.places import Finder
from cloud.gdpr.ports import ErasureStore
from cloud.gdpr.removal import Removal, emptied
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureIncompleteError,
)
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import Place
from cloud.memory.config import PixeltableConfig
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from cloud.tenancy.admission import Admitted
from cloud.tenancy.system import system_predicate
from src.memory.validation import check_user_id

_T = TypeVar("_T")
_REASON_CHARACTERS: Final = 1_000


class CloudGDPRService:
    """`GDPRService` of the cloud side.

    Args:
        store: Erasures and rows of the control plane.
        engine: Engine that holds the placement's lock while rows are removed.
        config: The installation.
        admissions: The door.
        audit: The log.
        rewriter: Rewrites what deleted rows have left.
        on_key_destroyed: Called when a person's key is destroyed, before that is recorded.
    """

    def __init__(
        self,
        store: ErasureStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        *,
        rewriter: StorageRewriter | None = None,
        on_key_destroyed: Callable[[], None] = lambda: None,
    ) -> None:
        self._rewriter = rewriter
        self._on_key_destroyed = on_key_destroyed
        self._store = store
        self._config = config
        self._admissions = admissions
        self._audit = audit
        self._finder = Finder(store, config)
        self._removal = Removal(engine, "erasure")

    async def delete_user_data(
        self, user_id: str, workspace_id: str, *, confirmed: bool = False, reason: str | None = None
    ) -> ErasurePreview | Erasure:
        """Without `confirmed`, what would go; with it, the person is erased when this returns.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            confirmed: Whether to erase.
            reason: Why, at most 1,000 characters; kept sealed.

        Raises:
            PermissionDeniedError: The caller may not erase here.
            AuthenticationError: There is no such tenant, or nobody is calling.
            InvalidFilterError: The user id is none.
            ErasureIncompleteError: Something is left; it is recorded, and calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.

        Source:
            GDPR Art. 17(1).
        """
        if not confirmed:
            return await _in_thread(lambda: self._preview(user_id, workspace_id))
        return await _in_thread(lambda: self._erase(user_id, workspace_id, reason))

    async def export_user_data(
        self, user_id: str, workspace_id: str, directory: str | os.PathLike[str]
    ) -> ExportBundle:
        """Write everything that is kept of a person to `directory`, which must be empty or missing.

        Raises:
            PermissionDeniedError: The caller may not export here.
            AuthenticationError: There is no such tenant, or nobody is calling.
            ConfigurationError: The directory is not empty.
            ProviderUnavailableError: A part did not answer.

        Source:
            GDPR Art. 15(1), 15(3), 20(1).
        """
        return await _in_thread(lambda: self._export(user_id, workspace_id, Path(directory)))

    def resume(self) -> int:
        """Finish the erasures that a process was killed in; returns how many.

        Raises:
            ErasureIncompleteError: One of them still finds something.
            ProviderUnavailableError: A part did not answer.
        """
        return self._finish(self._store.unfinished())

    def _finish(self, erasures: Sequence[Erasure]) -> int:
        for erasure in erasures:
            telemetry.named(Action.ERASURE.value, erasure.tenant_id, partial(self._resume, erasure))
        return len(erasures)

    def _resume(self, erasure: Erasure) -> None:
        predicate = system_predicate(erasure.tenant_id, "erasure")
        draft = self._audit.draft(predicate.scope, Action.ERASURE, subject_id=erasure.subject_id)
        self._complete(predicate, erasure, draft)

    def _preview(self, user_id: str, tenant_id: str) -> ErasurePreview:
        admitted = self._admitted(tenant_id, Action.ERASURE_PREVIEW, user_id)
        with_counts = self._recorded(admitted, lambda: self._find(admitted, user_id))
        self._audit.record(
            tenant_id, self._about(admitted, with_counts.subject_id), Outcome.ALLOWED, counts=with_counts.counts
        )
        return with_counts

    def _find(self, admitted: Admitted, user_id: str) -> ErasurePreview:
        tenant_id = admitted.scope.tenant_id
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
        if person is None:
            return ErasurePreview(tenant_id, None, {})
        return ErasurePreview(tenant_id, person.subject_id, self._finder.counts(admitted.predicate, person.subject_id))

    def _erase(self, user_id: str, tenant_id: str, reason: str | None) -> Erasure:
        admitted = self._admitted(tenant_id, Action.ERASURE, user_id)
        return self._recorded(admitted, lambda: self._erase_admitted(admitted, user_id, reason))

    def _erase_admitted(self, admitted: Admitted, user_id: str, reason: str | None) -> Erasure:
        tenant_id, erasure_id = admitted.scope.tenant_id, new_event_id()
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
        if person is None:
            # An erasure that stopped after the key was destroyed has nobody's name: this may be its caller again.
            self._finish([erasure for erasure in self._store.unfinished() if erasure.tenant_id == tenant_id])
            now = self._config.clock()
            self._audit.record(tenant_id, admitted.draft, Outcome.ALLOWED, reason="nothing_found")
            return Erasure(erasure_id, tenant_id, None, ErasureState.VERIFIED, {}, now, now)
        intent = self._audit.draft(
            admitted.scope,
            Action.ERASURE_STEP,
            subject_id=person.subject_id,
            category=Category.ADMINISTRATION,
            details={"erasure_id": erasure_id},
        )
        erasure = self._store.freeze(
            admitted.predicate,
            person.subject_id,
            reason_sealed=self._sealed_reason(tenant_id, erasure_id, reason),
            erasure_id=erasure_id,
            audit=intent,
        )
        # Counted once nothing is added any more.
        counts = self._finder.counts(admitted.predicate, person.subject_id)
        erasure = self._store.mark(erasure, erasure.state, counts)
        return self._complete(admitted.predicate, erasure, self._about(admitted, person.subject_id))

    def _complete(self, predicate: TenantPredicate, erasure: Erasure, audit: AuditDraft) -> Erasure:
        with self._removal.turn():
            return self._steps(predicate, erasure, audit)

    def _steps(self, predicate: TenantPredicate, erasure: Erasure, audit: AuditDraft) -> Erasure:
        """Every step after the freeze; each may be done again, so this starts from the beginning of them."""
        subject_id = erasure.subject_id
        assert subject_id is not None
        failpoints.reach("erase.frozen")
        self._config.keyring.destroy_subject(erasure.tenant_id, subject_id)
        self._config.keyring.forget(erasure.tenant_id, subject_id)
        self._config.hot.drop(erasure.tenant_id, subject_id)
        self._config.read_times.drop(erasure.tenant_id, subject_id)
        failpoints.reach("erase.key_destroyed")
        # The control plane knows of it, so a copy of the keyring from before is recognized as one.
        self._on_key_destroyed()
        erasure = self._store.mark(erasure, ErasureState.KEY_DESTROYED, {})
        left = emptied(
            lambda: self._remove_rows(predicate, subject_id), lambda: self._finder.counts(predicate, subject_id)
        )
        erasure = self._store.mark(erasure, ErasureState.ROWS_DELETED, {})
        if self._rewriter is not None and self._rewriter.at_once():
            self._rewriter.rewrite(predicate, self._store.placements(predicate))
        finished = self._store.finish(erasure, ErasureState.INCOMPLETE if left else ErasureState.VERIFIED, audit)
        if left:
            raise ErasureIncompleteError(left)
        return finished

    def _remove_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        def remove(placements: Sequence[str]) -> None:
            self._store.delete_rows(predicate, subject_id)
            failpoints.reach("erase.ledger_deleted")
            for placement in placements:
                self._config.rows.remove_subject(predicate, placement, subject_id)

        self._removal.under_locks(lambda: self._store.placements(predicate), remove)
        failpoints.reach("erase.rows_deleted")

    def _export(self, user_id: str, tenant_id: str, directory: Path) -> ExportBundle:
        admitted = self._admitted(tenant_id, Action.ACCESS_REQUEST, user_id)
        return self._recorded(admitted, lambda: self._export_admitted(admitted, user_id, directory))

    def _export_admitted(self, admitted: Admitted, user_id: str, directory: Path) -> ExportBundle:
        tenant_id = admitted.scope.tenant_id
        with empty_directory(directory):
            person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
            bundle = write_bundle(directory, user_id, person, admitted.predicate, self._config, self._store)
            draft = self._about(admitted, person.subject_id if person else None)
            self._audit.record(tenant_id, draft, Outcome.ALLOWED, counts=bundle.counts)
        return bundle

    def _admitted(self, tenant_id: str, action: Action, user_id: str) -> Admitted:
        admitted = self._admissions.administer(tenant_id, action, user_id=user_id)

        self._recorded(admitted, lambda: check_user_id(user_id))
        return admitted

    def _recorded(self, admitted: Admitted, work: Callable[[], _T]) -> _T:
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            return work()

    def _about(self, admitted: Admitted, subject_id: str | None) -> AuditDraft:
        draft = admitted.draft
        return AuditDraft(
            action=draft.action,
            actor=draft.actor,
            request_id=draft.request_id,
            trace_id=draft.trace_id,
            subject_id=subject_id,
            category=Category.ADMINISTRATION,
            event_id=draft.event_id,
            started_ns=draft.started_ns,
        )

    def _sealed_reason(self, tenant_id: str, erasure_id: str, reason: str | None) -> bytes | None:
        if reason is None:
            return None
        if len(reason) > _REASON_CHARACTERS:
            raise ConfigurationError(f"the reason has more than {_REASON_CHARACTERS} characters")
        key = self._config.keyring.tenant_key(tenant_id).key
        place = Place(tenant_id, "", erasure_id, "reason")
        return self._config.sealer.seal(key, reason.encode("utf-8", "surrogatepass"), place=place)


async def _in_thread(work: Callable[[], _T]) -> _T:
    return await asyncio.to_thread(telemetry.observed, work)
