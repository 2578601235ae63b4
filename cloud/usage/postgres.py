"""Balances and metered events in the control plane, read and written below row-level security."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import memories, tenants, usage_events
from cloud.usage.model import Balance, Meter

_T = TypeVar("_T")

_BALANCE = sa.text(
    "SELECT u.used, CASE WHEN t.limits ? 'memories' THEN (t.limits->>'memories')::bigint ELSE l.limit_value END"
    " FROM usage_counters u JOIN tenants t USING (tenant_id)"
    " LEFT JOIN plan_limits l ON l.plan = t.plan AND l.meter = u.meter"
    " WHERE u.tenant_id = :tenant AND u.meter = 'memories'"
)


class PostgresUsageStore:
    """`UsageStore` on the control plane, as the request path's role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def balance(self, tenant_id: str) -> Balance | None:
        row = self._within(tenant_id, lambda c: c.execute(_BALANCE, {"tenant": tenant_id}).one_or_none())
        return None if row is None else Balance(Meter.MEMORIES, used=row[0], limit=row[1])

    def append(self, tenant_id: str, *, event_id: str, operation: str, tokens: int) -> bool:
        statement = (
            insert(usage_events)
            .values(event_id=event_id, tenant_id=tenant_id, operation=operation, tokens=tokens)
            .on_conflict_do_nothing()
        )

        def work(connection: sa.Connection) -> bool:
            if connection.execute(sa.select(tenants.c.state).where(tenants.c.tenant_id == tenant_id)).first() is None:
                return False
            connection.execute(statement)
            return True

        return self._within(tenant_id, work)

    def totals(self, tenant_id: str, *, start: datetime, end: datetime) -> dict[str, tuple[int, int]]:
        table = usage_events.c
        query = (
            sa.select(table.operation, sa.func.count(), sa.func.coalesce(sa.func.sum(table.tokens), 0))
            .where(table.tenant_id == tenant_id, table.occurred_at >= start, table.occurred_at < end)
            .group_by(table.operation)
        )
        rows = self._within(tenant_id, lambda c: c.execute(query).all())
        return {operation: (int(events), int(tokens)) for operation, events, tokens in rows}

    def storage_bytes(self, tenant_id: str) -> int:
        query = sa.select(sa.func.coalesce(sa.func.sum(memories.c.size_bytes), 0)).where(
            memories.c.tenant_id == tenant_id, memories.c.state == "active"
        )
        return int(self._within(tenant_id, lambda c: c.execute(query).scalar_one()))

    def _within(self, tenant_id: str, work: Callable[[sa.Connection], _T]) -> _T:
        def entered(connection: sa.Connection) -> _T:
            connection.execute(sa.text("SELECT set_config('luminescent.tenant', :t, true)"), {"t": tenant_id})
            return work(connection)

        return self._engine.transaction(entered)
