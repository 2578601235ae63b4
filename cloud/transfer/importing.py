"""Stores a file's entries: in chunks, in batches, and so that repeating any of it stores nothing twice.

A chunk is a stretch of the file, and depends on the bytes of the file alone. A batch holds one person's memories of
one chunk, at most a thousand. Its idempotency key names the import, the chunk, the person by a digest, and which
thousand it is, counted over everything that names the person, so that an entry which has become invalid since does
not move the others to another batch. Batches are a person's own because an erasure also removes the keys that name
the person: with mixed batches, importing again would then double everybody else's memories.

After each chunk a checkpoint is kept. A later run reads what is behind it again, which is quick, and stores nothing
of it. While one chunk is stored the next one is read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloud.kernel import failpoints
from cloud.kernel.clock import Clock
from cloud.kernel.errors import (
    ConfigurationError,
    IdempotencyConflictError,
    InvalidMemoryError,
    LuminescentError,
    UnreadableFileError,
)
from cloud.kernel.ids import new_memory_id
from cloud.transfer.checking import checked, person_of
from cloud.transfer.model import START, Entry, EntryError, Fault, ImportReport, Position
from cloud.transfer.ports import Checkpoint, CheckpointStore, MemoryStore, Progress
from cloud.transfer.reports import ReportFile
from cloud.transfer.seen import SeenIds
from cloud.transfer.sources import Source
from src.memory.schemas import Memory
from src.memory.validation import accept

# Keys name chunks and batches: with other sizes a file that was imported before would be stored again.
CHUNK_ENTRIES: Final = 10_000
CHUNK_BYTES: Final = 8 * 2**20
BATCH_ENTRIES: Final = 1_000
_AT_ONCE: Final = 4
"""Batches of different people that are under way together: while one waits for its commit, another is sealed."""


@dataclass(slots=True)
class _Batch:
    """Memories of one person that are stored together."""

    key: str
    positions: list[Position]
    memories: list[Memory]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A stretch of the file, checked.

    Attributes:
        last: Its last entry.
        entries: How many entries it has.
        skipped: How many of them are not wanted.
        people: The batches of each person, in order.
        faults: What is at fault with the others.
        done_bytes: How far in the file it ends.
    """

    last: Position
    entries: int
    skipped: int
    people: list[list[_Batch]]
    faults: list[Fault]
    done_bytes: int


