"""Looks at an installation, whole or broken, and says what is wrong and how to mend it.

A check is a function of the context that gives findings under its own name. Checks stand in a list and know nothing of
each other; what one of them needs it takes from the context, and where that cannot be had, the first to ask reports why
and the others are skipped. `CHECKS` is the whole list: a feature adds its own there.
"""

from __future__ import annotations

from typing import Final

from cloud.startup.doctor import audit, backups, database, host, keys, memories
from cloud.startup.doctor.context import Check, Context, examine

__all__ = ["CHECKS", "DATABASE_CHECKS", "Check", "Context", "examine"]

DATABASE_CHECKS: Final[tuple[Check, ...]] = database.CHECKS
"""What `db check` looks at."""

CHECKS: Final[tuple[Check, ...]] = (
    *host.CHECKS,
    *database.CHECKS,
    *keys.CHECKS,
    *memories.CHECKS,
    *audit.CHECKS,
    *backups.CHECKS,
)
"""What `doctor` looks at, in this order."""
