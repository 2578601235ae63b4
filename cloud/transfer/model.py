"""What passes between a file and the provider: entries with their places, faults, counts, and what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cloud.kernel.errors import LuminescentError

_KEPT_FAULTS: Final = 1_000


class Format(StrEnum):
    """What kind of file it is."""

    JSONL = "jsonl"
    MEM0 = "mem0"
    CHATGPT = "chatgpt"
    PERSON = "person"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where in a file an entry stands; later entries have greater positions, and a file always has the same ones.

    Attributes:
        number: Line of JSON Lines, element of a list, or conversation; counted from 1.
        part: Message within a conversation, counted from 1; 0 where an entry has no parts.
    """

    number: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.number}.{self.part}" if self.part else str(self.number)


START: Final = Position(0)
"""Before every entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What may become one memory.

    Attributes:
        position: Where it stands.
        size_bytes: What it took in the file.
        values: Fields of `Memory`, not validated; `None` if it is at fault.
        id: Its id in the system it comes from, if it has one.
        fault: Why it is no memory.
        skipped: Whether it is one that is not wanted.
    """

    position: Position
    size_bytes: int
    values: Mapping[str, object] | None = field(repr=False, default=None)
    id: str | None = field(repr=False, default=None)
    fault: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class PersonChoice:
    """What is taken of a person's export.

    Attributes:
        as_user: Whose the memories become; `None` leaves them whose they were.
        include_removed: Whether those that were deleted, replaced or expired become memories too.
    """

    as_user: str | None = field(repr=False, default=None)
    include_removed: bool = False


EVERYTHING_AS_IT_IS: Final = PersonChoice()
"""Memories in use, of whom they were."""


class EntryError(ValueError):
    """An entry is no memory; the message says why, without a value of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry that was not stored, and why."""

    position: Position
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of a file's entries.

    Attributes:
        format: How it was read.
        import_id: Names this file, its format and its person within the tenant; tells nothing about them.
        entries: Entries looked at, those of earlier runs that this one continues included.
        stored: Memories stored by this run or by a run that it continues.
        repeated: Memories that an earlier import of the same file had stored.
        failed: Entries that were not stored because of what is in them.
        skipped: Memories of a person's export that were deleted, replaced or expired there, and not asked for.
        faults: The first thousand of those that this run met.
        batches: Calls that stored.
        resumed_after: The entry after which this run went on; `None` if it began at the beginning.
        stopped: What ended the import before the end of the file.
        stopped_at: First entry of the batch that was not stored then; `None` if that is not known.
    """

    format: Format
    import_id: str
    entries: int = 0
    stored: int = 0
    repeated: int = 0
    failed: int = 0
    skipped: int = 0
    faults: list[Fault] = field(default_factory=list)
    batches: int = 0
    resumed_after: Position | None = None
    stopped: LuminescentError | None = None
    stopped_at: Position | None = None

    def fault(self, position: Position, reason: str) -> Fault:
        """Count an entry that was not stored."""
        fault = Fault(position, reason)
        self.failed += 1
        if len(self.faults) < _KEPT_FAULTS:
            self.faults.append(fault)
        return fault

    def counts(self) -> dict[str, int]:
        """The numbers, as the audit log and the checkpoint keep them."""
        return {
            "entries": self.entries,
            "stored": self.stored,
            "repeated": self.repeated,
            "failed": self.failed,
            # Of one format alone: elsewhere it would say nothing.
            **({"skipped": self.skipped} if self.format is Format.PERSON else {}),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what compressed files may become.

    Attributes:
        max_bytes: Bytes that a compressed file may hold in all.
        max_ratio: How many times its compressed size that may be, beyond the first `free_bytes`.
        free_bytes: Bytes that are never too many for their compressed size.
    """

    max_bytes: int = 64 * 2**30
    max_ratio: int = 200
    free_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export says about itself; the text of `docs/import-export.md` defines each member.

    Attributes:
        memories: Lines.
        people: People whose memories they are.
        size_bytes: Bytes of the lines, before compression.
        sha256: SHA-256 of the lines, before compression, as hex digits.
        content_hash: Hash of what the lines say, whatever their ids and their order, as hex digits.
        tenant_id: Where they come from.
        exported_at: When, ISO 8601.
        generator: Program and version.
        include_invalid: Whether expired memories are among them.
        filtered: Whether only those that pass a filter are.
    """

    memories: int
    people: int
    size_bytes: int
    sha256: str
    content_hash: str
    tenant_id: str
    exported_at: str
    generator: str
    include_invalid: bool
    filtered: bool


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        file: The memories.
        manifest_file: What they are checked by.
        manifest: What it says.
    """

    file: Path
    manifest_file: Path
    manifest: Manifest
