"""What the local provider keeps of one person, and how memories pass from one state to another."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from src.memory.entries import IndexEntry
from src.memory.lifecycle import ChangeKind, MemoryChange
from src.memory.ranking import IndexSnapshot
from src.memory.schemas import Memory


@dataclass(slots=True)
class Kept:
    """A memory with its history."""

    memory: Memory
    changes: list[MemoryChange]

    @property
    def revision(self) -> int:
        """Counts its contents, from 1."""
        return self.changes[-1].revision

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return self.memory.created_at

    def note(
        self, kind: ChangeKind, at: datetime, *, revision: int | None = None, successor: str | None = None
    ) -> None:
        """Add a line to its history."""
        self.changes.append(MemoryChange(revision or self.revision, kind, at, successor=successor))

    def expired_at(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.memory.expires_at is not None and self.memory.expires_at <= now


@dataclass(slots=True)
class Person:
    """What is kept of one person; a memory is in one of the three.

    Attributes:
        index: Ranks what is valid.
        valid: What is read.
        invalid: What has expired or was superseded.
        deleted: What can still be brought back.
    """

    index: IndexSnapshot
    valid: dict[str, Kept] = field(default_factory=dict)
    invalid: dict[str, Kept] = field(default_factory=dict)
    deleted: dict[str, Kept] = field(default_factory=dict)
    _expiries: list[tuple[datetime, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.valid or self.invalid or self.deleted)

    def find(self, memory_id: str) -> Kept | None:
        """The memory, in whatever state."""
        return self.valid.get(memory_id) or self.invalid.get(memory_id) or self.deleted.get(memory_id)

    def expire(self, now: datetime) -> None:
        """Take what has expired by `now` out of everything that is read."""
        due: list[str] = []
        while self._expiries and self._expiries[0][0] <= now:
            memory_id = heapq.heappop(self._expiries)[1]
            # Entries of memories that were deleted, or whose expiry was changed, stay in the heap until they come due.
            kept = self.valid.get(memory_id)
            if kept is not None and kept.expired_at(now):
                kept.note(ChangeKind.EXPIRED, kept.memory.expires_at or now)
                self.invalid[memory_id] = self.valid.pop(memory_id)
                due.append(memory_id)
        if due:
            self.index = self.index.replaced((), due)

    def add(self, added: Iterable[tuple[Memory, IndexEntry]], now: datetime) -> None:
        """Hold new memories."""
        added = list(added)
        self.index = self.index.replaced([entry for _, entry in added], ())
        for memory, entry in added:
            self.valid[entry.id] = Kept(memory, [MemoryChange(1, ChangeKind.STORED, now)])
            self._watch(memory, entry.id)

    def update(self, memory_id: str, changes: Mapping[str, Any], entry: IndexEntry, now: datetime) -> int:
        """Change a valid memory; returns its new revision."""
        kept = self.valid[memory_id]
        kept.memory = kept.memory.model_copy(update=dict(changes))
        kept.note(ChangeKind.UPDATED, now, revision=kept.revision + 1)
        self.index = self.index.replaced((entry,), ())
        self._watch(kept.memory, memory_id)
        return kept.revision

    def delete(self, memory_id: str, now: datetime) -> None:
        """Put a valid memory where it can be brought back from."""
        kept = self.valid.pop(memory_id)
        kept.note(ChangeKind.DELETED, now)
        self.deleted[memory_id] = kept
        self.index = self.index.replaced((), (memory_id,))

    def undelete(self, memory_id: str, entry: IndexEntry, now: datetime) -> None:
        """Bring a deleted memory back."""
        kept = self.deleted.pop(memory_id)
        kept.note(ChangeKind.UNDELETED, now)
        self.valid[memory_id] = kept
        self.index = self.index.replaced((entry,), ())
        self._watch(kept.memory, memory_id)

    def supersede(self, memory_id: str, successor: str, now: datetime) -> None:
        """Take a valid memory out of what is read, in favour of another."""
        kept = self.valid.pop(memory_id)
        kept.note(ChangeKind.SUPERSEDED, now, successor=successor)
        self.invalid[memory_id] = kept
        self.index = self.index.replaced((), (memory_id,))

    def _watch(self, memory: Memory, memory_id: str) -> None:
        if memory.expires_at is not None:
            heapq.heappush(self._expiries, (memory.expires_at, memory_id))


def read(kept: Kept, now: datetime) -> Memory:
    """A copy for the caller; the original notes that it was read."""
    kept.memory.last_accessed_at = max(kept.memory.last_accessed_at, now)
    return kept.memory.model_copy(deep=True)
