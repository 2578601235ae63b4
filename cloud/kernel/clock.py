"""The clock, as a port: tests move it, nothing below start-up asks the operating system itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present as an aware UTC datetime."""


def system_clock() -> datetime:
    """The operating system's time, in UTC."""
    return datetime.now(UTC)
