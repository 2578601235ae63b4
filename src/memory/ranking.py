"""Ranking of one person's memories: immutable snapshots that grow cheaply. What counts how: `docs/ranking.md`.

Rules
1. A snapshot never changes. Any number of threads may rank it while others derive new ones from it.
2. `replaced` on the newest snapshot of a lineage appends to storage that its snapshots share: each knows how much of
   it is its own and which of its rows live. On an older snapshot, or when most rows are dead, it copies.
3. What a snapshot holds decides how it ranks, not how it came to be: statistics and neighbours are those of living
   memories, and no sum depends on the order of rows.
4. Which memories are allowed decides what is returned, and not in which order.
5. Terms are kept as 64-bit hashes and the texts not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.memory.arena import Arena, Columns
from src.memory.dates import period
from src.memory.embedding import quantize
from src.memory.entries import IndexEntry
from src.memory.languages import LANGUAGES
from src.memory.lexical import Postings, matches
from src.memory.neighbours import Links, linked, with_neighbours
from src.memory.scoring import (
    RankingWeights,
    Scores,
    best,
    cosines,
    inverse_distances,
    inverse_roots,
    mean_direction,
    recencies,
    standardized,
)
from src.memory.text import query_terms

__all__ = ["Allowed", "IndexEntry", "IndexSnapshot", "RankingWeights", "Scored"]

Allowed = Collection[str] | NDArray[np.bool_]
"""Ids that may be returned, or a mask with one element per id of `ids()`, in that order."""

_TOLERATED_DEAD_ROWS = 64


@dataclass(frozen=True, slots=True)
class Scored:
    """A memory's id and its score, which only compares within one ranking."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class _View:
    """What ranking needs of a snapshot besides its columns, whatever the query. Positions count the living alone.

    Attributes:
        rows: (n,) row at each position.
        center: (d,) int8, the mean of the vectors.
        inverses: (r,) one by the distance of each row's vector from it.
        created_us: (n,) microseconds since 1970.
        links: Neighbours.
        postings: Terms.
        languages: Those that occur.
    """

    rows: NDArray[np.intp]
    center: NDArray[np.int8]
    inverses: Scores
    created_us: NDArray[np.int64]
    links: Links
    postings: Postings
    languages: tuple[str, ...]

    @classmethod
    def of(cls, columns: Columns, ids: Sequence[str], live: NDArray[np.bool_], postings: int) -> _View:
        rows = np.flatnonzero(live)
        # Most often everything lives: then nothing is copied.
        chosen: slice | NDArray[np.intp] = slice(live.size) if rows.size == live.size else rows
        created_us = columns.created_us[chosen]
        center = mean_direction(columns.vectors[chosen], columns.squared_lengths[chosen])
        return cls(
            rows=rows,
            center=center,
            inverses=inverse_distances(columns.vectors[: live.size], columns.squared_lengths[: live.size], center),
            created_us=created_us,
            links=linked(columns.sessions[chosen], created_us, lambda at: ids[rows[at]]),
            postings=Postings.of(columns, postings, live),
            languages=tuple(LANGUAGES[number] for number in np.unique(columns.languages[chosen]).tolist()),
        )


