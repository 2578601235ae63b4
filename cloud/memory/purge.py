"""Purge: what was deleted, expired or superseded long enough ago is removed from both planes for good.

Rules
1. A batch is marked, removed from Pixeltable, then removed from the ledger, each step committed before the next. A
   marked memory cannot be brought back, and as long as the ledger names it what is left of it elsewhere can be found:
   a purge that ends anywhere is gone on with by the next one.
2. It holds the locks of every table that may hold the tenant's rows, which materializer, mover and erasure take too:
   what is removed is not written meanwhile.
3. Two events a batch: the intent, with what is marked, and the outcome, with what was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cloud.audit.model import Actor, AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import PrincipalKind, TenantPredicate
from cloud.memory.managed_ports import PurgeLedger, Retention
from cloud.memory.materializer import placement_locks
from cloud.memory.ports import Rows
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration

BATCH: Final = 500
_LOCK_WAIT_S: Final = 20.0

Drafts = Callable[[TenantPredicate], AuditDraft]
Progress = Callable[[int], None]


class Purger:
    """Removes batches of memories that were kept long enough.

    Args:
        ledger: Says what is due, and forgets it.
        rows: The data plane.
        engine: Engine whose connections hold the placements' locks.
        predicate_for: Makes the predicate under which a tenant's rows are looked at.
        retention: How long they are kept.
    """

    def __init__(
        self,
        ledger: PurgeLedger,
        rows: Rows,
        engine: ControlEngine,
        predicate_for: Callable[[str], TenantPredicate],
        retention: Retention,
    ) -> None:
        self._ledger = ledger
        self._rows = rows
        self._engine = engine
        self._predicate_for = predicate_for
        self._retention = retention

    def run(
        self,
        *,
        drafts: Drafts | None = None,
        tenant_id: str | None = None,
        wait_s: float = 0.0,
        progress: Progress = lambda _: None,
    ) -> dict[str, int]:
        """Purge what is due, batch by batch; a tenant whose placement stays busy is left for another time.

        Args:
            drafts: Begins the events; as the service itself when left out.
            tenant_id: Only this tenant; all that have something due if `None`.
            wait_s: Seconds to wait for a placement.
            progress: Told after every batch how many memories are purged.

        Returns:
            How many memories were purged, by tenant.

        Raises:
            ProviderUnavailableError: A plane did not answer; what was done stays done.
        """
        purged: dict[str, int] = {}
        for due in self._ledger.due(self._retention, tenant_id=tenant_id):
            before = sum(purged.values())

            def told(done: int, before: int = before) -> None:
                progress(before + done)

            if drafts is None:
                work = partial(self._of_tenant, due, _of_the_service, wait_s, told)
                done = telemetry.named(Action.MEMORY_PURGE.value, due, work)
            else:
                done = self._of_tenant(due, drafts, wait_s, told)
            if done:
                purged[due] = done
        return purged

    def _of_tenant(self, tenant_id: str, drafts: Drafts, wait_s: float, progress: Progress) -> int:
        predicate, purged = self._predicate_for(tenant_id), 0
        while placements := self._ledger.placements(predicate):
            with placement_locks(self._engine, placements, wait_s=wait_s) as held:
                # It may have been moved while the locks were waited for.
                moved = self._ledger.placements(predicate) != placements
                done = self._batch(predicate, placements, drafts) if held and not moved else 0
            if not done:
                break
            purged += done
            progress(purged)
        return purged

    def _batch(self, predicate: TenantPredicate, placements: Sequence[str], drafts: Drafts) -> int:
        ids = self._ledger.begin(predicate, self._retention, batch=BATCH, audit=drafts(predicate))
        if not ids:
            return 0
        failpoints.reach("purge.selected")
        rows = sum(self._rows.remove(predicate, placement, ids) for placement in placements)
        failpoints.reach("purge.rows_deleted")
        done = self._ledger.end(predicate, ids, rows=rows, audit=drafts(predicate))
        failpoints.reach("purge.ledger_deleted")
        return done


def _of_the_service(predicate: TenantPredicate) -> AuditDraft:
    scope = predicate.scope
    return AuditDraft(
        Action.MEMORY_PURGE,
        Actor(PrincipalKind.SYSTEM, scope.principal.name),
        scope.request_id,
        scope.trace_id,
        category=Category.ADMINISTRATION,
    )


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed.

    Attributes:
        by_tenant: Memories by tenant; tenants of which nothing was due are left out.
    """

    by_tenant: dict[str, int]

    @property
    def total(self) -> int:
        """Memories of all tenants."""
        return sum(self.by_tenant.values())


class MemoryPurge:
    """Purges on an operator's word, and records who gave it.

    Args:
        purger: Does it.
        admissions: The door for administrators.
        audit: Records it.
    """

    def __init__(self, purger: Purger, admissions: Administration, audit: TransactionalAuditLogger) -> None:
        self._purger = purger
        self._admissions = admissions
        self._audit = audit

    @telemetry.operation()
    def purge(self, tenant_id: str | None = None, *, progress: Progress = lambda _: None) -> Purged:
        """Purge what is due now, of one tenant or of all.

        Args:
            tenant_id: Only this tenant; all if `None`.
            progress: Told after every batch how many memories are purged.

        Raises:
            AuthenticationError: There is no such tenant, or a credential does not hold.
            PermissionDeniedError: The caller is no operator.
            ProviderUnavailableError: A plane did not answer; repeating the call goes on.
        """
        if tenant_id is not None:
            admitted = self._admissions.administer(tenant_id, Action.MEMORY_PURGE)
            log_id, draft = tenant_id, replace(admitted.draft, category=Category.ADMINISTRATION)
        else:
            log_id, draft = SYSTEM_LOG, self._admissions.operate(Action.MEMORY_PURGE)

        def of_the_operator(_: TenantPredicate) -> AuditDraft:
            return AuditDraft(draft.action, draft.actor, draft.request_id, draft.trace_id, category=draft.category)

        with recorded_failure(self._audit, draft, log_id):
            done = self._purger.run(drafts=of_the_operator, tenant_id=tenant_id, wait_s=_LOCK_WAIT_S, progress=progress)
            purged = Purged(done)
            # The word itself, beside what was done to each tenant because of it.
            self._audit.record(
                log_id,
                draft,
                Outcome.ALLOWED,
                reason="requested",
                counts={"purged": purged.total, "tenants": len(purged.by_tenant)},
            )
        return purged
