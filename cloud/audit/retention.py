"""How long events of a log are kept, and where: decided purely, by the month in which they got their leaves.

Rules

1. A month is archived once it lies wholly before the log's time in the database, and a week has passed since its end.
2. An archive is deleted once its month, and its newest event, are older than the log's retention and than the legal
   minimum. Where the retention has no end, never.
3. The legal minimum is above everything: no plan, and no change of a plan, shortens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from cloud.kernel.ids import SYSTEM_LOG

FLOOR: Final = timedelta(days=7)
"""What stays in the database after the end of its month, whatever a plan says; the database itself holds to it."""
MAX_DAYS: Final = 36_500


class Month(NamedTuple):
    """A month of UTC; months are ordered by time."""

    year: int
    month: int

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """The month in which an aware instant lies."""
        utc = instant.astimezone(UTC)
        return cls(utc.year, utc.month)

    @property
    def begins(self) -> datetime:
        """Its first instant."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """The first instant after it."""
        return (self.begins + timedelta(days=31)).replace(day=1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"


@dataclass(frozen=True, slots=True)
class AuditRetention:
    """How long a log's events are kept.

    Attributes:
        online_days: Days in the database; `None` has no end.
        kept_days: Days in all, in the database and in archives; `None` has no end.
    """

    online_days: int | None = None
    kept_days: int | None = None


FOREVER: Final = AuditRetention()


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What is kept how long in an installation.

    Attributes:
        plans: What each plan says.
        minimum_days: The legal minimum.
    """

    plans: Mapping[str, AuditRetention]
    minimum_days: int

    def of(self, log_id: str, plan: str | None) -> AuditRetention:
        """What holds for a log.

        Args:
            log_id: The log. That of the system is kept as long as the plan that keeps longest.
            plan: Its tenant's plan. A tenant keeps one that is gone from the plan file; nobody knows any more what it
                promised, so its log is kept as long as the system's.
        """
        found = self.plans.get(plan) if plan is not None and log_id != SYSTEM_LOG else None
        return longest(self.plans.values()) if found is None else found


def longest(plans: Iterable[AuditRetention]) -> AuditRetention:
    """The longest time in the database, and the longest in all."""
    every = list(plans)
    return AuditRetention(_longest(one.online_days for one in every), _longest(one.kept_days for one in every))


def _longest(days: Iterable[int | None]) -> int | None:
    every = list(days)
    known = [one for one in every if one is not None]
    return max(known) if known and len(known) == len(every) else None


def archived_from(month: Month, retention: AuditRetention) -> datetime | None:
    """When a month of a log may leave the database, or `None` for never."""
    if retention.online_days is None:
        return None
    return month.ends + max(timedelta(days=retention.online_days), FLOOR)


def deleted_from(month: Month, newest: datetime, retention: AuditRetention, *, minimum_days: int) -> datetime | None:
    """When the archive of a month may be deleted, or `None` for never.

    Args:
        month: The month.
        newest: Time of its newest event: a clock that ran ahead may have put it after the month.
        retention: What holds for its log.
        minimum_days: The legal minimum.
    """
    if retention.kept_days is None:
        return None
    return max(month.ends, newest) + timedelta(days=max(retention.kept_days, minimum_days))