class Importer:
    """One run of an import.

    Args:
        store: Stores, for the present caller.
        source: The file.
        user_id: Whose memories those are that name nobody.
        report: Filled in as it goes; holds the counts of the runs that this one continues.
        report_file: Where faults are written.
        checkpoints: Where the run keeps how far it is.
        clock: The present, UTC.
        progress: Is told how many bytes of the file are done.
    """

    def __init__(
        self,
        store: MemoryStore,
        source: Source,
        user_id: str | None,
        report: ImportReport,
        report_file: ReportFile,
        checkpoints: CheckpointStore,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._store = store
        self._source = source
        self._report = report
        self._report_file = report_file
        self._checkpoints = checkpoints
        self._clock = clock
        self._progress = progress
        self._chunks = chunks(source.entries(user_id))
        self._seen = SeenIds()
        # Ids are time-ordered and later than every id this process made before: an earlier one is another run's.
        self._first_id = new_memory_id()

    async def run(self) -> None:
        """Store what is left of the file; what ended it before its end is in the report."""
        following = asyncio.create_task(asyncio.to_thread(self._next))
        try:
            while (chunk := await following) is not None:
                following = asyncio.create_task(asyncio.to_thread(self._next))
                await self._stored(chunk)
                if self._report.stopped is not None:
                    return
                failpoints.reach("import.chunk_stored")
                await asyncio.to_thread(self._checkpoint, chunk)
                failpoints.reach("import.checkpointed")
                self._progress(chunk.done_bytes)
        except (UnreadableFileError, ConfigurationError) as error:
            # The file, the report file or the checkpoint: what was stored before stays stored.
            self._report.stopped = error
        finally:
            # It reads the file, which is about to be closed.
            with suppress(LuminescentError):
                await following

    def _next(self) -> _Chunk | None:
        """The next chunk that is not done yet, checked."""
        for entries in self._chunks:
            again = self._seen.repeated([entry.id for entry in entries])
            if entries[-1].position > (self._report.resumed_after or START):
                return self._checked(entries, again, self._clock())
            self._progress(self._source.done_bytes())
        return None

    def _checked(self, entries: Sequence[Entry], again: set[int], now: datetime) -> _Chunk:
        people: defaultdict[str, list[_Batch]] = defaultdict(list)
        faults: list[Fault] = []
        named: defaultdict[str, int] = defaultdict(int)
        extent = f"{entries[0].position}-{entries[-1].position}"
        for place, entry in enumerate(entries):
            if entry.skipped:
                continue
            person = person_of(entry)
            if person is not None:
                which, within = divmod(named[person], BATCH_ENTRIES)
                named[person] += 1
                if not within:
                    people[person].append(_Batch(self._key(extent, person, which), [], []))
            try:
                if place in again:
                    raise EntryError("its id stands in the file before: the first entry with it counts")
                memory = checked(entry, now)
            except EntryError as error:
                faults.append(Fault(entry.position, str(error)))
            else:
                batch = people[memory.user_id][-1]
                batch.positions.append(entry.position)
                batch.memories.append(memory)
        batches = [[batch for batch in theirs if batch.memories] for theirs in people.values()]
        skipped = sum(entry.skipped for entry in entries)
        return _Chunk(entries[-1].position, len(entries), skipped, batches, faults, self._source.done_bytes())

    def _key(self, extent: str, person: str, which: int) -> str:
        digest = hashlib.sha256(person.encode("utf-8", "surrogatepass")).hexdigest()
        return f"import:{self._report.import_id}:{extent}:{digest}:{which}"

    async def _stored(self, chunk: _Chunk) -> None:
        self._report.entries += chunk.entries
        self._report.skipped += chunk.skipped
        for fault in chunk.faults:
            self._report_file.add(self._report.fault(fault.position, fault.reason))
        waiting = iter(chunk.people)

        async def some() -> None:
            for theirs in waiting:
                for batch in theirs:
                    if self._report.stopped is not None:
                        return
                    try:
                        await self._store_batch(batch)
                    except LuminescentError as error:
                        self._stop(error, batch)

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))

    async def _store_batch(self, batch: _Batch) -> None:
        while batch.memories:
            self._report.batches += 1
            try:
                ids = await self._store.store_many(batch.memories, {"idempotency_key": batch.key})
            except IdempotencyConflictError:
                # The key says that it was this file and these entries. What differs is that one of them has expired
                # since, and stands in the report: the others were stored then.
                self._report.repeated += len(batch.memories)
            except InvalidMemoryError:
                # One was valid a moment ago: it expired in between.
                if not self._drop_expired(batch):
                    raise
                continue
            else:
                new = sum(memory_id > self._first_id for memory_id in ids)
                self._report.stored += new
                self._report.repeated += len(ids) - new
            failpoints.reach("import.batch_stored")
            return

    def _drop_expired(self, batch: _Batch) -> bool:
        """Whether a memory was taken out of the batch."""
        now, kept = self._clock(), _Batch(batch.key, [], [])
        for position, memory in zip(batch.positions, batch.memories, strict=True):
            try:
                accept(memory, now)
            except InvalidMemoryError as error:
                self._report_file.add(self._report.fault(position, str(error)))
            else:
                kept.positions.append(position)
                kept.memories.append(memory)
        dropped = len(kept.memories) < len(batch.memories)
        batch.positions, batch.memories = kept.positions, kept.memories
        return dropped

    def _stop(self, error: LuminescentError, batch: _Batch) -> None:
        # Several batches are under way: what counts is the first error and the earliest entry.
        self._report.stopped = self._report.stopped or error
        at = self._report.stopped_at
        self._report.stopped_at = batch.positions[0] if at is None else min(at, batch.positions[0])

    def _checkpoint(self, chunk: _Chunk) -> None:
        checkpoint = Checkpoint(chunk.last, self._report.counts(), self._report_file.size_bytes)
        self._checkpoints.save(self._report.import_id, checkpoint)


def chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """The entries in chunks of at most 10,000 and little more than 8 MiB; the same ones for the same file.

    Raises:
        UnreadableFileError: The file cannot be read on; what was read before comes first.
    """
    held: list[Entry] = []
    size = 0
    try:
        for entry in entries:
            held.append(entry)
            size += entry.size_bytes
            if len(held) == CHUNK_ENTRIES or size >= CHUNK_BYTES:
                yield held
                held, size = [], 0
    except UnreadableFileError:
        if held:
            yield held
        raise
    if held:
        yield held
