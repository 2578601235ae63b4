"""Retention: memories of a type that a tenant's plan keeps for so many days are deleted when they are older.

Rules
1. A memory is as old as its `created_at` says; one that was imported with an old one is old.
2. It is deleted as anybody would delete it: softly, with its stock given back, and purged like every deleted memory.
3. What a legal hold keeps, or whose person is being erased, stays; the ledger decides that, under the tenant's lock.
4. A batch is one transaction with one event. What is interrupted is gone on with by the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from cloud.audit.model import Actor, AuditDraft, Category
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.scope import PrincipalKind, TenantPredicate
from cloud.memory.managed_ports import RetentionLedger
from cloud.memory.ports import Rows
from src.memory.schemas import MemoryType

BATCH: Final = 500
_FIRST: Final = ""

Rules = Mapping[str, Mapping[MemoryType, int]]
"""Days by memory type, by name of the plan."""


class Retainer:
    """Deletes what plans keep no longer.

    Args:
        ledger: Says which tenants there are, and deletes.
        rows: The data plane, which knows the types.
        rules: The plans' rules.
        predicate_for: Makes the predicate under which a tenant's rows are looked at.
        clock: The present, UTC.
    """

    def __init__(
        self,
        ledger: RetentionLedger,
        rows: Rows,
        rules: Rules,
        predicate_for: Callable[[str], TenantPredicate],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._rows = rows
        self._rules = rules
        self._predicate_for = predicate_for
        self._clock = clock

    def run(self) -> dict[str, int]:
        """Delete what is too old; returns how many memories, by tenant.

        Raises:
            ProviderUnavailableError: A plane did not answer; what was done stays done.
        """
        done: dict[str, int] = {}
        if not any(self._rules.values()):
            return done
        for tenant_id, plan in self._ledger.plans():
            days = self._rules.get(plan, {})
            if not days:
                continue
            work = partial(self._of_tenant, tenant_id, days)
            deleted = telemetry.named(Action.MEMORY_RETAIN.value, tenant_id, work)
            if deleted:
                done[tenant_id] = deleted
        return done

    def _of_tenant(self, tenant_id: str, days: Mapping[MemoryType, int]) -> int:
        predicate, now = self._predicate_for(tenant_id), self._clock()
        return sum(
            self._of_type(predicate, placement, memory_type, now - timedelta(days=kept))
            for placement in self._ledger.placements(predicate)
            for memory_type, kept in days.items()
        )

    def _of_type(self, predicate: TenantPredicate, placement: str, memory_type: MemoryType, before: datetime) -> int:
        deleted, after = 0, _FIRST
        # What was deleted stays there until it is purged: pages, or it would be looked at for ever.
        while seen := self._rows.older(predicate, placement, memory_type.value, before, after=after, limit=BATCH):
            # What was changed since may be of another type or younger: its newest revision is looked at the next time.
            deleted += self._ledger.retain(predicate, seen, _of_the_service(predicate))
            after = next(reversed(seen))
        return deleted


def _of_the_service(predicate: TenantPredicate) -> AuditDraft:
    scope = predicate.scope
    return AuditDraft(
        Action.MEMORY_RETAIN,
        Actor(PrincipalKind.SYSTEM, scope.principal.name),
        scope.request_id,
        scope.trace_id,
        category=Category.ADMINISTRATION,
    )
