"""Makes snapshots: whole when nothing is held, else from what is newer than the one that is.

Order matters. The control plane is read first, in one view: what waits there is taken from there, and everything
else the ledger holds was in Pixeltable by then, because a row leaves intake only after Pixeltable has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.kernel import telemetry, telemetry_names
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import SubjectKey
from cloud.memory.hot import HotTier
from cloud.memory.model import Changes, HotMemory, LedgerState, SealedRow, SubjectSnapshot
from cloud.memory.ports import Ledger, Rows
from cloud.memory.vectors import Vectorizer
from src.memory.entries import index_entry
from src.memory.ranking import IndexSnapshot

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.05
_HIT: Final = {telemetry_names.RESULT: "hit"}
_MISS: Final = {telemetry_names.RESULT: "miss"}
_INDEX_BYTES_PER_TERM: Final = 14
_INDEX_BYTES_PER_MEMORY: Final = 130  # Columns besides the vector, and what ranking prepares.


class SnapshotLoader:
    """Brings the hot tier up to date for one subject at a time."""

    def __init__(self, ledger: Ledger, rows: Rows, vectorizer: Vectorizer, hot: HotTier) -> None:
        self._ledger = ledger
        self._rows = rows
        self._vectorizer = vectorizer
        self._hot = hot

    def at_least(self, predicate: TenantPredicate, person: SubjectKey, generation: int | None) -> SubjectSnapshot:
        """A snapshot at `generation` or newer; at any generation if `None`.

        Raises:
            ProviderUnavailableError: A plane did not answer, or a memory of the ledger is in neither.
            SealBrokenError: A row does not open in its place.
        """
        held = self._hot.get(predicate.tenant_id, person.subject_id)
        is_hot = held is not None and (generation is None or held.generation >= generation)
        telemetry.note(telemetry_names.HOT, is_hot)
        telemetry.instruments().hot_reads.add(1, _HIT if is_hot else _MISS)
        if held is not None and is_hot:
            return held
        with self._hot.loading(predicate.tenant_id, person.subject_id):
            held = self._hot.get(predicate.tenant_id, person.subject_id)
            if held is not None and (generation is None or held.generation >= generation):
                return held
            snapshot = self._load(predicate, person, held)
            self._hot.put(snapshot)
            return snapshot

    def advance(
        self, snapshot: SubjectSnapshot, generation: int, added: Sequence[SealedRow], person: SubjectKey
    ) -> None:
        """Add what this process just wrote, if nobody else wrote in between."""
        if snapshot.generation + 1 == generation:
            self._hot.put(self._extended(snapshot, generation, added, (), person))

    def retreat(self, snapshot: SubjectSnapshot, generation: int, removed: str) -> None:
        """Take out what this process just deleted, if nobody else wrote in between."""
        if snapshot.generation + 1 == generation:
            self._hot.put(_without(snapshot, generation, removed, self._vectorizer.dimensions))

    def _load(self, predicate: TenantPredicate, person: SubjectKey, held: SubjectSnapshot | None) -> SubjectSnapshot:
        base = held or _nothing(person, self._vectorizer.dimensions)
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            changes = self._ledger.changes(predicate, person.subject_id, since=base.generation)
            if changes.generation < base.generation:
                # The control plane was set back, as by a restore: nothing held is worth anything.
                base = _nothing(person, self._vectorizer.dimensions)
                changes = self._ledger.changes(predicate, person.subject_id, since=0)
            rows = self._sealed(predicate, person.subject_id, changes, since=base.generation)
            if rows is not None:
                removed = [row.memory_id for row in changes.ledger if row.state is LedgerState.DELETED]
                return self._extended(base, changes.generation, rows, removed, person)
        raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")

    def _sealed(
        self, predicate: TenantPredicate, subject_id: str, changes: Changes, *, since: int
    ) -> list[SealedRow] | None:
        """The rows of every ledger row that is not deleted, or `None` if one is in neither plane (any more)."""
        wanted = {row.memory_id: row.revision for row in changes.ledger if row.state is not LedgerState.DELETED}
        found = {row.memory_id: row for row in changes.waiting if wanted.get(row.memory_id) == row.revision}
        if len(found) < len(wanted):
            for row in self._rows.newer(predicate, changes.placement, subject_id, since=since):
                if row.memory_id not in found and wanted.get(row.memory_id) == row.revision:
                    found[row.memory_id] = row
        return list(found.values()) if len(found) == len(wanted) else None

    def _extended(
        self,
        base: SubjectSnapshot,
        generation: int,
        rows: Sequence[SealedRow],
        removed: Iterable[str],
        person: SubjectKey,
    ) -> SubjectSnapshot:
        # Ids are time-ordered, so the same rows make the same index, whichever plane they came from.
        ordered = sorted(rows, key=lambda row: row.memory_id)
        opened = [self._opened(row, person.key) for row in ordered]
        vectors = self._vectors(ordered, opened, person.key)
        gone = set(removed)
        memories = {key: memory for key, memory in base.memories.items() if key not in gone}
        memories.update((memory.memory_id, memory) for memory in opened)
        entries = [
            index_entry(
                memory.memory_id,
                memory.envelope.content,
                vector,
                memory.created_at,
                confidence=memory.confidence,
                metadata=memory.metadata,
            )
            for memory, vector in zip(opened, vectors, strict=True)
        ]
        growth = sum(_size(memory, self._vectorizer.dimensions) for memory in opened)
        shrinkage = sum(_size(base.memories[key], self._vectorizer.dimensions) for key in gone if key in base.memories)
        return SubjectSnapshot(
            tenant_id=base.tenant_id,
            subject_id=base.subject_id,
            generation=generation,
            memories=memories,
            index=base.index.replaced(entries, gone),
            size_bytes=base.size_bytes + growth - shrinkage,
        )

    def _opened(self, row: SealedRow, key: bytes) -> HotMemory:
        return HotMemory(
            memory_id=row.memory_id,
            revision=row.revision,
            memory_type=row.memory_type,
            confidence=row.confidence,
            created_at=row.created_at,
            expires_at=row.expires_at,
            envelope=self._vectorizer.open_envelope(key, row),
        )

    def _vectors(self, rows: Sequence[SealedRow], opened: Sequence[HotMemory], key: bytes) -> list[NDArray[np.int8]]:
        vectors = [self._vectorizer.open_vector(key, row) for row in rows]
        missing = [at for at, vector in enumerate(vectors) if vector is None]
        made = self._vectorizer.embed([opened[at].envelope.content for at in missing])
        fresh = dict(zip(missing, made, strict=True))
        return [fresh[at] if vector is None else vector for at, vector in enumerate(vectors)]


def _nothing(person: SubjectKey, dimensions: int) -> SubjectSnapshot:
    return SubjectSnapshot(
        tenant_id=person.tenant_id,
        subject_id=person.subject_id,
        generation=0,
        memories={},
        index=IndexSnapshot.empty(dimensions),
        size_bytes=512,
    )


def _without(snapshot: SubjectSnapshot, generation: int, removed: str, dimensions: int) -> SubjectSnapshot:
    gone = snapshot.memories.get(removed)
    memories = {key: memory for key, memory in snapshot.memories.items() if key != removed}
    return SubjectSnapshot(
        tenant_id=snapshot.tenant_id,
        subject_id=snapshot.subject_id,
        generation=generation,
        memories=memories,
        index=snapshot.index.replaced((), (removed,)),
        size_bytes=snapshot.size_bytes - (_size(gone, dimensions) if gone else 0),
    )


def _size(memory: HotMemory, dimensions: int) -> int:
    terms = len(memory.envelope.content) // 5
    return memory.size_bytes() + dimensions + _INDEX_BYTES_PER_MEMORY + terms * _INDEX_BYTES_PER_TERM
