"""Writes memories to a file: a person at a time, each as they are at one moment, under its name only once it is whole.

While it grows the file is `.NAME.part`, mode 0600, which one export at a time may write. The manifest is in its place
before the memories get their name, so a file of that name is whole and can be checked.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Final

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import Changes, LedgerRow, LedgerState, SealedRow, named_revisions
from cloud.memory.snapshots import open_memory
from cloud.storage.home import sync_directory, write_private
from cloud.transfer.ports import Progress
from cloud.transfer.records import Hasher, line_of, manifest_path
from src.memory.filters import SearchRequest
from src.memory.predicates import tester

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.05
_COMPRESSION: Final = 6
_ACTIVE: Final = "active"


class PeoplesMemories:
    """Reads a tenant's memories for an export.

    Args:
        config: The installation.
    """

    def __init__(self, config: PixeltableConfig) -> None:
        self._config = config

    def people(self, predicate: TenantPredicate, user_id: str | None) -> Iterator[SubjectKey]:
        """The person, or everybody of the tenant.

        Args:
            predicate: The tenant.
            user_id: The person; `None` for everybody.
        """
        keyring, tenant_id = self._config.keyring, predicate.tenant_id
        if user_id is not None:
            person = keyring.resolve_subject(tenant_id, user_id, create=False)
            if person is not None:
                yield person
            return
        for subject_id in keyring.subjects(tenant_id):
            person = keyring.subject_key(tenant_id, subject_id)
            # Somebody may have been erased since the list was made.
            if person is not None:
                yield person

    def lines(self, predicate: TenantPredicate, person: SubjectKey, request: SearchRequest) -> Iterator[bytes]:
        """A line for each memory of a person that passes, in the order of their ids, as of one moment.

        Raises:
            ProviderUnavailableError: A plane did not answer, or lacks a memory that the ledger holds.
            SealBrokenError: A row does not open in its place.
        """
        passes, now = tester(request.predicate), self._config.clock()
        for ledger, row in self._rows(predicate, person):
            memory = open_memory(self._config.vectorizer, row, person.key)
            valid = ledger.state is LedgerState.ACTIVE and memory.valid_at(now)
            if (valid or request.include_invalid) and passes(memory):
                yield line_of(memory.opened(now))

    def _rows(self, predicate: TenantPredicate, person: SubjectKey) -> list[tuple[LedgerRow, SealedRow]]:
        """The person's rows that are not deleted, each in the revision that the ledger names."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            changes = self._config.ledger.changes(predicate, person.subject_id, since=0)
            if changes.state != _ACTIVE:
                # Nothing was ever stored, or the person is being erased.
                return []
            found = self._matching(predicate, person.subject_id, changes)
            if found is not None:
                return found
        raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")

    def _matching(
        self, predicate: TenantPredicate, subject_id: str, changes: Changes
    ) -> list[tuple[LedgerRow, SealedRow]] | None:
        wanted = {row.memory_id: row for row in changes.ledger if row.state is not LedgerState.DELETED}
        found = {row.memory_id: row for row in named_revisions(changes.waiting, wanted)}
        if len(found) < len(wanted):
            newer = self._config.rows.newer(
                predicate, changes.placement, subject_id, since=0, known=wanted, without=changes.deleted
            )
            found.update((row.memory_id, row) for row in newer)
        if len(found) < len(wanted):
            # Between the two reads a memory was changed, or materialized and changed.
            return None
        return [(wanted[memory_id], found[memory_id]) for memory_id in sorted(wanted)]


class ExportFile:
    """A file that is being written; `new_export` makes it.

    Attributes:
        hasher: Its hashes so far.
        people: People whose memories are in it so far.
    """

    def __init__(self, raw: BufferedWriter, path: Path) -> None:
        self._raw = raw
        self._path = path
        self._out = (
            gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=raw, mtime=0)
            if path.name.endswith(".gz")
            else None
        )
        self.hasher = Hasher()
        self.people = 0

    def write(self, lines: Iterator[bytes], progress: Progress) -> None:
        """Write the lines of one person."""
        before = self.hasher.lines
        out = self._out or self._raw
        for line in lines:
            out.write(line)
            self.hasher.add(line)
        if self.hasher.lines > before:
            self.people += 1
            failpoints.reach("export.person_written")
            progress(self.hasher.lines)

    def complete(self) -> None:
        """All of it is durable, still under its temporary name."""
        if self._out is not None:
            self._out.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())

    def publish(self, manifest: bytes, record: Callable[[], None]) -> None:
        """Put the manifest in its place, `record`, and only then give the file its name.

        Raises:
            ConfigurationError: Somebody has made a file of that name meanwhile.
        """
        beside = manifest_path(self._path)
        write_private(beside, manifest)
        try:
            record()
            failpoints.reach("export.recorded")
            named(part_of(self._path), self._path)
        except BaseException:
            if not self._path.exists():
                beside.unlink(missing_ok=True)
            raise
        sync_directory(self._path.parent)


@contextmanager
def new_export(path: Path) -> Iterator[ExportFile]:
    """A file that will be at `path` once it is published; if the block fails, nothing that it wrote stays.

    Raises:
        ConfigurationError: There is a file at `path`, another export is writing it, or it cannot be written.
    """
    try:
        part = part_of(path)
        with exclusive(part, path) as raw:
            try:
                if path.exists():
                    raise ConfigurationError(f"{path} exists; an export never overwrites")
                # What a killed export left.
                raw.truncate()
                yield ExportFile(raw, path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror or type(exc).__name__}") from exc


@contextmanager
def exclusive(part: Path, path: Path) -> Iterator[BufferedWriter]:
    """The file at `part`, which will be at `path`: this account's own and this export's alone.

    Raises:
        ConfigurationError: Another export is writing it, or it is somebody else's.
        OSError: It cannot be opened.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        mine = os.fstat(descriptor)
        if mine.st_uid != os.geteuid() or mine.st_nlink > 1:
            raise ConfigurationError(f"{part} is not this export's own: remove it, or export somewhere else")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one that held the lock may have ended, and taken the temporary name away.
            if not os.path.samestat(part.stat(), mine):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as exc:
            raise ConfigurationError(f"another export is writing {path}") from exc
        os.fchmod(descriptor, 0o600)
        yield raw


def named(part: Path, path: Path) -> None:
    """Give the file at `part` the name `path`, unless there is such a file.

    Raises:
        ConfigurationError: There is one.
    """
    try:
        path.hardlink_to(part)
    except FileExistsError as exc:
        raise ConfigurationError(f"{path} exists; an export never overwrites") from exc


def part_of(path: Path) -> Path:
    """What a file that will be at `path` is called while it grows."""
    return path.with_name(f".{path.name}.part")
