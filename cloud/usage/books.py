"""`UsageBooks` on the control plane, as the maintenance role: sums up month by month, so that no statement is long."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from cloud.audit.event_rows import is_recorded
from cloud.audit.model import AuditDraft, Outcome
from cloud.kernel.ids import new_event_id
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import subjects, tenants, usage_counters, usage_events
from cloud.usage.model import LEDGER_METERS, Kind, Meter, month_of, next_month
from cloud.usage.reconciliation import STOCK_PERIOD, Books, Difference, differences

_LOCK: Final = sa.text("SELECT lc_lock(:tenant)")
_MONTHS: Final = sa.select(sa.func.min(usage_events.c.occurred_at), sa.func.max(usage_events.c.occurred_at))
_STOCK: Final = sa.text(
    "SELECT count(*), coalesce(sum(size_bytes), 0) FROM memories WHERE tenant_id = :tenant AND state = 'active'"
)
_PEOPLE: Final = sa.text(
    "SELECT s.subject_id::text, s.memories, count(m.memory_id) FROM subjects s"
    " LEFT JOIN memories m ON m.subject_id = s.subject_id AND m.tenant_id = s.tenant_id AND m.state = 'active'"
    " WHERE s.tenant_id = :tenant GROUP BY s.subject_id HAVING s.memories <> count(m.memory_id)"
)
# Counters and ledger of a month in one statement, which sees one moment: reads are charged without the tenant's lock.
_MONTH: Final = sa.text(
    "SELECT c.meter, c.used, l.* FROM"
    " (SELECT sum(memories), sum(stored_bytes), sum(writes), sum(reads), sum(tokens) FROM usage_events"
    "   WHERE tenant_id = :tenant AND occurred_at >= :first AND occurred_at < :next)"
    "   AS l (memories, stored_bytes, writes, reads, tokens)"
    " LEFT JOIN (SELECT meter, sum(used) AS used FROM usage_counters WHERE tenant_id = :tenant AND period = :period"
    "   GROUP BY meter) AS c ON true"
)
_APPEND: Final = sa.text("SELECT lc_record(:tenant, :event, :outcome, NULL, :ids, :counts)").bindparams(
    sa.bindparam("event", type_=JSONB),
    sa.bindparam("counts", type_=JSONB),
    sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False)), value=[]),
)


class PostgresUsageBooks:
    """`UsageBooks` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def tenants(self) -> list[str]:
        query = sa.select(tenants.c.tenant_id).order_by(tenants.c.tenant_id)
        return [str(tenant_id) for (tenant_id,) in self._engine.rows(query)]

    def differences(self, tenant_id: str) -> list[Difference]:
        # One view for all statements: charges that commit meanwhile are in no book yet.
        return self._engine.transaction(
            lambda connection: differences(tenant_id, _books(connection, tenant_id)), isolation="REPEATABLE READ"
        )

    def repair(self, tenant_id: str, audit: AuditDraft) -> list[Difference]:
        mended: list[Difference] = []

        def work(connection: sa.Connection) -> list[Difference]:
            nonlocal mended
            # Nobody else charges anything but reads until this commits, and no two repairs mend the same difference.
            connection.execute(_LOCK, {"tenant": tenant_id})
            if is_recorded(connection, tenant_id, audit):
                # By the attempt before, whose answer was lost: nothing differs any more.
                return mended
            found = differences(tenant_id, _books(connection, tenant_id))
            for difference in found:
                _mend(connection, difference)
            _correct_ledger(connection, tenant_id, found)
            connection.execute(
                _APPEND,
                {
                    "tenant": tenant_id,
                    "event": audit.document(),
                    "outcome": Outcome.ALLOWED.value,
                    "counts": {"repaired": len(found)},
                },
            )
            mended = found
            return found

        return self._engine.transaction(work)


