"""Makes snapshots: whole when nothing is held, else from what is newer than the one that is.

Order matters. The control plane is read first, in one view: what waits there is taken from there, and everything
else the ledger holds was in Pixeltable by then, because a row leaves intake only after Pixeltable has it.

A tenant may move to another table between the two reads, and the old one is emptied. Then a memory of the ledger is
missing from what was read, and both are read again: the control plane names the new table by then.

A snapshot's vectors are all of one model. When another model is read in the placement, everything is loaded anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.kernel import telemetry, telemetry_names
from cloud.kernel.errors import LuminescentError, ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import SubjectKey
from cloud.memory.hot import HotTier, Written
from cloud.memory.model import Changes, HotMemory, LedgerState, SealedRow, SubjectSnapshot, named_revisions
from cloud.memory.ports import Ledger, Rows
from cloud.memory.vectors import Models, Vectorizer
from src.memory.entries import IndexEntry, index_entry
from src.memory.ranking import IndexSnapshot
from src.memory.schemas import as_utc

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.05
_HIT: Final = {telemetry_names.RESULT: "hit"}
_MISS: Final = {telemetry_names.RESULT: "miss"}
_INDEX_BYTES_PER_TERM: Final = 14
_INDEX_BYTES_PER_MEMORY: Final = 130  # Columns besides the vector, and what ranking prepares.


class SnapshotLoader:
    """Brings the hot tier up to date for one subject at a time."""

    def __init__(self, ledger: Ledger, rows: Rows, models: Models, hot: HotTier) -> None:
        self._ledger = ledger
        self._rows = rows
        self._models = models
        self._hot = hot

    def at_least(self, predicate: TenantPredicate, person: SubjectKey, generation: int | None) -> SubjectSnapshot:
        """A snapshot at `generation` or newer; at any generation if `None`.

        Raises:
            ProviderUnavailableError: A plane did not answer, or a memory of the ledger is in neither.
            SealBrokenError: A row does not open in its place.
        """
        held = self._current(person)
        is_hot = held is not None and (generation is None or held.generation >= generation)
        telemetry.note(telemetry_names.HOT, is_hot)
        telemetry.instruments().hot_reads.add(1, _HIT if is_hot else _MISS)
        if held is not None and is_hot:
            return held
        with self._hot.loading(predicate.tenant_id, person.subject_id):
            held = self._brought_together(person)
            if held is not None and (generation is None or held.generation >= generation):
                return held
            snapshot = self._load(predicate, person, held)
            self._hot.put(snapshot)
            return snapshot

    def advance(self, generation: int, added: Sequence[SealedRow], person: SubjectKey) -> None:
        """Let readers find what this process just wrote, in the place of older revisions, without a load."""
        self._hot.note(Written(person.tenant_id, person.subject_id, generation, tuple(added)))

    def supersede(self, generation: int, added: SealedRow, superseded: str, person: SubjectKey) -> None:
        """Let readers find what this process just wrote in the place of another, without a load."""
        self._hot.note(
            Written(person.tenant_id, person.subject_id, generation, rows=(added,), superseded=(superseded,))
        )

    def retreat(self, tenant_id: str, subject_id: str, generation: int, removed: str) -> None:
        """Let readers miss what this process just deleted, without a load."""
        self._hot.note(Written(tenant_id, subject_id, generation, removed=(removed,)))

    def _current(self, person: SubjectKey) -> SubjectSnapshot | None:
        """The snapshot held, with what this process wrote in it.

        Raises:
            ProviderUnavailableError: Somebody makes a snapshot of this subject and did not end in time.
        """
        if not self._hot.written(person.tenant_id, person.subject_id)[1]:
            return self._hot.get(person.tenant_id, person.subject_id)
        with self._hot.turn(person.tenant_id, person.subject_id):
            return self._brought_together(person)

    def _brought_together(self, person: SubjectKey) -> SubjectSnapshot | None:
        """The snapshot held, with what this process wrote in it. It is the caller's turn."""
        held, written = self._hot.written(person.tenant_id, person.subject_id)
        if held is None or not written:
            return held
        # Of a memory that was changed since it was stored, the last revision counts.
        rows: dict[str, SealedRow] = {}
        removed: set[str] = set()
        for one in written:
            rows |= {row.memory_id: row for row in one.rows}
            removed = removed.union(one.removed) - {row.memory_id for row in one.rows}
        left = [row for row in rows.values() if row.memory_id not in removed]
        superseded = [memory_id for one in written for memory_id in one.superseded]
        try:
            self._hot.put(self._extended(held, written[-1].generation, left, removed, superseded, person))
        except LuminescentError:
            # The writes are committed: what fails here is a shortcut, and the next reader loads instead.
            self._hot.drop(person.tenant_id, person.subject_id)
        return self._hot.get(person.tenant_id, person.subject_id)

    def _load(self, predicate: TenantPredicate, person: SubjectKey, held: SubjectSnapshot | None) -> SubjectSnapshot:
        base = held or self._nothing(person, "")
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            changes = self._ledger.changes(predicate, person.subject_id, since=base.generation)
            if changes.generation < base.generation or changes.purged > base.generation or changes.model != base.model:
                # The control plane was set back, as by a restore; or it has forgotten what is shown here still; or
                # another model is read: nothing held is of use.
                since, base = base.generation, self._nothing(person, changes.model)
                if since:
                    changes = self._ledger.changes(predicate, person.subject_id, since=0)
                    if changes.model != base.model:
                        continue
            rows = self._sealed(predicate, base, changes)
            if rows is not None:
                return self._brought_up(base, changes, rows, person)
        raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")

    def _brought_up(
        self, base: SubjectSnapshot, changes: Changes, rows: Sequence[SealedRow], person: SubjectKey
    ) -> SubjectSnapshot:
        superseded = [row.memory_id for row in changes.ledger if row.state is LedgerState.SUPERSEDED]
        return self._extended(base, changes.generation, rows, changes.deleted, superseded, person)

    def _sealed(self, predicate: TenantPredicate, base: SubjectSnapshot, changes: Changes) -> list[SealedRow] | None:
        """The rows that `base` lacks of what the ledger holds, or `None` if one is in neither plane (any more)."""
        wanted = {
            row.memory_id: row
            for row in changes.ledger
            if row.state is not LedgerState.DELETED and not _holds(base, row.memory_id, row.revision)
        }
        found: dict[str, SealedRow] = {}

        def take(rows: Iterable[SealedRow]) -> None:
            found.update((row.memory_id, row) for row in named_revisions(rows, wanted))

        take(changes.waiting)
        if len(found) < len(wanted):
            # What was deleted lies there until it is purged. Of a person who deletes much it would be most of the work.
            newer = self._rows.newer(
                predicate,
                changes.placement,
                base.subject_id,
                since=base.generation,
                column=changes.column,
                known=wanted,
                without=changes.deleted,
            )
            take(newer)
        if len(found) < len(wanted) and base.generation:
            # What was deleted and brought back is newer in the ledger alone.
            missing = wanted.keys() - found.keys()
            take(self._rows.named(predicate, changes.placement, missing, column=changes.column))
        return list(found.values()) if len(found) == len(wanted) else None

    def _extended(
        self,
        base: SubjectSnapshot,
        generation: int,
        rows: Sequence[SealedRow],
        removed: Iterable[str],
        superseded: Iterable[str],
        person: SubjectKey,
    ) -> SubjectSnapshot:
        # Ids are time-ordered, so the same rows make the same index, whichever plane they came from.
        ordered = sorted(rows, key=lambda row: row.memory_id)
        vectorizer = self._models.of(base.model)
        opened = [open_memory(vectorizer, row, person.key) for row in ordered]
        vectors = open_vectors(vectorizer, ordered, opened, person.key)
        gone = set(removed)
        memories = _kept(base.memories, gone)
        memories.update((memory.memory_id, memory) for memory in opened)
        passed = {key: replace(memories[key], superseded=True) for key in superseded if key in memories}
        memories.update(passed)
        left = gone | {memory.memory_id for memory in opened}
        fleeting = _kept(base.fleeting, left)
        fleeting.update((memory.memory_id, memory) for memory in opened if memory.is_fleeting)
        fleeting.update(passed)
        entries = [entry_of(memory, vector) for memory, vector in zip(opened, vectors, strict=True)]
        growth = sum(_size(memory, vectorizer.dimensions) for memory in opened)
        shrinkage = sum(_size(base.memories[key], vectorizer.dimensions) for key in left if key in base.memories)
        return SubjectSnapshot(
            tenant_id=base.tenant_id,
            subject_id=base.subject_id,
            generation=generation,
            memories=memories,
            index=base.index.replaced(entries, gone),
            size_bytes=base.size_bytes + growth - shrinkage,
            model=base.model,
            fleeting=fleeting,
        )

    def _nothing(self, person: SubjectKey, model: str) -> SubjectSnapshot:
        return SubjectSnapshot(
            tenant_id=person.tenant_id,
            subject_id=person.subject_id,
            generation=0,
            memories={},
            index=IndexSnapshot.empty(self._models.of(model).dimensions),
            size_bytes=512,
            model=model,
        )


