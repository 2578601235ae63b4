"""Meters, balances, reservations and the decision about a quota, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from cloud.audit.retention import FOREVER, AuditRetention
from src.memory.schemas import MemoryType

UNLIMITED: Final = -1
MAX_LIMIT: Final = 2**53 - 1


class Kind(StrEnum):
    """How a meter counts."""

    STOCK = "stock"
    FLOW = "flow"


class Meter(StrEnum):
    """A named counter with a unit.

    Stocks count what is there now, and deleting gives it back: memories that are neither deleted, expired nor erased,
    the sealed bytes of these, and how many of them one person has. Flows count what was done in a month (UTC).
    """

    MEMORIES = "memories"
    STORED_BYTES = "stored_bytes"
    MEMORIES_PER_SUBJECT = "memories_per_subject"
    WRITES = "writes"
    READS = "reads"
    TOKENS = "tokens"

    @property
    def kind(self) -> Kind:
        """Whether it counts what is there, or what was done in a month."""
        return Kind.FLOW if self in _FLOWS else Kind.STOCK

    @property
    def unit(self) -> str:
        """What one unit is, in the plural."""
        return _UNITS[self]

    def resets_at(self, now: datetime) -> datetime | None:
        """When it starts anew, seen from `now`: the first of the next month (UTC) for a flow, `None` for a stock."""
        return next_month(now) if self.kind is Kind.FLOW else None


_FLOWS: Final = frozenset({Meter.WRITES, Meter.READS, Meter.TOKENS})
_UNITS: Final = {
    Meter.MEMORIES: "memories",
    Meter.STORED_BYTES: "bytes",
    Meter.MEMORIES_PER_SUBJECT: "memories of one person",
    Meter.WRITES: "memories written",
    Meter.READS: "reads",
    Meter.TOKENS: "tokens",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits.

    Attributes:
        name: Its name.
        limits: Limit of each meter in its unit; `None` is unlimited.
        retention_days: How many days after it was made a memory is deleted, by memory type; types that are missing
            are kept.
        audit: How long the audit logs of its tenants are kept; no meter, and no tenant's own limits change it.
    """

    name: str
    limits: Mapping[Meter, int | None]
    retention_days: Mapping[MemoryType, int] = field(default_factory=dict)
    audit: AuditRetention = FOREVER


@dataclass(frozen=True, slots=True)
class Balance:
    """What a tenant uses of one meter.

    Attributes:
        meter: Which.
        used: In use now, or used this month. Of `memories_per_subject` it is the person with the most.
        limit: At most, or `None` for unlimited.
        held: Reserved by work under way, and not used yet.
    """

    meter: Meter
    used: int
    limit: int | None
    held: int = 0

    @property
    def remaining(self) -> int | None:
        """What is left, or `None` for unlimited."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)


@dataclass(frozen=True, slots=True)
class Granted:
    """The request fits."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The request does not fit this balance."""

    balance: Balance


def decide(balance: Balance, requested: int) -> Granted | Denied:
    """Whether `requested` more units fit; the server function decides by the same rule under a lock."""
    if balance.limit is not None and balance.used + balance.held + requested > balance.limit:
        return Denied(balance)
    return Granted()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a flow that are held for work under way.

    Attributes:
        reservation_id: Its id.
        tenant_id: Whose quota it holds.
        meter: Of which meter.
        amount: How many units.
        expires_at: From when on they are free again, if nobody settles it before (UTC, by the control plane's clock).
    """

    reservation_id: str
    tenant_id: str
    meter: Meter
    amount: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """What a tenant used in a day or month, as the ledger has it.

    Attributes:
        start: Its first moment (UTC).
        operations: Charged operations.
        deltas: Units by meter; what stocks grew or shrank by. One person's memories are not in the ledger.
    """

    start: datetime
    operations: int
    deltas: Mapping[Meter, int]


LEDGER_METERS: Final = (Meter.MEMORIES, Meter.STORED_BYTES, Meter.WRITES, Meter.READS, Meter.TOKENS)
"""Meters that the ledger has a column for."""


def month_of(moment: datetime) -> datetime:
    """First moment of the month that `moment` is in (UTC)."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(moment: datetime) -> datetime:
    """First moment of the month after the one that `moment` is in (UTC)."""
    first = month_of(moment)
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
