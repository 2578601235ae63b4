"""The provider of the open core: complete, in memory, gone with the process."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from src.errors import LuminescentError
from src.memory.embedding import Embedder, WordLlamaEmbedder, quantize
from src.memory.entries import IndexEntry, index_entry
from src.memory.filters import SearchRequest, parse_filters
from src.memory.ids import new_memory_id, parse_memory_id
from src.memory.predicates import tester
from src.memory.ranking import IndexSnapshot
from src.memory.schemas import Memory, utc_now
from src.memory.scoring import RankingWeights
from src.memory.validation import accept, check_limit, check_query, check_user_id


class ProviderFullError(LuminescentError):
    """The person has as many memories as this provider keeps for one; nothing was stored.

    Attributes:
        limit: How many it keeps.
    """

    code: ClassVar[str] = "provider_full"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the provider keeps at most {limit} memories of one person; deleting makes room")
        self.limit = limit


@dataclass(slots=True)
class _Person:
    """What is kept of one person. `valid` and `index` hold the same memories; `expired` those past their time."""

    index: IndexSnapshot
    valid: dict[str, Memory] = field(default_factory=dict)
    expired: dict[str, Memory] = field(default_factory=dict)
    expiries: list[tuple[datetime, str]] = field(default_factory=list)

    def expire(self, now: datetime) -> None:
        """Take what has expired by `now` out of everything that is read."""
        due: list[str] = []
        while self.expiries and self.expiries[0][0] <= now:
            memory_id = heapq.heappop(self.expiries)[1]
            # A deleted memory's expiry stays in the heap until it comes due.
            if memory_id in self.valid:
                self.expired[memory_id] = self.valid.pop(memory_id)
                due.append(memory_id)
        if due:
            self.index = self.index.replaced((), due)


class LocalMemoryProvider:
    """A `MemoryProvider` whose memories live in this process: for tests, trials and single machines.

    Validation, filters, ranking and errors are those every provider of this project shares. It has no callers to
    tell apart, so `get_by_id` and `delete` act on any id. Expired memories are kept until deleted, for searches
    with `include_invalid`. Any number of threads may use one provider.
    """

    def __init__(
        self,
        *,
        embedder: Embedder | None = None,
        clock: Callable[[], datetime] = utc_now,
        max_memories_per_user: int | None = None,
        weights: RankingWeights = RankingWeights(),  # noqa: B008 - frozen
    ) -> None:
        """Start empty.

        Args:
            embedder: Makes the vectors; WordLlama if `None`, loaded by the first call that needs it.
            clock: Returns the present (aware, UTC).
            max_memories_per_user: How many valid memories to keep of one person; `None` for any number.
            weights: How much each score counts in ranking.
        """
        self._embedder = embedder if embedder is not None else WordLlamaEmbedder()
        self._clock = clock
        self._max_memories_per_user = max_memories_per_user
        self._weights = weights
        self._lock = threading.Lock()
        self._people: dict[str, _Person] = {}
        self._owner_of: dict[str, str] = {}

    async def store(self, memory: object, context: Mapping[str, object]) -> str:
        """As the protocol says; `context` is not read.

        Raises:
            InvalidMemoryError: A field cannot be stored; the error names it.
            ProviderFullError: The person has `max_memories_per_user` memories.
        """
        return (await self.store_many((memory,), context))[0]

    async def store_many(self, memories: Sequence[object], context: Mapping[str, object]) -> list[str]:
        """Store all of the memories or none.

        Args:
            memories: What to remember, of one person or of several.
            context: Not read.

        Returns:
            The new ids, in the order of the memories.

        Raises:
            InvalidMemoryError: A field of one of them cannot be stored; the error names it.
            ProviderFullError: One person would have more than `max_memories_per_user` memories.
        """
        now = self._clock()
        accepted = [accept(memory, now) for memory in memories]
        entries = self._entries([m.model_copy(update={"id": new_memory_id()}) for m in accepted])
        per_person: dict[str, list[tuple[Memory, IndexEntry]]] = {}
        for memory, entry in entries:
            per_person.setdefault(memory.user_id, []).append((memory, entry))
        with self._lock:
            for user_id, theirs in per_person.items():
                self._make_sure_of_room(user_id, len(theirs), now)
            for user_id, theirs in per_person.items():
                self._add(user_id, theirs)
        return [entry.id for _, entry in entries]

    async def retrieve(self, query: str, user_id: str, limit: int = 5) -> list[Memory]:
        """As the protocol says."""
        query, user_id, limit = check_query(query), check_user_id(user_id), check_limit(limit)
        vector = quantize(self._embedder.embed([query]))[0]
        now = self._clock()
        with self._lock:
            person = self._person(user_id, now)
            if person is None:
                return []
            ranked = person.index.rank(query, vector, limit=limit, weights=self._weights)
            return [_read(person.valid[scored.id], now) for scored in ranked]

    async def get_by_id(self, memory_id: str) -> Memory | None:
        """As the protocol says."""
        known = parse_memory_id(memory_id)
        if known is None:
            return None
        now = self._clock()
        with self._lock:
            person = self._person(self._owner_of.get(known), now)
            if person is None or known not in person.valid:
                return None
            return _read(person.valid[known], now)

    async def delete(self, memory_id: str) -> bool:
        """As the protocol says; an expired memory is deleted too, but was absent before."""
        known = parse_memory_id(memory_id)
        if known is None:
            return False
        with self._lock:
            user_id = self._owner_of.pop(known, None)
            person = self._person(user_id, self._clock())
            if user_id is None or person is None:
                return False
            person.expired.pop(known, None)
            was_valid = person.valid.pop(known, None) is not None
            if was_valid:
                person.index = person.index.replaced((), (known,))
            if not person.valid and not person.expired:
                del self._people[user_id]
            return was_valid

    async def search(self, user_id: str, filters: Mapping[str, object], limit: int = 10) -> list[Memory]:
        """As the protocol says."""
        user_id, request, limit = check_user_id(user_id), parse_filters(filters), check_limit(limit)
        satisfies = tester(request.predicate)
        now = self._clock()
        with self._lock:
            person = self._person(user_id, now)
            if person is None:
                return []
            held = chain(person.valid.items(), person.expired.items() if request.include_invalid else ())
            found = {memory_id: memory for memory_id, memory in held if satisfies(memory)}
            chosen = self._ranked(person, request, found, limit) if request.query is not None else _newest(found)
            return [_read(found[memory_id], now) for memory_id in list(chosen)[:limit]]

    def _ranked(self, person: _Person, request: SearchRequest, found: Mapping[str, Memory], limit: int) -> list[str]:
        assert request.query is not None
        index = person.index
        if request.include_invalid and person.expired:
            index = index.replaced([entry for _, entry in self._entries(list(person.expired.values()))], ())
        vector = quantize(self._embedder.embed([request.query]))[0]
        ranked = index.rank(request.query, vector, limit=limit, allowed=found.keys(), weights=self._weights)
        return [scored.id for scored in ranked]

    def _entries(self, memories: Sequence[Memory]) -> list[tuple[Memory, IndexEntry]]:
        vectors = quantize(self._embedder.embed([memory.content for memory in memories]))
        return [(memory, _entry(memory, vector)) for memory, vector in zip(memories, vectors, strict=True)]

    def _person(self, user_id: str | None, now: datetime) -> _Person | None:
        """The person with everything past its time put aside; the lock is held."""
        person = self._people.get(user_id) if user_id is not None else None
        if person is not None:
            person.expire(now)
        return person

    def _make_sure_of_room(self, user_id: str, wanted: int, now: datetime) -> None:
        limit = self._max_memories_per_user
        person = self._person(user_id, now)
        if limit is not None and (len(person.valid) if person is not None else 0) + wanted > limit:
            raise ProviderFullError(limit=limit)

    def _add(self, user_id: str, memories: Sequence[tuple[Memory, IndexEntry]]) -> None:
        person = self._people.get(user_id)
        if person is None:
            person = self._people[user_id] = _Person(IndexSnapshot.empty(self._embedder.dimensions))
        person.index = person.index.replaced([entry for _, entry in memories], ())
        for memory, entry in memories:
            person.valid[entry.id] = memory
            self._owner_of[entry.id] = user_id
            if memory.expires_at is not None:
                heapq.heappush(person.expiries, (memory.expires_at, entry.id))


def _entry(memory: Memory, vector: NDArray[np.int8]) -> IndexEntry:
    return index_entry(
        str(memory.id),
        memory.content,
        vector,
        memory.created_at,
        confidence=memory.confidence,
        metadata=memory.metadata,
    )


def _newest(found: Mapping[str, Memory]) -> Iterator[str]:
    # Two stable sorts: by id within one moment, and the newest moment first.
    by_id = sorted(found)
    return iter(sorted(by_id, key=lambda memory_id: found[memory_id].created_at, reverse=True))


def _read(memory: Memory, now: datetime) -> Memory:
    """A copy for the caller; the original notes that it was read."""
    memory.last_accessed_at = max(memory.last_accessed_at, now)
    return memory.model_copy(deep=True)
