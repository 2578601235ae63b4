"""The provider of the open core: complete, in memory, gone with the process."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import ClassVar, Final

from src.errors import LuminescentError
from src.memory.cursors import Cursors
from src.memory.duplicates import find_duplicates
from src.memory.embedding import Embedder, WordLlamaEmbedder, quantize
from src.memory.entries import IndexEntry, index_entry
from src.memory.filters import SearchRequest, parse_filters
from src.memory.ids import new_memory_id, parse_memory_id
from src.memory.lifecycle import Duplicate, StoredMemoryId
from src.memory.predicates import tester
from src.memory.providers.managed import ManagedPeople
from src.memory.providers.people import Kept, Person, read
from src.memory.ranking import IndexSnapshot
from src.memory.schemas import Memory, utc_now
from src.memory.scoring import RankingWeights
from src.memory.validation import accept, check_limit, check_query, check_user_id, wants_duplicates

DELETED_RETENTION: Final = timedelta(days=30)


class ProviderFullError(LuminescentError):
    """The person has as many memories as this provider keeps for one; nothing was stored.

    Attributes:
        limit: How many it keeps.
    """

    code: ClassVar[str] = "provider_full"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the provider keeps at most {limit} memories of one person; deleting makes room")
        self.limit = limit


class LocalMemoryProvider(ManagedPeople):
    """A `ManagedMemoryProvider` whose memories live in this process: for tests, trials and single machines.

    Validation, filters, ranking and errors are those every provider of this project shares. It has no callers to
    tell apart, so methods that take an id act on any. Expired and superseded memories are kept until deleted, for
    searches with `include_invalid`. Any number of threads may use one provider.
    """

    def __init__(
        self,
        *,
        embedder: Embedder | None = None,
        clock: Callable[[], datetime] = utc_now,
        max_memories_per_user: int | None = None,
        weights: RankingWeights = RankingWeights(),  # noqa: B008 - frozen
        deleted_retention: timedelta = DELETED_RETENTION,
    ) -> None:
        """Start empty.

        Args:
            embedder: Makes the vectors; WordLlama if `None`, loaded by the first call that needs it.
            clock: Returns the present (aware, UTC).
            max_memories_per_user: How many valid memories to keep of one person; `None` for any number.
            weights: How much each score counts in ranking.
            deleted_retention: How long a deleted memory can be brought back.
        """
        self._embedder = embedder if embedder is not None else WordLlamaEmbedder()
        self._clock = clock
        self._max_memories_per_user = max_memories_per_user
        self._weights = weights
        self._deleted_retention = deleted_retention
        self._cursors = Cursors(secrets.token_bytes(32))
        self._lock = threading.Lock()
        self._people: dict[str, Person] = {}
        self._owner_of: dict[str, str] = {}
        self._deletions: deque[tuple[datetime, str]] = deque()

    async def store(self, memory: object, context: Mapping[str, object]) -> str:
        """As the protocol says; of `context` only `report_duplicates` is read.

        Raises:
            InvalidMemoryError: A field cannot be stored; the error names it.
            ProviderFullError: The person has `max_memories_per_user` memories.
        """
        reported = wants_duplicates(context)
        memory_id = (await self.store_many((memory,), context))[0]
        return StoredMemoryId(memory_id, self._duplicates_of(memory_id)) if reported else memory_id

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
                self._add(user_id, theirs, now)
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
            return [read(person.valid[scored.id], now) for scored in ranked]

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
            return read(person.valid[known], now)

    async def delete(self, memory_id: str) -> bool:
        """As the protocol says; an expired or superseded one goes for good, but was absent before."""
        known = parse_memory_id(memory_id)
        if known is None:
            return False
        now = self._clock()
        with self._lock:
            person = self._person(self._owner_of.get(known), now)
            if person is None:
                return False
            if known in person.valid:
                person.delete(known, now)
                self._deletions.append((now, known))
                return True
            if person.invalid.pop(known, None) is not None:
                self._forget(known)
            return False

    async def search(self, user_id: str, filters: Mapping[str, object], limit: int = 10) -> list[Memory]:
        """As the protocol says."""
        user_id, request, limit = check_user_id(user_id), parse_filters(filters), check_limit(limit)
        now = self._clock()
        with self._lock:
            person = self._person(user_id, now)
            if person is None:
                return []
            found = self._passing(person, request)
            chosen = self._ranked(person, request, found, limit) if request.query is not None else _newest(found)
            return [read(found[memory_id], now) for memory_id in chosen[:limit]]

    def _passing(self, person: Person, request: SearchRequest) -> dict[str, Kept]:
        """The memories that a filter lets through; the lock is held."""
        satisfies = tester(request.predicate)
        held = chain(person.valid.items(), person.invalid.items() if request.include_invalid else ())
        return {memory_id: kept for memory_id, kept in held if satisfies(kept.memory)}

    def _ranked(self, person: Person, request: SearchRequest, found: Mapping[str, Kept], limit: int) -> list[str]:
        assert request.query is not None
        index = person.index
        if request.include_invalid and person.invalid:
            invalid = self._entries([kept.memory for kept in person.invalid.values()])
            index = index.replaced([entry for _, entry in invalid], ())
        vector = quantize(self._embedder.embed([request.query]))[0]
        ranked = index.rank(request.query, vector, limit=limit, allowed=found.keys(), weights=self._weights)
        return [scored.id for scored in ranked]

    def _duplicates_of(self, memory_id: str) -> tuple[Duplicate, ...]:
        with self._lock:
            person = self._person(self._owner_of.get(memory_id), self._clock())
            kept = person.find(memory_id) if person is not None else None
            if person is None or kept is None:
                return ()
            others = {key: other.memory.content for key, other in person.valid.items() if key != memory_id}
            vector = quantize(self._embedder.embed([kept.memory.content]))[0]
            return find_duplicates(kept.memory.content, vector, person.index, others)

    def _entries(self, memories: Sequence[Memory]) -> list[tuple[Memory, IndexEntry]]:
        vectors = quantize(self._embedder.embed([memory.content for memory in memories]))
        return [
            (
                memory,
                index_entry(
                    str(memory.id),
                    memory.content,
                    vector,
                    memory.created_at,
                    confidence=memory.confidence,
                    metadata=memory.metadata,
                ),
            )
            for memory, vector in zip(memories, vectors, strict=True)
        ]

    def _person(self, user_id: str | None, now: datetime) -> Person | None:
        """The person with everything past its time put aside; the lock is held."""
        while self._deletions and self._deletions[0][0] + self._deleted_retention <= now:
            self._purge(*self._deletions.popleft())
        person = self._people.get(user_id) if user_id is not None else None
        if person is not None:
            person.expire(now)
        return person

    def _purge(self, deleted_at: datetime, memory_id: str) -> None:
        person = self._people.get(self._owner_of.get(memory_id, ""))
        kept = person.deleted.get(memory_id) if person is not None else None
        # It may have been brought back and deleted again.
        if person is not None and kept is not None and kept.changes[-1].at <= deleted_at:
            del person.deleted[memory_id]
            self._forget(memory_id)

    def _forget(self, memory_id: str) -> None:
        user_id = self._owner_of.pop(memory_id)
        if not self._people[user_id]:
            del self._people[user_id]

    def _make_sure_of_room(self, user_id: str, wanted: int, now: datetime) -> None:
        limit = self._max_memories_per_user
        person = self._person(user_id, now)
        if limit is not None and (len(person.valid) if person is not None else 0) + wanted > limit:
            raise ProviderFullError(limit=limit)

    def _add(self, user_id: str, memories: Sequence[tuple[Memory, IndexEntry]], now: datetime) -> None:
        person = self._people.get(user_id)
        if person is None:
            person = self._people[user_id] = Person(IndexSnapshot.empty(self._embedder.dimensions))
        person.add(memories, now)
        for _, entry in memories:
            self._owner_of[entry.id] = user_id


def _newest(found: Mapping[str, Kept]) -> list[str]:
    # Two stable sorts: by id within one moment, and the newest moment first.
    by_id = sorted(found)
    return sorted(by_id, key=lambda memory_id: found[memory_id].created_at, reverse=True)
