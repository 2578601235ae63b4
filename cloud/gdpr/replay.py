"""Replays the erasure ledger: whoever a restored database brought back is erased again, before anything is served.

The keyring follows, too: it may be younger than the databases, which then do not know whose key it has.

It runs at every start. The control plane keeps how far it has followed the ledger, so a start reads what is younger;
a database that was restored, by whatever means, is behind by what it does not know. What is under way in the control
plane itself is left to its own resumption.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from cloud.audit.model import AuditDraft, Category
from cloud.audit.ports import TransactionalAuditLogger
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.ledger import Entry, FileErasureLedger, LedgerPlace, LedgerRecord
from cloud.gdpr.ports import Confirmation, ErasureStore, Received
from cloud.gdpr.rebuilding import ErasedView, rebuild_ledger, seed_ledger
from cloud.gdpr.states import MONTHS, months_later
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import ProviderUnavailableError, SealBrokenError
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig
from cloud.storage.advisory import advisory_locks
from cloud.storage.engine import ControlEngine
from cloud.tenancy.system import system_predicate

_LOCK: Final = (0x6C6C, 0)  # 'll': one process at a time replays
_LOCK_WAIT_S: Final = 120.0
_CHUNK: Final = 5_000
_COMPONENT: Final = "restore"
_INSTALLATION: Final = "operator"


class LedgerView(ErasedView, Protocol):
    """What the control plane knows of the ledger, and of whom it names."""

    def place(self) -> LedgerPlace | None:
        """How far it has followed the ledger; `None` if it never has."""
        ...

    def back(self, predicate: TenantPredicate, subject_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these subjects are active here; who is frozen is being erased by this database itself."""
        ...

    def tenants_back(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these tenants are here and not closed; one that is being closed goes on by itself."""
        ...

    def frozen(self, predicate: TenantPredicate, subject_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these subjects are being erased by this database itself."""
        ...

    def closing(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these tenants are being closed by this database itself."""
        ...

    def add_backup(self, record: LedgerRecord) -> None:
        """Know of a backup; harmless when repeated."""
        ...

    def backup_gone(self, record: LedgerRecord) -> None:
        """Know that a backup was deleted; harmless when repeated."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found.

    Attributes:
        records: How many records were followed.
        erased_again: People who had come back.
        closed_again: Tenants that had come back.
        keys_destroyed: People and tenants of whom nothing had come back but what the keyring has of them.
    """

    records: int
    erased_again: int
    closed_again: int
    keys_destroyed: int

    def counts(self) -> dict[str, int]:
        """The same, as an audit event has it."""
        return {
            "records": self.records,
            "erased_again": self.erased_again,
            "closed_again": self.closed_again,
            "keys_destroyed": self.keys_destroyed,
        }


class Replay:
    """Lets the databases follow the ledger. What it erases reaches the levels of the storage later, as due at once: a
    database that was read in anew holds no remains, and nobody has measured that.

    Args:
        ledger: The ledger.
        view: What the control plane knows.
        store: Erasures of the control plane.
        engine: Engine that holds a lock while this goes on.
        config: The installation.
        erasing: Takes the erasures to their end; keeps nothing in the ledger and certifies nothing.
        audit: The log.
        close_again: Closes a tenant that had been closed, by the id of the closing if the ledger has it.
    """

    def __init__(
        self,
        ledger: FileErasureLedger,
        view: LedgerView,
        store: ErasureStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        erasing: Erasing,
        audit: TransactionalAuditLogger,
        *,
        close_again: Callable[[str, str | None], None],
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._store = store
        self._engine = engine
        self._config = config
        self._audit = audit
        self._close_again = close_again
        self._erasing = erasing

    def run(self) -> Replayed:
        """Nobody whom the ledger names is in these databases or in the keyring when this returns, but for whom these
        databases erase or close themselves.

        Raises:
            ConfigurationError: The ledger does not hold, or is shorter than it was.
            ErasureIncompleteError: Something of somebody is left; calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        known = self._view.place()
        if known is not None and known == self._ledger.end():
            return Replayed(0, 0, 0, 0)
        with advisory_locks(self._engine, (_LOCK,), wait_s=_LOCK_WAIT_S) as held:
            if not held:
                raise ProviderUnavailableError("erasure ledger", reason="is being replayed by another process")
            return self._follow(self._view.place())

    def rebuild(self) -> None:
        """Begin a new ledger with what these databases know; the present one is set aside.

        Raises:
            ConfigurationError: It cannot be written.
            ProviderUnavailableError: The control plane did not answer.
        """
        rebuild_ledger(self._ledger, self._view, self._config.clock())

    def _follow(self, known: LedgerPlace | None) -> Replayed:
        found = self._ledger.since(known or LedgerPlace())
        records = [record for _, record in found]
        closed = self._close(records)
        erased = self._erase(records)
        for record in records:
            if record.entry is Entry.BACKUP:
                self._view.add_backup(record)
            elif record.entry is Entry.BACKUP_GONE:
                self._view.backup_gone(record)
        # After those who are known here: their erasures count the keys that they destroy.
        keys_destroyed = self._destroy_keys(records)
        if known is None:
            # Of before there was a ledger, or of a database that never had one.
            seed_ledger(self._ledger, self._view, self._config.clock())
        replayed = Replayed(len(records), erased, closed, keys_destroyed)
        end = found[-1][0] if found else known or self._ledger.end()
        draft = self._draft() if erased or closed or keys_destroyed else None
        self._view.keep_place(end, self._config.clock(), draft, replayed.counts())
        return replayed

    def _close(self, records: Sequence[LedgerRecord]) -> int:
        closed = {record.tenant_id: record.reference for record in records if record.entry is Entry.CLOSING}
        back = self._view.tenants_back([tenant_id for tenant_id in closed if tenant_id is not None])
        for tenant_id in back:
            self._close_again(tenant_id, closed[tenant_id])
        return len(back)

    def _erase(self, records: Sequence[LedgerRecord]) -> int:
        done = 0
        for tenant_id, erasures in _erased(records).items():
            predicate = system_predicate(tenant_id, _COMPONENT)
            subject_ids = sorted(erasures)
            for start in range(0, len(subject_ids), _CHUNK):
                for subject_id in self._view.back(predicate, subject_ids[start : start + _CHUNK]):
                    again = partial(self._erase_again, predicate, subject_id, erasures[subject_id])
                    telemetry.named(Action.ERASURE.value, tenant_id, again)
                    done += 1
        return done

    def _destroy_keys(self, records: Sequence[LedgerRecord]) -> int:
        """Destroy what the keyring has of whomever these records name, be they known here or not."""
        keyring = self._config.keyring
        closed = {record.tenant_id for record in records if record.entry is Entry.CLOSING and record.tenant_id}
        closed -= set(self._view.closing(closed))
        destroyed = sum(keyring.destroy_tenant(tenant_id) for tenant_id in sorted(closed))
        for tenant_id, erasures in _erased(records).items():
            # Asked first: of a long ledger hardly anybody is there, and to destroy nothing waits for a disk, too.
            linked = {subject_id for subject_id in erasures if self._has_key(tenant_id, subject_id)}
            if linked:
                # The certificate of whoever is being erased here needs the key until then.
                linked -= set(self._view.frozen(system_predicate(tenant_id, _COMPONENT), linked))
            destroyed += sum(keyring.destroy_subject(tenant_id, subject_id) for subject_id in sorted(linked))
        return destroyed

    def _has_key(self, tenant_id: str, subject_id: str) -> bool:
        try:
            return self._config.keyring.subject_key(tenant_id, subject_id) is not None
        except SealBrokenError:
            # It opens nothing, and there is a link beside it all the same.
            return True

    def _erase_again(self, predicate: TenantPredicate, subject_id: str, erasure_id: str) -> None:
        """As the erasure did, from its freeze on; each step may be done again."""
        details: dict[str, str] = {"erasure_id": erasure_id, "of": "erasure_ledger"}

        def draft(action: Action) -> AuditDraft:
            return self._audit.draft(
                predicate.scope, action, subject_id=subject_id, category=Category.ADMINISTRATION, details=dict(details)
            )

        now, audit = self._config.clock(), draft(Action.ERASURE)
        received = Received(erasure_id, subject_id, now, months_later(now, MONTHS), None, None)
        erasure = self._store.freeze(
            predicate,
            received,
            Confirmation(audit.actor.id, None, None, again=True),
            intent=draft(Action.ERASURE_STEP),
            audit=audit,
        )
        # Whatever state that found it in, a legal hold of then included: its key is destroyed since.
        self._erasing.complete(predicate, erasure, audit)
        failpoints.reach("replay.erased")

    def _draft(self) -> AuditDraft:
        scope = system_predicate(_INSTALLATION, _COMPONENT).scope
        return self._audit.draft(scope, Action.BACKUP_REPLAY, category=Category.ADMINISTRATION)


def _erased(records: Sequence[LedgerRecord]) -> dict[str, dict[str, str]]:
    """By tenant, the subjects that were erased, and by which erasure."""
    named: dict[str, dict[str, str]] = {}
    for record in records:
        if record.entry is Entry.ERASURE and record.tenant_id and record.subject_id:
            named.setdefault(record.tenant_id, {})[record.subject_id] = record.reference or new_event_id()
    return named
