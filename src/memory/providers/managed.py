"""The local provider's methods beyond the published five: changing, listing and following memories."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from src.errors import MemoryNotFoundError, RevisionConflictError
from src.memory.cursors import Cursors, page_of, walk_of
from src.memory.entries import IndexEntry
from src.memory.filters import SearchRequest, parse_walk
from src.memory.ids import new_memory_id, parse_memory_id
from src.memory.lifecycle import MemoryChange, MemoryPage
from src.memory.providers.people import Kept, Person, read
from src.memory.schemas import Memory
from src.memory.validation import accept, accept_changes, check_limit, check_revision, check_user_id


class ManagedPeople(ABC):
    """What `LocalMemoryProvider` adds to `MemoryProvider`."""

    _clock: Callable[[], datetime]
    _cursors: Cursors
    _lock: threading.Lock
    _people: dict[str, Person]
    _owner_of: dict[str, str]
    _deletions: deque[tuple[datetime, str]]

    async def update(self, memory_id: str, changes: Mapping[str, Any], *, expected_revision: int | None = None) -> int:
        """As the protocol says."""
        now = self._clock()
        accepted, expected = accept_changes(changes, now), check_revision(expected_revision)
        with self._lock:
            person, known = self._owner(memory_id, now)
            kept = person.valid[known]
            if expected is not None and expected != kept.revision:
                raise RevisionConflictError(expected=expected, current=kept.revision)
            ((_, entry),) = self._entries([kept.memory.model_copy(update=accepted)])
            return person.update(known, accepted, entry, now)

    async def supersede(self, memory_id: str, memory: object, context: Mapping[str, object]) -> str:
        """As the protocol says; `context` is not read."""
        now = self._clock()
        accepted = accept(memory, now).model_copy(update={"id": new_memory_id()})
        ((made, entry),) = self._entries([accepted])
        with self._lock:
            person, known = self._owner(memory_id, now)
            if person.valid[known].memory.user_id != made.user_id:
                raise MemoryNotFoundError
            # One leaves as another comes: there is room whatever the limit.
            person.supersede(known, entry.id, now)
            self._add(made.user_id, [(made, entry)], now)
        return entry.id

    async def undelete(self, memory_id: str) -> bool:
        """As the protocol says.

        Raises:
            ProviderFullError: The person has `max_memories_per_user` memories by now.
        """
        known, now = parse_memory_id(memory_id), self._clock()
        with self._lock:
            user_id = self._owner_of.get(known) if known is not None else None
            person = self._person(user_id, now)
            kept = person.deleted.get(known) if person is not None and known is not None else None
            if person is None or kept is None or known is None or user_id is None or kept.expired_at(now):
                return False
            self._make_sure_of_room(user_id, 1, now)
            ((_, entry),) = self._entries([kept.memory])
            person.undelete(known, entry, now)
            return True

    async def history(self, memory_id: str) -> list[MemoryChange]:
        """As the protocol says."""
        known = parse_memory_id(memory_id)
        with self._lock:
            person = self._person(self._owner_of.get(known) if known is not None else None, self._clock())
            kept = person.find(known) if person is not None and known is not None else None
            return [*kept.changes] if kept is not None else []

    async def list(
        self,
        user_id: str,
        *,
        filters: Mapping[str, object] | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> MemoryPage:
        """As the protocol says; cursors are this object's own."""
        user_id, request, limit = check_user_id(user_id), parse_walk(filters), check_limit(limit)
        walk = walk_of(user_id, request)
        after = None if cursor is None else self._cursors.position(cursor, walk)
        now = self._clock()
        with self._lock:
            person = self._person(user_id, now)
            found = self._passing(person, request) if person is not None else {}
            page, more = page_of(found.items(), after=after, limit=limit)
            memories = tuple(read(found[memory_id], now) for memory_id in page)
        return MemoryPage(memories, self._cursors.cursor(more, walk) if more is not None else None)

    async def count(self, user_id: str, filters: Mapping[str, object] | None = None) -> int:
        """As the protocol says."""
        user_id, request = check_user_id(user_id), parse_walk(filters)
        with self._lock:
            person = self._person(user_id, self._clock())
            return len(self._passing(person, request)) if person is not None else 0

    def _owner(self, memory_id: object, now: datetime) -> tuple[Person, str]:
        """Whose valid memory it is, and its id; the lock is held."""
        known = parse_memory_id(memory_id)
        person = self._person(self._owner_of.get(known) if known is not None else None, now)
        if person is None or known is None or known not in person.valid:
            raise MemoryNotFoundError
        return person, known

    @abstractmethod
    def _entries(self, memories: Sequence[Memory]) -> Sequence[tuple[Memory, IndexEntry]]: ...

    @abstractmethod
    def _person(self, user_id: str | None, now: datetime) -> Person | None: ...

    @abstractmethod
    def _passing(self, person: Person, request: SearchRequest) -> dict[str, Kept]: ...

    @abstractmethod
    def _make_sure_of_room(self, user_id: str, wanted: int, now: datetime) -> None: ...

    @abstractmethod
    def _add(self, user_id: str, memories: Sequence[tuple[Memory, IndexEntry]], now: datetime) -> None: ...
