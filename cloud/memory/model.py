"""Memories on their way: sealed rows, ledger rows, hot memories and the snapshots they make up."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Final

from cloud.keys.envelope import Envelope
from src.memory.ranking import IndexSnapshot
from src.memory.schemas import Memory, MemoryType

_NO_TEXT_BYTES: Final = sys.getsizeof("")
_BY_ID: Final = attrgetter("memory_id")
_BY_AGE: Final = attrgetter("created_at")


class LedgerState(StrEnum):
    """What the ledger says of a memory."""

    ACTIVE = "active"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A memory as the ledger knows it: no content, no user id."""

    memory_id: str
    revision: int
    state: LedgerState
    generation: int
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A memory as both planes keep it.

    Attributes:
        memory_id: Its id.
        tenant_id: Its tenant.
        subject_id: Whose it is.
        revision: Counts its changes, from 1.
        generation: The subject's generation when this revision was accepted.
        memory_type: Type, in the clear for filtering.
        confidence: 0–1, in the clear for filtering.
        created_at: When it was made (UTC).
        expires_at: When it stops being found (UTC).
        envelope: Sealed content, source, metadata, provenance and user id.
        embedding: Sealed vector; `None` until it is materialized.
    """

    memory_id: str
    tenant_id: str
    subject_id: str
    revision: int
    generation: int
    memory_type: str
    confidence: float
    created_at: datetime
    expires_at: datetime | None
    envelope: bytes = field(repr=False)
    embedding: bytes | None = field(repr=False, default=None)


def named_revisions(rows: Iterable[SealedRow], known: Mapping[str, LedgerRow]) -> Iterator[SealedRow]:
    """Those of the rows that the ledger names, in the revision that it names."""
    return (row for row in rows if (there := known.get(row.memory_id)) is not None and there.revision == row.revision)


def _text_bytes(text: str) -> int:
    """What the characters of a text take, beside what every text does."""
    return sys.getsizeof(text) - _NO_TEXT_BYTES


def _json_bytes(value: object) -> int:
    """What a JSON value takes with all that is in it, about."""
    size, inside = 0, [value]
    while inside:
        one = inside.pop()
        size += sys.getsizeof(one)
        if isinstance(one, dict):
            inside += (*one.keys(), *one.values())
        elif isinstance(one, list):
            inside += one
    return size


@dataclass(frozen=True, slots=True)
class HotMemory:
    """A memory, open, in this process's memory alone. It satisfies `Filterable`."""

    memory_id: str
    revision: int
    memory_type: str
    confidence: float
    created_at: datetime
    expires_at: datetime | None
    envelope: Envelope = field(repr=False)
    superseded: bool = False

    @property
    def source(self) -> str:
        """Where it came from."""
        return self.envelope.source

    @property
    def metadata(self) -> Mapping[str, object]:
        """Its metadata; not to be changed."""
        return self.envelope.metadata

    def valid_at(self, now: datetime) -> bool:
        """Whether its time is not over, and none took its place."""
        return not self.superseded and (self.expires_at is None or self.expires_at > now)

    @property
    def is_fleeting(self) -> bool:
        """Whether it is not valid for ever."""
        return self.superseded or self.expires_at is not None

    def size_bytes(self) -> int:
        """About how much memory it takes."""
        envelope = self.envelope
        texts = sum(_text_bytes(text) for text in (envelope.content, envelope.raw_source or "", envelope.source))
        return 900 + texts + sum(_json_bytes(value) for value in (envelope.metadata, envelope.provenance) if value)

    def opened(self, now: datetime) -> Memory:
        """The memory as callers get it: a value of their own, accessed `now` (UTC)."""
        envelope = self.envelope
        return Memory.of_checked(
            user_id=envelope.user_id,
            content=envelope.content,
            memory_type=_TYPES[self.memory_type],
            confidence=self.confidence,
            source=envelope.source,
            raw_source=envelope.raw_source,
            extraction_version=envelope.extraction_version,
            created_at=self.created_at,
            last_accessed_at=now,
            expires_at=self.expires_at,
            metadata=_copied(envelope.metadata),
            provenance=_copied(envelope.provenance),
            id=self.memory_id,
        )


@dataclass(frozen=True, slots=True)
class SubjectSnapshot:
    """One person's memories at one generation; immutable, so any number of readers may hold it.

    Attributes:
        tenant_id: Their tenant.
        subject_id: Whose they are.
        generation: The subject's generation it shows.
        memories: By id, deleted ones left out, expired and superseded ones included.
        index: Ranks them.
        size_bytes: About how much memory all of it takes.
        model: The embedding model of all its vectors; queries are embedded with the same.
        fleeting: Those of `memories` that are not valid for ever, or are not any more.
    """

    tenant_id: str
    subject_id: str
    generation: int
    memories: Mapping[str, HotMemory] = field(repr=False)
    index: IndexSnapshot = field(repr=False)
    size_bytes: int
    model: str = ""
    fleeting: Mapping[str, HotMemory] = field(repr=False, default_factory=dict)
    _ordered: list[tuple[HotMemory, ...]] = field(repr=False, compare=False, default_factory=list)

    def newest_first(self) -> tuple[HotMemory, ...]:
        """All of them by time of creation, those of one moment by id; put in order when first asked for."""
        if not self._ordered:
            # Two stable sorts. Two threads may both do it: what they find is alike.
            by_id = sorted(self.memories.values(), key=_BY_ID)
            self._ordered.append(tuple(sorted(by_id, key=_BY_AGE, reverse=True)))
        return self._ordered[0]

    def invalid_at(self, now: datetime) -> set[str]:
        """The ids of those whose time is over, or whose place another one took."""
        return {key for key, memory in self.fleeting.items() if not memory.valid_at(now)}


@dataclass(frozen=True, slots=True)
class Changes:
    """What the control plane knows of a subject that a snapshot does not, read in one transaction.

    Attributes:
        state: The subject's state, or `None` if it never stored anything.
        generation: Its generation now; 0 if it never stored anything.
        placement: The Pixeltable table of its tenant.
        purged: Its generation when memories that a snapshot may still show were last purged; 0 for never.
        ledger: Rows whose generation is newer.
        waiting: Their sealed rows that are not materialized yet.
        model: The embedding model that is read in the placement; empty for the process's first one.
        column: The column of that table which holds its vectors.
    """

    state: str | None
    generation: int
    placement: str
    purged: int
    ledger: tuple[LedgerRow, ...]
    waiting: tuple[SealedRow, ...]
    model: str = ""
    column: str = "embedding"

    @property
    def deleted(self) -> list[str]:
        """Ids of the memories that the ledger holds as deleted."""
        return [row.memory_id for row in self.ledger if row.state is LedgerState.DELETED]


_TYPES: Final = {kind.value: kind for kind in MemoryType}


def _copied(value: object) -> object:
    """A deep copy of a JSON value: what a caller does to it must not reach the snapshot."""
    match value:
        case dict():
            return {key: _copied(item) for key, item in value.items()}
        case list():
            return [_copied(item) for item in value]
        case _:
            return value