class IndexSnapshot:
    """What of one person's memories is searchable at one moment."""

    __slots__ = ("_arena", "_columns", "_ids", "_live", "_postings", "_prepared", "_preparing", "_reduced", "_size")

    def __init__(self, arena: Arena, columns: Columns, postings: int, live: NDArray[np.bool_]) -> None:
        """For the methods of this class: `columns` and `postings` are the arena's when it held `live.size` rows."""
        self._arena = arena
        self._columns = columns
        self._postings = postings
        self._live = live
        self._size = int(np.count_nonzero(live))
        # Made when first asked for. Two threads may both make the ids: they are alike.
        self._ids: tuple[str, ...] | None = None
        # What takes long is made once: of many readers after a write, each would make it and wait for all the others.
        self._preparing = threading.Lock()
        self._prepared: _View | None = None
        self._reduced: tuple[frozenset[str], IndexSnapshot] | None = None

    @classmethod
    def empty(cls, dimensions: int) -> IndexSnapshot:
        """A snapshot of nothing, for vectors of this many dimensions."""
        return cls._all_of(Arena(dimensions))

    @classmethod
    def _all_of(cls, arena: Arena) -> IndexSnapshot:
        return cls(arena, arena.columns, arena.postings, np.ones(len(arena.ids), np.bool_))

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
        added = Columns.of(tuple(entries.values()), self._columns.vectors.shape[1])
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
                return IndexSnapshot(self._arena, self._arena.columns, self._arena.postings, live)
        return self._copied(kept=live[: self._live.size], ids=tuple(entries), added=added)

    def without(self, removes: Collection[str]) -> IndexSnapshot:
        """A snapshot with some memories removed, which shares everything with this one; ids not held are ignored.

        It ranks as what `replaced` gives. It is for ranking a while without them, such as those that have expired, and
        is kept until others are left out.
        """
        left_out = frozenset(removes)
        if not left_out:
            return self
        with self._preparing:
            if self._reduced is None or self._reduced[0] != left_out:
                live = self._live.copy()
                live[[row for row in map(self._row, left_out) if row is not None]] = False
                self._reduced = (left_out, IndexSnapshot(self._arena, self._columns, self._postings, live))
            return self._reduced[1]

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
            allowed: Which may be returned; all of them if `None`. It does not change their order.
            weights: How much each score counts.

        Returns:
            Best first, the same for the same contents however the snapshot came to be.

        Raises:
            ValueError: A mask is not as long as the snapshot.
        """
        candidates = self._candidates(allowed)
        if not self._size or (candidates is not None and not candidates.size):
            return []
        view = self._view()
        ids, rows, created_us = self._arena.ids, view.rows, view.created_us
        scores = self._scores(view, query, _as_int8(query_vector), weights)
        if candidates is not None:
            scores, rows, created_us = scores[candidates], rows[candidates], created_us[candidates]
        chosen = best(scores, created_us, lambda at: ids[rows[at]], limit)
        return [Scored(ids[rows[at]], float(scores[at])) for at in chosen]

    def similarities(self, vector: NDArray[np.int8]) -> list[tuple[str, float]]:
        """Each memory's id with the cosine of its embedding and `vector`, seen from no center, in the order of `ids`.

        Args:
            vector: (d,) int8.
        """
        size = self._live.size
        nowhere = np.zeros_like(vector)
        inverses = inverse_roots(self._columns.squared_lengths[:size])
        near = cosines(self._columns.vectors[:size], inverses, vector, nowhere)
        return list(zip(self.ids(), near[self._live].tolist(), strict=True))

    def _scores(self, view: _View, query: str, vector: NDArray[np.int8], weights: RankingWeights) -> Scores:
        """Of each living memory."""
        columns, rows = self._columns, view.rows
        match = matches(view.postings, query_terms(query, view.languages), view.links, weights.neighbours)
        near = cosines(columns.vectors[: self._live.size], view.inverses, vector, view.center)
        if near.size > rows.size:
            near = near[rows]
        near = with_neighbours(near, view.links, weights.neighbours)
        scores, mean = standardized(near, weights.dense)
        matched, mean_matched = standardized(match.scores, weights.lexical, near.size - match.scores.size)
        scores[match.positions] += matched
        scores -= mean + mean_matched
        scores[match.named] += weights.names
        asked = period(query)
        if asked:
            scores += weights.dates * asked.holds(view.created_us)
        if weights.recency:
            scores += weights.recency * recencies(view.created_us)
        if weights.confidence:
            scores += weights.confidence * columns.confidences[rows]
        return scores

    def _view(self) -> _View:
        if self._prepared is None:
            with self._preparing:
                if self._prepared is None:
                    self._prepared = _View.of(self._columns, self._arena.ids, self._live, self._postings)
        return self._prepared

    def _row(self, memory_id: str) -> int | None:
        row = self._arena.row_of.get(memory_id)
        while row is not None and row >= self._live.size:
            row = self._arena.earlier_row.get(row)
        return row if row is not None and self._live[row] else None

    def _candidates(self, allowed: Allowed | None) -> NDArray[np.intp] | None:
        """Their positions; `None` for all."""
        if allowed is None:
            return None
        if isinstance(allowed, np.ndarray):
            if allowed.size != self._size:
                raise ValueError("the mask must have one element per memory of the snapshot")
            return np.flatnonzero(allowed)
        rows = sorted(row for row in map(self._row, set(allowed)) if row is not None)
        return self._view().postings.position_of[rows] if rows else np.zeros(0, np.intp)

    def _copied(self, kept: NDArray[np.bool_], ids: Sequence[str], added: Columns) -> IndexSnapshot:
        arena = Arena(self._columns.vectors.shape[1])
        held = [self._arena.ids[row] for row in np.flatnonzero(kept).tolist()]
        arena.append(held, self._columns.rows(kept, self._postings))
        arena.append(ids, added)
        return self._all_of(arena)


def _as_int8(vector: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.int8]:
    if vector.dtype == np.int8:
        return vector.astype(np.int8, copy=False)
    rows = quantize(vector.astype(np.float32, copy=False)[np.newaxis, :])
    return rows.reshape(-1)
