"""Balances, ledger and reservations in the control plane, read and written below row-level security."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from cloud.audit.model import AuditDraft
from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import subjects, usage_events
from cloud.usage.model import LEDGER_METERS, Balance, Meter, PeriodUsage, Reservation
from cloud.usage.ports import QuotaRefusal, Settled, TenantNotServed

_T = TypeVar("_T")

_EVENT: Final = sa.bindparam("event", type_=JSONB)
_STANDING = sa.text("SELECT lc_standing(:tenant, :meters, lc_limits(:tenant), lc_now())").bindparams(
    sa.bindparam("meters", type_=ARRAY(sa.Text()))
)
_TRACK = sa.text("SELECT lc_track(:tenant, CAST(:entry AS uuid), :operation, :tokens, :event, :retry)").bindparams(
    _EVENT
)
_RESERVE = sa.text(
    "SELECT lc_reserve(:tenant, CAST(:reservation AS uuid), :meter, :amount, :ttl_s, :event, :retry)"
).bindparams(_EVENT)
_SETTLE = sa.text("SELECT lc_settle(:tenant, CAST(:reservation AS uuid), :commit, :actual, :event, :retry)").bindparams(
    _EVENT, sa.bindparam("actual", type_=sa.BigInteger())
)


class PostgresUsageStore:
    """`UsageStore` on the control plane, as the request path's role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def balances(self, tenant_id: str, meters: Collection[Meter]) -> dict[Meter, Balance] | None:
        def work(connection: sa.Connection) -> dict[Meter, Balance] | None:
            standing = connection.execute(_STANDING, {"tenant": tenant_id, "meters": list(meters)}).scalar_one()
            if standing["limits"] is None:
                return None
            used, held, limits = standing["used"], standing["held"], standing["limits"]
            if Meter.MEMORIES_PER_SUBJECT in meters:
                most = sa.select(sa.func.max(subjects.c.memories)).where(subjects.c.tenant_id == tenant_id)
                used[Meter.MEMORIES_PER_SUBJECT] = connection.execute(most).scalar()
            return {
                meter: Balance(meter, used=used.get(meter) or 0, limit=limits.get(meter), held=held.get(meter) or 0)
                for meter in meters
            }

        return self._within(tenant_id, work)

    def track(self, tenant_id: str, *, entry_id: str, operation: str, tokens: int, audit: AuditDraft) -> bool:
        answer = self._call(
            _TRACK, audit, {"tenant": tenant_id, "entry": entry_id, "operation": operation, "tokens": tokens}
        )
        return bool(answer["outcome"] == "kept")

    def reserve(
        self, wanted: Reservation, *, ttl_s: float, audit: AuditDraft
    ) -> Reservation | QuotaRefusal | TenantNotServed:
        answer = self._call(
            _RESERVE,
            audit,
            {
                "tenant": wanted.tenant_id,
                "reservation": wanted.reservation_id,
                "meter": wanted.meter.value,
                "amount": wanted.amount,
                "ttl_s": ttl_s,
            },
        )
        match answer["outcome"]:
            case "held":
                return replace(wanted, expires_at=datetime.fromisoformat(answer["expires_at"]))
            case "quota":
                return quota_refusal(answer)
            case "refused":
                return TenantNotServed(answer["reason"])
            case _:
                raise ProviderUnavailableError("control plane", reason="answered what this version does not know")

    def settle(
        self, tenant_id: str, reservation_id: str, *, commit: bool, actual: int | None, audit: AuditDraft
    ) -> Settled | TenantNotServed:
        answer = self._call(
            _SETTLE, audit, {"tenant": tenant_id, "reservation": reservation_id, "commit": commit, "actual": actual}
        )
        match answer["outcome"]:
            case "committed" | "released" | "absent" as state:
                return Settled(state, int(answer.get("actual") or 0))
            case "refused":
                return TenantNotServed(answer["reason"])
            case _:
                raise ProviderUnavailableError("control plane", reason="answered what this version does not know")

    def operations(self, tenant_id: str, *, start: datetime, end: datetime) -> dict[str, tuple[int, int]]:
        table = usage_events.c
        query = (
            sa.select(table.operation, sa.func.count(), sa.func.sum(table.tokens))
            .where(table.tenant_id == tenant_id, table.occurred_at >= start, table.occurred_at < end)
            .group_by(table.operation)
        )
        rows = self._within(tenant_id, lambda c: c.execute(query).all())
        return {operation: (int(events), int(tokens)) for operation, events, tokens in rows}

    def periods(
        self, tenant_id: str, unit: Literal["day", "month"], *, start: datetime, end: datetime
    ) -> list[PeriodUsage]:
        table = usage_events.c
        begun = sa.func.date_trunc(unit, sa.func.timezone("UTC", table.occurred_at)).label("begun")
        query = (
            sa.select(begun, sa.func.count(), *(sa.func.sum(table[meter.value]) for meter in LEDGER_METERS))
            .where(table.tenant_id == tenant_id, table.occurred_at >= start, table.occurred_at < end)
            .group_by(begun)
            .order_by(begun)
        )
        rows = self._within(tenant_id, lambda c: c.execute(query).all())
        return [
            PeriodUsage(
                first.replace(tzinfo=UTC),
                int(operations),
                {meter: int(units) for meter, units in zip(LEDGER_METERS, deltas, strict=True)},
            )
            for first, operations, *deltas in rows
        ]

    def _call(self, statement: sa.TextClause, audit: AuditDraft, parameters: Mapping[str, object]) -> dict[str, Any]:
        bound = {**parameters, "event": audit.document()}
        return cast("dict[str, Any]", self._engine.call(statement, bound, retry_parameter="retry"))

    def _within(self, tenant_id: str, work: Callable[[sa.Connection], _T]) -> _T:
        def entered(connection: sa.Connection) -> _T:
            connection.execute(sa.text("SELECT set_config('luminescent.tenant', :t, true)"), {"t": tenant_id})
            return work(connection)

        return self._engine.transaction(entered)


def quota_refusal(answer: Mapping[str, Any]) -> QuotaRefusal:
    """The refusal that a server function answered with."""
    resets_at = answer["resets_at"]
    return QuotaRefusal(
        meter=answer["meter"],
        used=answer["used"],
        limit=answer["limit"],
        requested=answer["requested"],
        resets_at=datetime.fromisoformat(resets_at) if resets_at else None,
    )
