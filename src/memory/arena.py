"""Storage of an index: columns that only grow, shared by the snapshots of one lineage."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from src.memory.entries import IndexEntry
from src.memory.languages import LANGUAGES, language_of
from src.memory.neighbours import NO_SESSION
from src.memory.text import label, split, terms, terms_of

_Scalar = TypeVar("_Scalar", bound=np.generic)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_COUNT = 2**16 - 1
LABEL = 0
"""Occurrences of a posting that stands for a term of a memory's label."""
_NUMBER_OF = {language: number for number, language in enumerate(LANGUAGES)}


def term_hash(term: str) -> int:
    """A term as postings keep it: 64 bits."""
    # Python's own hash: keyed per process, so texts cannot be made to collide, and never written anywhere.
    return hash(term)


def label_hash(term: str) -> int:
    """A term of a memory's label, as postings keep it."""
    # No term holds a NUL, so this is none of the text's.
    return hash(f"\0{term}")


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of memories and of postings, one array per column. Rows past a snapshot's own are not its business.

    Attributes:
        vectors: (n, d) int8.
        squared_lengths: (n,) of the vectors.
        created_us: (n,) microseconds since 1970.
        sessions: (n,) hash of the session; `NO_SESSION` without one.
        languages: (n,) place in `LANGUAGES`.
        confidences: (n,) from 0 to 1.
        term_counts: (n,) number of terms of the memory.
        term_hashes: (p,) hash of a term, for each distinct term of each memory and of its label, memories in order.
        owners: (p,) row of the memory the posting belongs to.
        occurrences: (p,) how often the term occurs there; `LABEL` for one of the label.
    """

    vectors: NDArray[np.int8]
    squared_lengths: NDArray[np.int64]
    created_us: NDArray[np.int64]
    sessions: NDArray[np.int64]
    languages: NDArray[np.uint8]
    confidences: NDArray[np.float64]
    term_counts: NDArray[np.uint32]
    term_hashes: NDArray[np.int64]
    owners: NDArray[np.uint32]
    occurrences: NDArray[np.uint16]

    @classmethod
    def empty(cls, dimensions: int) -> Columns:
        """No rows, for vectors of this many dimensions."""
        return cls.of((), dimensions)

    @classmethod
    def of(cls, entries: Sequence[IndexEntry], dimensions: int) -> Columns:
        """The rows of these entries.

        Raises:
            ValueError: A vector has the wrong number of dimensions.
        """
        parts = [split(entry.content) for entry in entries]
        languages = [entry.language or language_of(of.words) for entry, of in zip(entries, parts, strict=True)]
        found = [terms_of(*of) for of in zip(parts, languages, strict=True)]
        postings = [_counted(terms) for terms in found]
        for posting, entry, language in zip(postings, entries, languages, strict=True):
            if named := label(entry.content):
                posting.update((label_hash(term), LABEL) for term in terms(named, language))
        vectors = np.empty((len(entries), dimensions), np.int8)
        for row, entry in enumerate(entries):
            vectors[row] = entry.vector
        return cls(
            vectors=vectors,
            squared_lengths=np.square(vectors, dtype=np.int64).sum(axis=1),
            created_us=np.array([(e.created_at - _EPOCH) // _MICROSECOND for e in entries], np.int64),
            sessions=np.array([_session_hash(entry.session) for entry in entries], np.int64),
            languages=np.array([_NUMBER_OF[language] for language in languages], np.uint8),
            confidences=np.array([entry.confidence for entry in entries], np.float64),
            term_counts=np.array([len(terms) for terms in found], np.uint32),
            term_hashes=np.array([term for posting in postings for term in posting], np.int64),
            owners=np.repeat(np.arange(len(entries), dtype=np.uint32), [len(posting) for posting in postings]),
            occurrences=np.array([min(n, _MAX_COUNT) for posting in postings for n in posting.values()], np.uint16),
        )

    def rows(self, kept: NDArray[np.bool_], postings: int) -> Columns:
        """The kept ones of the first `kept.size` rows, renumbered."""
        size = kept.size
        posting_kept = kept[self.owners[:postings]]
        renumbered = (np.cumsum(kept) - 1).astype(np.uint32)
        return Columns(
            vectors=self.vectors[:size][kept],
            squared_lengths=self.squared_lengths[:size][kept],
            created_us=self.created_us[:size][kept],
            sessions=self.sessions[:size][kept],
            languages=self.languages[:size][kept],
            confidences=self.confidences[:size][kept],
            term_counts=self.term_counts[:size][kept],
            term_hashes=self.term_hashes[:postings][posting_kept],
            owners=renumbered[self.owners[:postings][posting_kept]],
            occurrences=self.occurrences[:postings][posting_kept],
        )


class Arena:
    """Append-only storage that the snapshots of one lineage share.

    Only `append` writes, under the lock, and only past what any snapshot holds.
    """

    def __init__(self, dimensions: int) -> None:
        self.lock = threading.Lock()
        self.columns = Columns.empty(dimensions)
        self.ids: list[str] = []
        self.postings = 0
        self.row_of: dict[str, int] = {}
        # Where a memory was before it was replaced: older snapshots still hold that row.
        self.earlier_row: dict[int, int] = {}

    def append(self, ids: Sequence[str], added: Columns) -> None:
        """Add rows; whoever else appends must be kept out by the lock."""
        start, first_posting = len(self.ids), self.postings
        mine = self.columns
        self.columns = Columns(
            vectors=_appended(mine.vectors, start, added.vectors),
            squared_lengths=_appended(mine.squared_lengths, start, added.squared_lengths),
            created_us=_appended(mine.created_us, start, added.created_us),
            sessions=_appended(mine.sessions, start, added.sessions),
            languages=_appended(mine.languages, start, added.languages),
            confidences=_appended(mine.confidences, start, added.confidences),
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


def _counted(terms: Sequence[str]) -> dict[int, int]:
    """How often each term occurs, by its hash."""
    counts: dict[int, int] = {}
    for term in terms:
        key = term_hash(term)
        counts[key] = counts.get(key, 0) + 1
    return counts


def _session_hash(session: str | int | None) -> int:
    # A session whose hash is the number of none takes the next.
    return NO_SESSION if session is None else hash(str(session)) or NO_SESSION + 1


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
