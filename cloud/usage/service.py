"""`CloudUsageTracker`: quotas that a write cannot pass, and summaries of what was used."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloud.audit.model import Category, Outcome
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.context import current_context
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    QuotaExceededError,
    UnknownTenantError,
)
from cloud.kernel.ids import is_tenant_id, new_event_id
from cloud.usage.model import Balance, Denied, Meter, decide
from cloud.usage.ports import UsageStore
from src.memory.schemas import as_utc

_TRUST_S: Final = 1.0
_ROOMY: Final = 1_000
_WRITES: Final = frozenset({Action.MEMORY_STORE.value, Action.MEMORY_STORE_MANY.value, "store", "ingest", "write"})
_QUERIES: Final = frozenset({"query", "search", "retrieve", "semantic_search"})


@dataclass(frozen=True, slots=True)
class _Seen:
    balance: Balance
    at_s: float


class CloudUsageTracker:
    """`UsageTracker` and `TransactionalUsageTracker` on the control plane.

    `check_quota` is advice given before a write; the reservation inside the write's transaction decides. So the
    advice may rest, for a second and while a thousand units are left, on the balance that the last write saw.

    Args:
        store: Balances and events.
        clock: The present, UTC.
    """

    def __init__(self, store: UsageStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._admission: Admission | None = None
        self._audit: TransactionalAuditLogger | None = None

    def use_admission(self, admission: Admission, audit: TransactionalAuditLogger) -> None:
        """Let tenancy decide who may see usage, and record who did. Called once by start-up."""
        self._admission = admission
        self._audit = audit

    def check_quota(self, tenant_id: str, operation: str) -> tuple[bool, str | None]:
        """Whether one more `operation` fits the tenant's quota, and why not.

        Args:
            tenant_id: The tenant; an unknown one has no quota.
            operation: Writes (`memory.store`, `ingest`, …) use the meter `memories`; reads are not limited.
        """
        if not is_tenant_id(tenant_id):
            return False, "unknown tenant"
        if operation not in _WRITES:
            return True, None
        balance = self._recent(tenant_id) or self._fresh(tenant_id)
        if balance is None:
            return False, "unknown tenant"
        match decide(balance, 1):
            case Denied(balance=full):
                return False, f"quota '{full.meter.value}' exceeded: {full.used} of {full.limit} used"
            case _:
                return True, None

    def track(self, operation: str, tokens: int, metadata: dict[str, object]) -> None:
        """Keep one metered event of foreign code, committed before this returns.

        Args:
            operation: What was done, at most 64 characters.
            tokens: Tokens or units, 0 or more.
            metadata: `tenant_id` names the tenant where there is no ambient one; nothing else of it is kept.

        Raises:
            AuthenticationError: No tenant is named, or there is none of that name.
            InvalidFilterError: `operation` or `tokens` are out of range.
        """
        ambient = current_context()
        tenant_id = ambient.tenant_id if ambient and ambient.tenant_id else metadata.get("tenant_id")
        if not isinstance(tenant_id, str) or not is_tenant_id(tenant_id):
            raise AuthenticationError("no_scope", "usage needs a tenant: set request_context or metadata['tenant_id']")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**53:
            raise InvalidFilterError(place="tokens", reason="must be a whole number from 0")
        if not isinstance(operation, str) or not operation.isprintable() or not 0 < len(operation) <= 64:
            raise InvalidFilterError(place="operation", reason="must be 1 to 64 printable characters")
        if not self._store.append(tenant_id, event_id=new_event_id(), operation=operation, tokens=tokens):
            raise UnknownTenantError

    def get_usage_summary(
        self, tenant_id: str, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, object]:
        """What the tenant used in a period, in the published shape.

        Args:
            tenant_id: The tenant.
            start_date: First moment included; the beginning of this month (UTC) when left out.
            end_date: First moment left out; now when left out.

        Returns:
            `total_tokens`, `total_queries`, `total_ingests`, `storage_bytes`, `quota_remaining` (`None` is
            unlimited), `period_start`, `period_end`, and `memories` with `used` and `limit`.

        Raises:
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The caller may not see this tenant's usage.
        """
        if self._admission is None or self._audit is None:
            raise ConfigurationError("the usage tracker was built without tenancy; use init_cloud_extensions")
        scope = self._admission.admit_to(tenant_id, Action.USAGE_READ)
        draft = self._audit.draft(scope, Action.USAGE_READ, category=Category.ADMINISTRATION)
        with recorded_failure(self._audit, draft, tenant_id):
            summary = self._summary(tenant_id, start_date, end_date)
        self._audit.record(tenant_id, draft, Outcome.ALLOWED)
        return summary

    def _summary(self, tenant_id: str, start_date: datetime | None, end_date: datetime | None) -> dict[str, object]:
        end = as_utc(end_date) if end_date else self._clock()
        start = as_utc(start_date) if start_date else end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        balance = self._fresh(tenant_id)
        if balance is None:
            raise UnknownTenantError
        totals = self._store.totals(tenant_id, start=start, end=end)
        return {
            "total_tokens": sum(tokens for _, tokens in totals.values()),
            "total_queries": sum(events for name, (events, _) in totals.items() if name in _QUERIES),
            "total_ingests": sum(events for name, (events, _) in totals.items() if name in _WRITES),
            "storage_bytes": self._store.storage_bytes(tenant_id),
            "quota_remaining": balance.remaining,
            "period_start": start,
            "period_end": end,
            "memories": {"used": balance.used, "limit": balance.limit},
        }

    # TransactionalUsageTracker

    def observed(self, tenant_id: str, *, used: int, limit: int | None) -> None:
        balance = Balance(Meter.MEMORIES, used=used, limit=limit)
        with self._lock:
            self._seen[tenant_id] = _Seen(balance, time.monotonic())

    def denied(self, tenant_id: str, *, requested: int) -> QuotaExceededError | None:
        with self._lock:
            seen = self._seen.get(tenant_id)
        if seen is None or seen.balance.limit is None:
            return None
        balance = seen.balance
        return self._error(balance.meter.value, balance.used, seen.balance.limit, requested)

    def exceeded(self, tenant_id: str, *, meter: str, used: int, limit: int, requested: int) -> QuotaExceededError:
        self.observed(tenant_id, used=used, limit=limit)
        return self._error(meter, used, limit, requested)

    @staticmethod
    def _error(meter: str, used: int, limit: int, requested: int) -> QuotaExceededError:
        # `memories` is a stock: no date gives it back, only deleting does.
        return QuotaExceededError(meter=meter, limit=limit, used=used, requested=requested, resets_at=None)

    def _recent(self, tenant_id: str) -> Balance | None:
        with self._lock:
            seen = self._seen.get(tenant_id)
        if seen is None or time.monotonic() - seen.at_s > _TRUST_S:
            return None
        remaining = seen.balance.remaining
        return seen.balance if remaining is None or remaining >= _ROOMY else None

    def _fresh(self, tenant_id: str) -> Balance | None:
        balance = self._store.balance(tenant_id)
        if balance is not None:
            self.observed(tenant_id, used=balance.used, limit=balance.limit)
        return balance
