"""What was used, for those who may see it: balances now, totals of a period, days and months of the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from cloud.audit.model import Category, Outcome
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import UnknownTenantError
from cloud.usage.advice import READS, WRITES
from cloud.usage.model import Meter, PeriodUsage, month_of
from cloud.usage.ports import UsageStore
from src.memory.schemas import as_utc


class Reports:
    """Reads usage for admitted callers; reading it is recorded."""

    def __init__(self, store: UsageStore, clock: Clock, admission: Admission, audit: TransactionalAuditLogger) -> None:
        self._store = store
        self._clock = clock
        self._admission = admission
        self._audit = audit

    def summary(self, tenant_id: str, start_date: datetime | None, end_date: datetime | None) -> dict[str, object]:
        """As `CloudUsageTracker.get_usage_summary`."""
        draft = self._audit.draft(
            self._admission.admit_to(tenant_id, Action.USAGE_READ), Action.USAGE_READ, category=Category.ADMINISTRATION
        )
        with recorded_failure(self._audit, draft, tenant_id):
            found = self._summary(tenant_id, start_date, end_date)
        self._audit.record(tenant_id, draft, Outcome.ALLOWED)
        return found

    def daily(self, tenant_id: str, since: datetime | None, until: datetime | None) -> list[PeriodUsage]:
        """As `CloudUsageTracker.daily`."""
        return self._periods(tenant_id, "day", since, until)

    def monthly(self, tenant_id: str, since: datetime | None, until: datetime | None) -> list[PeriodUsage]:
        """As `CloudUsageTracker.monthly`."""
        return self._periods(tenant_id, "month", since, until)

    def _summary(self, tenant_id: str, start_date: datetime | None, end_date: datetime | None) -> dict[str, object]:
        end = as_utc(end_date) if end_date else self._clock()
        start = as_utc(start_date) if start_date else month_of(end)
        balances = self._store.balances(tenant_id, tuple(Meter))
        if balances is None:
            raise UnknownTenantError
        totals = self._store.operations(tenant_id, start=start, end=end)
        stock = balances[Meter.MEMORIES]
        return {
            "total_tokens": sum(tokens for _, tokens in totals.values()),
            "total_queries": sum(operations for name, (operations, _) in totals.items() if name in READS),
            "total_ingests": sum(operations for name, (operations, _) in totals.items() if name in WRITES),
            "storage_bytes": balances[Meter.STORED_BYTES].used,
            "quota_remaining": stock.remaining,
            "period_start": start,
            "period_end": end,
            "memories": {"used": stock.used, "limit": stock.limit},
            "meters": {
                meter.value: {
                    "used": balances[meter].used,
                    "held": balances[meter].held,
                    "limit": balances[meter].limit,
                    "unit": meter.unit,
                    "resets_at": meter.resets_at(self._clock()),
                }
                for meter in Meter
            },
        }

    def _periods(
        self, tenant_id: str, unit: Literal["day", "month"], since: datetime | None, until: datetime | None
    ) -> list[PeriodUsage]:
        draft = self._audit.draft(
            self._admission.admit_to(tenant_id, Action.USAGE_READ), Action.USAGE_READ, category=Category.ADMINISTRATION
        )
        with recorded_failure(self._audit, draft, tenant_id):
            end = as_utc(until) if until else self._clock()
            month = month_of(end)
            start = as_utc(since) if since else month if unit == "day" else month.replace(month=1)
            found = self._store.periods(tenant_id, unit, start=start, end=end)
        self._audit.record(tenant_id, draft, Outcome.ALLOWED, counts={"periods": len(found)})
        return found