def _holds(snapshot: SubjectSnapshot, memory_id: str, revision: int) -> bool:
    held = snapshot.memories.get(memory_id)
    return held is not None and held.revision == revision


def open_memory(vectorizer: Vectorizer, row: SealedRow, key: bytes) -> HotMemory:
    """A row, open.

    Raises:
        SealBrokenError: It does not open in its place.
    """
    return HotMemory(
        memory_id=row.memory_id,
        revision=row.revision,
        memory_type=row.memory_type,
        confidence=row.confidence,
        created_at=as_utc(row.created_at),
        expires_at=as_utc(row.expires_at) if row.expires_at is not None else None,
        envelope=vectorizer.open_envelope(key, row),
    )


def entry_of(memory: HotMemory, vector: NDArray[np.int8]) -> IndexEntry:
    """A memory as the index has it."""
    return index_entry(
        memory.memory_id,
        memory.envelope.content,
        vector,
        memory.created_at,
        confidence=memory.confidence,
        metadata=memory.metadata,
    )


def open_vectors(
    vectorizer: Vectorizer, rows: Sequence[SealedRow], opened: Sequence[HotMemory], key: bytes
) -> list[NDArray[np.int8]]:
    """The vectors of rows; of those without one of this model, made from their text.

    Raises:
        SealBrokenError: One does not open in its place.
    """
    vectors = [vectorizer.open_vector(key, row) for row in rows]
    missing = [at for at, vector in enumerate(vectors) if vector is None]
    made = vectorizer.embed([opened[at].envelope.content for at in missing])
    fresh = dict(zip(missing, made, strict=True))
    return [fresh[at] if vector is None else vector for at, vector in enumerate(vectors)]


def _kept(memories: Mapping[str, HotMemory], gone: Iterable[str]) -> dict[str, HotMemory]:
    """A copy without those that are gone, of which there are few."""
    kept = dict(memories)
    for key in gone:
        kept.pop(key, None)
    return kept


def _size(memory: HotMemory, dimensions: int) -> int:
    terms = len(memory.envelope.content) // 5
    return memory.size_bytes() + dimensions + _INDEX_BYTES_PER_MEMORY + terms * _INDEX_BYTES_PER_TERM
