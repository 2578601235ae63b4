"""Levels that an erasure reaches, one after the other; each is claimed only where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How deep an erasure is.

    `LOGICAL`: no operation finds anything. `CRYPTOGRAPHIC`: key and link are destroyed in the keyring, its journal and
    its free pages, so no copy can be read. `STORE`: no row version is left in PostgreSQL or Pixeltable. `FILE`: heap,
    indexes, TOAST and statistics were rewritten. `WAL`: the write-ahead log of before is removed, not recycled.
    `BACKUPS`: the last backup that was taken before has expired, those of the keyring included.
    """

    LOGICAL = "logical"
    CRYPTOGRAPHIC = "cryptographic"
    STORE = "store"
    FILE = "file"
    WAL = "wal"
    BACKUPS = "backups"


AT_ONCE: Final = (Level.LOGICAL, Level.CRYPTOGRAPHIC, Level.STORE)
"""Levels that are reached before an erasure returns."""


@dataclass(frozen=True, slots=True)
class LevelState:
    """A level, reached or to come.

    Attributes:
        level: The level.
        reached_at: When it was measured (UTC); `None` if it is to come.
        due_at: When it is to come (UTC); `None` if it is reached, or nobody can say.
        evidence: What was measured: counts, ids and dates; nothing about a person.
    """

    level: Level
    reached_at: datetime | None
    due_at: datetime | None = None
    evidence: Mapping[str, int | str] = field(default_factory=dict)
