"""Imports a file of memories: streamed, in batches, and so that importing the same file again stores nothing twice.

A batch holds one person's memories of one chunk of the file. Its idempotency key names the file by its digest, the
chunk by its lines, and the person by a digest. Batches are a person's own because an erasure also removes the keys that
name the person: with mixed batches, importing again would then double everybody else's memories.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cloud.cli.jsonl import Chunk, LineError, chunks, parse
from cloud.kernel.errors import IdempotencyConflictError, InvalidMemoryError, LuminescentError
from cloud.kernel.ids import new_memory_id
from cloud.memory.provider import CloudMemoryProvider
from src.memory.schemas import Memory

_KEPT_FAULTS: Final = 1_000

Progress = Callable[[int], None]
"""Is told how many bytes of the file are done."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that was not stored, and why."""

    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of a file's lines.

    Attributes:
        lines: Lines looked at; blank ones are not counted.
        stored: Memories stored now.
        repeated: Memories that an earlier import of the same file had stored.
        failed: Lines that were not stored because of what is in them.
        faults: The first thousand of those.
        batches: Calls that stored.
        stopped: What ended the import before the end of the file.
        stopped_at: First line of the batch that was not stored then.
    """

    lines: int = 0
    stored: int = 0
    repeated: int = 0
    failed: int = 0
    faults: list[Fault] = field(default_factory=list)
    batches: int = 0
    stopped: LuminescentError | None = None
    stopped_at: int | None = None

    def fault(self, line: int, reason: str) -> None:
        """Count a line that was not stored."""
        self.failed += 1
        if len(self.faults) < _KEPT_FAULTS:
            self.faults.append(Fault(line, reason))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def import_file(
    provider: CloudMemoryProvider, path: Path, *, now: Callable[[], datetime], progress: Progress = lambda _: None
) -> ImportReport:
    """Store every line of `path` that is a memory; what is at fault with the others is in the report.

    An error that concerns more than a line, such as a used-up quota, ends the import and is in the report too; what was
    stored before stays stored, and importing the file again continues there.

    Args:
        provider: Stores them, for the present caller.
        path: JSON Lines, UTF-8.
        now: The present, UTC.
        progress: Is told how far the import is.

    Raises:
        OSError: The file cannot be read.
    """
    report, digest = ImportReport(), file_digest(path)
    # Ids are time-ordered and later than every id this process made before: an earlier one was stored by another run.
    first_id = new_memory_id()
    with path.open("rb") as file:
        for chunk in chunks(file):
            for batch in _batches(chunk, now(), report):
                try:
                    await _store(provider, batch, _key(digest, chunk, batch), first_id, report)
                except LuminescentError as error:
                    report.stopped, report.stopped_at = error, batch[0][0]
                    return report
            progress(chunk.end_bytes)
    return report


def _batches(chunk: Chunk, now: datetime, report: ImportReport) -> list[list[tuple[int, Memory]]]:
    by_person: dict[str, list[tuple[int, Memory]]] = {}
    report.lines += len(chunk.lines)
    for line in chunk.lines:
        try:
            memory = parse(line, now)
        except LineError as error:
            report.fault(line.number, str(error))
        else:
            by_person.setdefault(memory.user_id, []).append((line.number, memory))
    return list(by_person.values())


async def _store(
    provider: CloudMemoryProvider, batch: list[tuple[int, Memory]], key: str, first_id: str, report: ImportReport
) -> None:
    report.batches += 1
    try:
        ids = await provider.store_many([memory for _, memory in batch], {"idempotency_key": key})
    except IdempotencyConflictError:
        # The key says that it was this file and these lines. What differs is that one of them has expired since, and
        # stands in the report: the others were stored then.
        report.repeated += len(batch)
    except InvalidMemoryError as error:
        # It was valid a moment ago: it expired in between. The rest of the batch is stored when the file is imported
        # again.
        for number, _ in batch:
            report.fault(number, f"not stored together with one that is an {error}")
    else:
        new = sum(memory_id > first_id for memory_id in ids)
        report.stored += new
        report.repeated += len(ids) - new


def _key(digest: str, chunk: Chunk, batch: list[tuple[int, Memory]]) -> str:
    person = hashlib.sha256(batch[0][1].user_id.encode()).hexdigest()
    return f"import:{digest}:{chunk.lines[0].number}-{chunk.lines[-1].number}:{person}"
