"""Named places at which a test may stop, kill or delay the process.

Production code calls `reach(name)`, which does nothing unless a test armed that name in this process. The names are
the contract between the code and the crash tests: each of `NAMES` is killed in turn.
"""

from __future__ import annotations

from collections.abc import Callable

NAMES = (
    "store.sealed",
    "store.committed",
    "delete.committed",
    "materializer.selected",
    "materializer.inserted",
    "materializer.cleared",
    "erase.frozen",
    "erase.key_destroyed",
    "erase.ledger_deleted",
    "erase.rows_deleted",
    "import.begun",
    "import.batch_stored",
    "import.chunk_stored",
    "import.checkpointed",
    "import.recorded",
    "export.begun",
    "export.person_written",
    "export.written",
    "export.recorded",
)

_armed: dict[str, Callable[[], None]] = {}


def arm(name: str, action: Callable[[], None]) -> None:
    """Run `action` whenever `name` is reached in this process. For tests."""
    if name not in NAMES:
        raise KeyError(name)
    _armed[name] = action


def disarm_all() -> None:
    """Forget every armed action."""
    _armed.clear()


def reach(name: str) -> None:
    """Mark a place; runs what a test armed there."""
    action = _armed.get(name)
    if action is not None:
        action()
