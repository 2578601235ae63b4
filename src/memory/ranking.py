"""Ranking of one person's memories: immutable snapshots that grow cheaply.

Rules
1. A snapshot never changes. Any number of threads may rank it while others derive new ones from it.
2. `replaced` on the newest snapshot of a lineage appends to storage that its snapshots share: each knows how much of
   it is its own and which of its rows live. On an older snapshot, or when most rows are dead, it copies.
3. What a snapshot holds decides how it ranks, not how it came to be: statistics count living memories only, and no
   sum depends on the order of rows.
4. Terms are kept as 64-bit hashes and the texts not at all.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from src.memory.embedding import quantize
from src.memory.scoring import (
    RankingWeights,
    Scores,
    best,
    cosines,
    inverse_document_frequencies,
    standardized,
    term_weights,
)
from src.memory.text import terms

__all__ = ["Allowed", "IndexEntry", "IndexSnapshot", "RankingWeights", "Scored"]

Allowed = Collection[str] | NDArray[np.bool_]
"""Ids that may be returned, or a mask with one element per id of `ids()`, in that order."""

_Scalar = TypeVar("_Scalar", bound=np.generic)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_COUNT = 2**16 - 1
_TOLERATED_DEAD_ROWS = 64


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A memory as ranking sees it.

    Attributes:
        id: The memory's id.
        content: Its text.
        vector: (d,) int8, its quantized embedding; zeros if it has none.
        created_at: When it was made (aware); newer ones win ties.
    """

    id: str
    content: str
    vector: NDArray[np.int8]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Scored:
    """A memory's id and its score, which only compares within one ranking."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class _Columns:
    """Rows of memories and of postings, one array per column. Rows past a snapshot's own are not its business.

    Attributes:
        vectors: (n, d) int8.
        squared_lengths: (n,) of the vectors.
        created_us: (n,) microseconds since 1970.
        term_counts: (n,) number of terms of the memory.
        term_hashes: (p,) hash of a term, for each distinct term of each memory, memories in order.
        owners: (p,) row of the memory the posting belongs to.
        occurrences: (p,) how often the term occurs there.
    """

    vectors: NDArray[np.int8]
    squared_lengths: NDArray[np.int64]
    created_us: NDArray[np.int64]
    term_counts: NDArray[np.uint32]
    term_hashes: NDArray[np.int64]
    owners: NDArray[np.uint32]
    occurrences: NDArray[np.uint16]

    @classmethod
    def empty(cls, dimensions: int) -> _Columns:
        return cls(
            vectors=np.empty((0, dimensions), np.int8),
            squared_lengths=np.empty(0, np.int64),
            created_us=np.empty(0, np.int64),
            term_counts=np.empty(0, np.uint32),
            term_hashes=np.empty(0, np.int64),
            owners=np.empty(0, np.uint32),
            occurrences=np.empty(0, np.uint16),
        )

    @classmethod
    def of(cls, entries: Sequence[IndexEntry], dimensions: int) -> _Columns:
        counts = [Counter(terms(entry.content)) for entry in entries]
        vectors = np.empty((len(entries), dimensions), np.int8)
        for row, entry in enumerate(entries):
            vectors[row] = entry.vector
        return cls(
            vectors=vectors,
            squared_lengths=np.square(vectors, dtype=np.int64).sum(axis=1),
            created_us=np.array([(e.created_at - _EPOCH) // _MICROSECOND for e in entries], np.int64),
            term_counts=np.array([count.total() for count in counts], np.uint32),
            # Python's own hash: keyed per process, so texts cannot be made to collide, and never written anywhere.
            term_hashes=np.array([hash(term) for count in counts for term in count], np.int64),
            owners=np.repeat(np.arange(len(entries), dtype=np.uint32), [len(count) for count in counts]),
            occurrences=np.array([min(n, _MAX_COUNT) for count in counts for n in count.values()], np.uint16),
        )

    def rows(self, kept: NDArray[np.bool_], postings: int) -> _Columns:
        """The kept ones of the first `kept.size` rows, renumbered."""
        size = kept.size
        posting_kept = kept[self.owners[:postings]]
        renumbered = (np.cumsum(kept) - 1).astype(np.uint32)
        return _Columns(
            vectors=self.vectors[:size][kept],
            squared_lengths=self.squared_lengths[:size][kept],
            created_us=self.created_us[:size][kept],
            term_counts=self.term_counts[:size][kept],
            term_hashes=self.term_hashes[:postings][posting_kept],
            owners=renumbered[self.owners[:postings][posting_kept]],
            occurrences=self.occurrences[:postings][posting_kept],
        )


class _Arena:
    """Append-only storage that the snapshots of one lineage share.

    Only `append` writes, under the lock, and only past what any snapshot holds.
    """

    def __init__(self, dimensions: int) -> None:
        self.lock = threading.Lock()
        self.columns = _Columns.empty(dimensions)
        self.ids: list[str] = []
        self.postings = 0
        self.row_of: dict[str, int] = {}
        # Where a memory was before it was replaced: older snapshots still hold that row.
        self.earlier_row: dict[int, int] = {}

    def append(self, ids: Sequence[str], added: _Columns) -> None:
        start, first_posting = len(self.ids), self.postings
        mine = self.columns
        self.columns = _Columns(
            vectors=_appended(mine.vectors, start, added.vectors),
            squared_lengths=_appended(mine.squared_lengths, start, added.squared_lengths),
            created_us=_appended(mine.created_us, start, added.created_us),
            term_counts=_appended(mine.term_counts, start, added.term_counts),
            term_hashes=_appended(mine.term_hashes, first_posting, added.term_hashes),
            owners=_appended(mine.owners, first_posting, added.owners + np.uint32(start)),
            occurrences=_appended(mine.occurrences, first_posting, added.occurrences),
        )
        self.postings += added.term_hashes.size
        for row, memory_id in enumerate(ids, start):
            if memory_id in self.row_of:
                self.earlier_row[row] = self.row_of[memory_id]
            self.row_of[memory_id] = row
        self.ids.extend(ids)


class IndexSnapshot:
    """What of one person's memories is searchable at one moment."""

    __slots__ = ("_arena", "_columns", "_ids", "_live", "_postings", "_size", "_terms")

    def __init__(self, arena: _Arena, live: NDArray[np.bool_]) -> None:
        """For `empty` and `replaced`, which hold the arena's lock or are its only user."""
        self._arena = arena
        self._columns = arena.columns
        self._postings = arena.postings
        self._live = live
        self._size = int(np.count_nonzero(live))
        self._terms = int(self._columns.term_counts[: live.size][live].sum())
        self._ids: tuple[str, ...] | None = None

    @classmethod
    def empty(cls, dimensions: int) -> IndexSnapshot:
        """A snapshot of nothing, for vectors of this many dimensions."""
        return cls(_Arena(dimensions), np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return self._size

    def __contains__(self, memory_id: object) -> bool:
        return isinstance(memory_id, str) and self._row(memory_id) is not None

    def ids(self) -> tuple[str, ...]:
        """The ids of all memories, in the order that masks follow."""
        if self._ids is None:
            held = self._arena.ids[: self._live.size]
            self._ids = tuple(held[row] for row in np.flatnonzero(self._live).tolist())
        return self._ids

    def replaced(self, adds: Sequence[IndexEntry], removes: Collection[str]) -> IndexSnapshot:
        """A snapshot with some memories removed and others added; this one stays as it is.

        Args:
            adds: Memories to add; one whose id is held already replaces it. Of one id given twice the last counts.
            removes: Ids to remove first; ids that are not held are ignored.

        Returns:
            The new snapshot.

        Raises:
            ValueError: A vector has the wrong number of dimensions.
        """
        entries = {entry.id: entry for entry in adds}
        added = _Columns.of(tuple(entries.values()), self._columns.vectors.shape[1])
        live = np.concatenate((self._live, np.ones(len(entries), np.bool_)))
        for memory_id in (*removes, *entries):
            row = self._row(memory_id)
            if row is not None:
                live[row] = False
        with self._arena.lock:
            newest = len(self._arena.ids) == self._live.size
            living = int(np.count_nonzero(live))
            if newest and live.size - living <= max(living, _TOLERATED_DEAD_ROWS):
                self._arena.append(tuple(entries), added)
                return IndexSnapshot(self._arena, live)
        return self._copied(kept=live[: self._live.size], ids=tuple(entries), added=added)

    def rank(
        self,
        query: str,
        query_vector: NDArray[np.float32] | NDArray[np.int8],
        *,
        limit: int,
        allowed: Allowed | None = None,
        weights: RankingWeights = RankingWeights(),  # noqa: B008 - frozen
    ) -> list[Scored]:
        """The `limit` memories that fit the query best: those that fit little fill up, newest first within ties.

        Args:
            query: Text; without terms only the vector counts.
            query_vector: (d,) its embedding; all zeros if it has none, then only the terms count.
            limit: ≥ 1.
            allowed: The candidates; all of them if `None`. Statistics of terms count the others too.
            weights: How to mix the standardized scores.

        Returns:
            Best first, the same for the same contents however the snapshot came to be.

        Raises:
            ValueError: A mask is not as long as the snapshot.
        """
        rows = self._candidates(allowed)
        if not rows.size:
            return []
        vector = _as_int8(query_vector)
        lexical = self._lexical(query)[rows]
        dense = cosines(self._columns.vectors[rows], self._columns.squared_lengths[rows], vector)
        mixed = weights.lexical * standardized(lexical) + weights.dense * standardized(dense)
        ids = self._arena.ids
        chosen = best(mixed, self._columns.created_us[rows], lambda at: ids[rows[at]], limit)
        return [Scored(ids[rows[at]], float(mixed[at])) for at in chosen]

    def _row(self, memory_id: str) -> int | None:
        row = self._arena.row_of.get(memory_id)
        while row is not None and row >= self._live.size:
            row = self._arena.earlier_row.get(row)
        return row if row is not None and self._live[row] else None

    def _candidates(self, allowed: Allowed | None) -> NDArray[np.intp]:
        if allowed is None:
            return np.flatnonzero(self._live)
        if isinstance(allowed, np.ndarray):
            if allowed.size != self._size:
                raise ValueError("the mask must have one element per memory of the snapshot")
            return np.flatnonzero(self._live)[allowed]
        rows = (self._row(memory_id) for memory_id in set(allowed))
        return np.array(sorted(row for row in rows if row is not None), np.intp)

    def _lexical(self, query: str) -> Scores:
        """BM25 of every row, dead ones included."""
        scores = np.zeros(self._live.size)
        wanted = np.unique(np.array([hash(term) for term in terms(query)], np.int64))
        if not wanted.size or not self._terms:
            return scores
        found = np.flatnonzero(np.isin(self._columns.term_hashes[: self._postings], wanted))
        owners = self._columns.owners[found]
        term = np.searchsorted(wanted, self._columns.term_hashes[found])
        frequencies = np.bincount(term[self._live[owners]], minlength=wanted.size)
        weights = term_weights(
            self._columns.occurrences[found].astype(np.float64),
            self._columns.term_counts[owners].astype(np.float64),
            self._terms / self._size,
        )
        rarity = inverse_document_frequencies(frequencies, self._size)
        # A row's postings stand together in the order of its text, so its sum is the same wherever the row is.
        sums = np.bincount(owners, weights=weights * rarity[term], minlength=self._live.size)
        return sums.astype(np.float64, copy=False)

    def _copied(self, kept: NDArray[np.bool_], ids: Sequence[str], added: _Columns) -> IndexSnapshot:
        arena = _Arena(self._columns.vectors.shape[1])
        held = [self._arena.ids[row] for row in np.flatnonzero(kept).tolist()]
        arena.append(held, self._columns.rows(kept, self._postings))
        arena.append(ids, added)
        return IndexSnapshot(arena, np.ones(len(held) + len(ids), np.bool_))


def _as_int8(vector: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.int8]:
    if vector.dtype == np.int8:
        return vector.astype(np.int8, copy=False)
    rows = quantize(vector.astype(np.float32, copy=False)[np.newaxis, :])
    return rows.reshape(-1)


def _appended(held: NDArray[_Scalar], used: int, added: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """`held` with `added` written after its first `used` rows: in place if it fits, else in a larger copy."""
    needed = used + len(added)
    if needed > len(held):
        # Half as much again: rare copies, and no more than a third of the memory unused.
        larger = np.empty((max(needed, used + used // 2), *held.shape[1:]), held.dtype)
        larger[:used] = held[:used]
        held = larger
    held[used:needed] = added
    return held