def _books(connection: sa.Connection, tenant_id: str) -> Books:
    counters: defaultdict[tuple[Meter, date], int] = defaultdict(int)
    ledger: defaultdict[tuple[Meter, date], int] = defaultdict(int)
    for month in _months(connection, tenant_id):
        period = month.date()
        parameters = {"tenant": tenant_id, "first": month, "next": next_month(month), "period": period}
        rows = connection.execute(_MONTH, parameters).mappings().all()
        counters.update({(Meter(row["meter"]), period): int(row["used"]) for row in rows if row["meter"] is not None})
        for meter in LEDGER_METERS:
            # The ledger's sums stand in each row alike.
            ledger[meter, period if meter.kind is Kind.FLOW else STOCK_PERIOD] += int(rows[0][meter.value] or 0)
    stocks = sa.select(usage_counters.c.meter, usage_counters.c.used).where(
        usage_counters.c.tenant_id == tenant_id, usage_counters.c.period == STOCK_PERIOD
    )
    for name, used in connection.execute(stocks):
        counters[Meter(name), STOCK_PERIOD] += int(used)
    memories, stored_bytes = connection.execute(_STOCK, {"tenant": tenant_id}).one()
    people = connection.execute(_PEOPLE, {"tenant": tenant_id}).all()
    return Books(
        counters=counters,
        ledger=ledger,
        stock={Meter.MEMORIES: int(memories), Meter.STORED_BYTES: int(stored_bytes)},
        people={subject_id: (int(counted), int(actual)) for subject_id, counted, actual in people},
    )


def _months(connection: sa.Connection, tenant_id: str) -> list[datetime]:
    """Every month that the ledger or a counter speaks of."""
    first, last = connection.execute(_MONTHS.where(usage_events.c.tenant_id == tenant_id)).one()
    months = {month_of(moment) for moment in (first, last) if moment is not None}
    if months:
        month = min(months)
        while month < max(months):
            month = next_month(month)
            months.add(month)
    counted = sa.select(usage_counters.c.period).where(usage_counters.c.tenant_id == tenant_id).distinct()
    for (period,) in connection.execute(counted):
        if period != STOCK_PERIOD:
            months.add(datetime(period.year, period.month, 1, tzinfo=UTC))
    return sorted(months)


def _mend(connection: sa.Connection, difference: Difference) -> None:
    if difference.subject_id is not None:
        connection.execute(
            sa.update(subjects)
            .where(subjects.c.tenant_id == difference.tenant_id, subjects.c.subject_id == difference.subject_id)
            .values(memories=difference.expected)
        )
        return
    table = usage_counters.c
    period = difference.period or STOCK_PERIOD
    ours = (
        (table.tenant_id == difference.tenant_id) & (table.meter == difference.meter.value) & (table.period == period)
    )
    missing = difference.expected - difference.counted
    if missing > 0:
        # By what is missing, not to what it should be: reads may have been charged since the books were read.
        row = {"tenant_id": difference.tenant_id, "meter": difference.meter.value, "period": period, "shard": 0}
        statement = insert(usage_counters).values(**row, used=missing)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(row), set_={"used": table.used + statement.excluded.used}
            )
        )
        return
    query = sa.select(table.shard, table.used).where(ours).order_by(table.shard).with_for_update()
    for shard, used in connection.execute(query).all():
        taken = min(int(used), -missing)
        missing += taken
        connection.execute(sa.update(usage_counters).where(ours, table.shard == shard).values(used=table.used - taken))


def _correct_ledger(connection: sa.Connection, tenant_id: str, found: list[Difference]) -> None:
    """One more entry, where the ledger's stocks are not what is there: no entry is ever changed."""
    deltas = {
        difference.meter.value: difference.actual - difference.ledger
        for difference in found
        if difference.actual is not None and difference.ledger is not None and difference.actual != difference.ledger
    }
    if deltas:
        connection.execute(
            sa.insert(usage_events).values(
                event_id=new_event_id(), tenant_id=tenant_id, operation="usage.reconcile", **deltas
            )
        )
