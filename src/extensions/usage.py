"""What was used, and whether more may be."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, runtime_checkable

USAGE_TRACKER_VERSION = "1.0.0"
"""Semantic version of `UsageTracker`."""


@runtime_checkable
class UsageTracker(Protocol):
    """Meters what tenants use and knows their limits.

    `check_quota` followed by a write is a forecast, not a guarantee: of many writers that ask at once, each may be
    told yes. An exact limit takes a reservation inside the write's transaction, which this protocol cannot express.
    """

    def track(self, operation: str, tokens: int, metadata: dict[str, Any]) -> None:
        """Record that something was used.

        Args:
            operation: What was done, such as `memory.retrieve`.
            tokens: How many tokens or units it took, ≥ 0.
            metadata: At least `tenant_id`; no content.
        """
        ...

    def check_quota(self, tenant_id: str, operation: str) -> tuple[bool, str | None]:
        """Whether the tenant's quota leaves room for one more operation now.

        Args:
            tenant_id: The tenant's id.
            operation: What is to be done.

        Returns:
            `(True, None)`, or `(False, reason)` with a reason for people.
        """
        ...

    def get_usage_summary(
        self, tenant_id: str, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, Any]:
        """What the tenant used in a period.

        Args:
            tenant_id: The tenant's id.
            start_date: First moment of the period; `None` for the beginning of the current one.
            end_date: End of the period, itself outside; `None` for now.

        Returns:
            Totals by name, with `period_start` and `period_end`.
        """
        ...
