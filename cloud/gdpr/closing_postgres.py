"""`ClosingStore` on the control plane, as the maintenance role; each statement names the predicate's tenant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.model import ErasureState
from cloud.gdpr.postgres import give_back
from cloud.gdpr.requests_postgres import lock_tenant
from cloud.gdpr.states import ENDED
from cloud.kernel.access import Action
from cloud.kernel.errors import LegalHoldError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.placement_store import placements_of
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import (
    api_keys,
    erasures,
    idempotency_keys,
    intake,
    legal_holds,
    memories,
    memory_changes,
    subjects,
    tenant_closings,
    tenants,
)
from cloud.tenancy.model import TenantState
from cloud.tenancy.postgres import append_event

_ENDED: Final = sorted(state.value for state in ENDED)
_ABOUT_PEOPLE: Final = (intake, memory_changes, memories, idempotency_keys, api_keys, subjects)
"""Tables with rows about people, each before those that it refers to."""


class PostgresClosingStore:
    """`ClosingStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def freeze(self, predicate: TenantPredicate, audit: AuditDraft) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            # A write looks at the state again once it holds this lock, so none commits after the freeze.
            lock_tenant(connection, tenant_id)
            if _is_held(connection, tenant_id):
                raise LegalHoldError()
            connection.execute(
                sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(state=TenantState.CLOSING.value)
            )
            first = connection.execute(
                insert(tenant_closings)
                .values(tenant_id=tenant_id)
                .on_conflict_do_nothing()
                .returning(tenant_closings.c.tenant_id)
            ).scalar()
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, reason="intent" if first else "resumed")

        self._engine.transaction(work)

    def keep_counts(self, predicate: TenantPredicate, counts: Mapping[str, int]) -> dict[str, int]:
        mine = tenant_closings.c.tenant_id == predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, int]:
            found = connection.execute(sa.select(tenant_closings.c.counts).where(mine).with_for_update()).scalar_one()
            kept = {name: max(count, found.get(name, 0)) for name, count in counts.items()}
            connection.execute(sa.update(tenant_closings).where(mine).values(counts=kept))
            return kept

        return self._engine.transaction(work)

    def delete_rows(self, predicate: TenantPredicate) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            lock_tenant(connection, tenant_id)
            stock, size_bytes = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(memories.c.size_bytes), 0)).where(
                    memories.c.tenant_id == tenant_id, memories.c.state == "active"
                )
            ).one()
            for table in _ABOUT_PEOPLE:
                connection.execute(sa.delete(table).where(table.c.tenant_id == tenant_id))
            if stock:
                give_back(connection, tenant_id, Action.TENANT_CLOSE, stock, int(size_bytes))

        self._engine.transaction(work)

    def count(self, predicate: TenantPredicate) -> dict[str, int]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, int]:
            return {
                f"control.{table.name}": int(
                    connection.execute(
                        sa.select(sa.func.count()).select_from(table).where(table.c.tenant_id == tenant_id)
                    ).scalar_one()
                )
                for table in _ABOUT_PEOPLE
            }

        return self._engine.transaction(work)

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def finish(
        self, predicate: TenantPredicate, audit: AuditDraft, counts: Mapping[str, int], *, complete: bool
    ) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            if complete:
                connection.execute(
                    sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(state=TenantState.CLOSED.value)
                )
                connection.execute(
                    sa.update(tenant_closings)
                    .where(tenant_closings.c.tenant_id == tenant_id)
                    .values(completed_at=sa.func.clock_timestamp())
                )
                # What its people asked for is done with it.
                connection.execute(
                    sa.update(erasures)
                    .where(erasures.c.tenant_id == tenant_id, erasures.c.state.not_in(_ENDED))
                    .values(
                        state=ErasureState.VERIFIED.value,
                        user_sealed=None,
                        completed_at=sa.func.clock_timestamp(),
                        changed_at=sa.func.clock_timestamp(),
                    )
                )
            outcome = Outcome.ALLOWED if complete else Outcome.FAILED
            reason = None if complete else "erasure_incomplete"
            append_event(connection, tenant_id, audit, outcome, reason=reason, counts=counts)

        self._engine.transaction(work)

    def unfinished(self) -> list[str]:
        query = sa.select(tenants.c.tenant_id).where(tenants.c.state == TenantState.CLOSING.value)
        return [str(tenant_id) for (tenant_id,) in self._engine.rows(query.order_by(tenants.c.tenant_id))]


def _is_held(connection: sa.Connection, tenant_id: str) -> bool:
    """Whether a legal hold keeps the tenant or anybody of it."""
    held = sa.select(sa.func.count()).select_from(legal_holds)
    held = held.where(legal_holds.c.tenant_id == tenant_id, legal_holds.c.released_at.is_(None))
    return connection.execute(held).scalar_one() > 0
