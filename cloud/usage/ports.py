"""What usage needs, and what a tracker must offer to take part in a write's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, runtime_checkable

from cloud.kernel.errors import QuotaExceededError
from cloud.usage.model import Balance


@runtime_checkable
class TransactionalUsageTracker(Protocol):
    """Beside the published protocol: quota decided inside the write's own transaction.

    The write's server function reserves and commits under one lock. This port tells it that the tracker accepts that
    authority, and hears what it decided. A tracker without it could only check first and count later, which lets
    concurrent writers pass a limit together; the cloud provider refuses it.
    """

    def observed(self, tenant_id: str, *, used: int, limit: int | None) -> None:
        """A write committed and found this balance of `memories`."""
        ...

    def denied(self, tenant_id: str, *, requested: int) -> QuotaExceededError | None:
        """The error behind a negative advice, or `None` if there is no balance to tell of (an unknown tenant)."""
        ...

    def exceeded(self, tenant_id: str, *, meter: str, used: int, limit: int, requested: int) -> QuotaExceededError:
        """The error for a write that was not admitted."""
        ...


class UsageStore(Protocol):
    """Balances and metered events of a tenant."""

    def balance(self, tenant_id: str) -> Balance | None:
        """The balance of `memories` now, or `None` for an unknown tenant."""
        ...

    def append(self, tenant_id: str, *, event_id: str, operation: str, tokens: int) -> bool:
        """Keep one metered event; `False` if there is no such tenant."""
        ...

    def totals(self, tenant_id: str, *, start: datetime, end: datetime) -> dict[str, tuple[int, int]]:
        """Events and tokens per operation from `start` (inclusive) to `end` (exclusive)."""
        ...

    def storage_bytes(self, tenant_id: str) -> int:
        """Sealed bytes of the memories in stock."""
        ...
