"""What usage needs, and what a tracker must offer to take part in a write's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from cloud.audit.model import AuditDraft
from cloud.kernel.errors import QuotaExceededError
from cloud.usage.model import Balance, Meter, PeriodUsage, Reservation


@runtime_checkable
class TransactionalUsageTracker(Protocol):
    """Beside the published protocol: quota decided inside the write's own transaction.

    The write's server function reserves and commits under one lock. This port tells it that the tracker accepts that
    authority, and hears what it decided. A tracker without it could only check first and count later, which lets
    concurrent writers pass a limit together; the cloud provider refuses it.
    """

    def observed(self, tenant_id: str, balances: Sequence[Balance]) -> None:
        """A write committed and left these balances of the meters that it used."""
        ...

    def denied(self, tenant_id: str, *, requested: int) -> QuotaExceededError | None:
        """The error behind a negative advice on `requested` memories.

        `None` if there is no balance to tell of (an unknown tenant), or none that tells all facts without the write
        itself: then the write's transaction decides.
        """
        ...

    def exceeded(
        self, tenant_id: str, *, meter: str, used: int, limit: int, requested: int, resets_at: datetime | None
    ) -> QuotaExceededError:
        """The error for a write that was not admitted."""
        ...


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """It does not fit; nothing happened but that it is recorded.

    Attributes:
        meter: The meter that it does not fit.
        used: What is used of it or held by reservations.
        limit: Its limit.
        requested: What was asked for.
        resets_at: When the meter starts anew (UTC); `None` for a stock.
    """

    meter: str
    used: int
    limit: int
    requested: int
    resets_at: datetime | None

    def error(self) -> QuotaExceededError:
        """What the caller is told."""
        return QuotaExceededError(
            meter=self.meter, limit=self.limit, used=self.used, requested=self.requested, resets_at=self.resets_at
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """How a reservation ended.

    Attributes:
        state: `committed` or `released`; `absent` for one that the tenant does not have (any more).
        actual: Units booked.
    """

    state: Literal["committed", "released", "absent"]
    actual: int


@dataclass(frozen=True, slots=True)
class TenantNotServed:
    """The tenant is unknown or not active; the refusal is recorded."""

    reason: str


class UsageStore(Protocol):
    """Balances, ledger and reservations of a tenant; each change is one transaction that records itself."""

    def balances(self, tenant_id: str, meters: Collection[Meter]) -> dict[Meter, Balance] | None:
        """Balances of these meters now, or `None` for an unknown tenant."""
        ...

    def track(self, tenant_id: str, *, entry_id: str, operation: str, tokens: int, audit: AuditDraft) -> bool:
        """Book what was used already, once for each `entry_id`; `False` if there is no such tenant."""
        ...

    def reserve(
        self, wanted: Reservation, *, ttl_s: float, audit: AuditDraft
    ) -> Reservation | QuotaRefusal | TenantNotServed:
        """Hold units if they fit; the reservation comes back with the end of its time by the store's clock."""
        ...

    def settle(
        self, tenant_id: str, reservation_id: str, *, commit: bool, actual: int | None, audit: AuditDraft
    ) -> Settled | TenantNotServed:
        """End a reservation: book `actual` units of it (all, when left out), or none."""
        ...

    def operations(self, tenant_id: str, *, start: datetime, end: datetime) -> dict[str, tuple[int, int]]:
        """Charged operations and their tokens, by operation, from `start` (inclusive) to `end` (exclusive)."""
        ...

    def periods(
        self, tenant_id: str, unit: Literal["day", "month"], *, start: datetime, end: datetime
    ) -> list[PeriodUsage]:
        """The ledger summed up by day or month (UTC), oldest first; those without an operation are left out."""
        ...
