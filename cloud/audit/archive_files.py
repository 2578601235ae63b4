"""Archives as Parquet files: a directory for each log, a file for each run of leaves of a month.

Files are written beside their place and renamed when they are durable, so half a file is never found under its name.
They are read and written a group of rows at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

from cloud.audit.archive import Archive, ArchivedLeaf
from cloud.audit.retention import Month
from cloud.kernel.errors import ConfigurationError, UnreadableFileError
from cloud.storage.home import private_directory, sync_directory

_GROUP: Final = 1_000
_COLUMNS: Final = ("leaf_index", "event_id", "occurred_at", "sequenced_at", "leaf_hash", "event")


class ArchiveFiles:
    """Archives in a directory.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """The directory is there, private to this account.

        Raises:
            ConfigurationError: It cannot be made so.
        """
        private_directory(self._directory)

    def path(self, archive: Archive) -> Path:
        """Where an archive is."""
        return self._directory / archive.file

    def write(self, log_id: str, month: Month, first: int, leaves: Iterable[ArchivedLeaf]) -> Archive | None:
        """Write leaves as one archive, durably; nothing is written if there are none.

        A file of that name that holds something else is kept beside it: after a restore of the database from a backup
        it may be the only place of what was cut off.

        Args:
            log_id: The log.
            month: In which they got their leaves.
            first: Index of the first one.
            leaves: The leaves, in their order.

        Raises:
            ConfigurationError: It cannot be written; says where.
        """
        draft = Archive(log_id, first, first, month, datetime.min, datetime.min, b"", 0)
        path = self.path(draft)
        temporary = path.with_name(f".{path.name}.new")
        try:
            self.prepare()
            private_directory(path.parent)
            sync_directory(self._directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600), "r+b") as file:
                span = _write(file, leaves)
                if span is None:
                    temporary.unlink()
                    return None
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").digest()
                size = file.tell()
            _keep_other(path, digest)
            temporary.replace(path)
            sync_directory(path.parent)
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
        count, oldest, newest = span
        return Archive(log_id, first, first + count, month, oldest, newest, digest, size)

    def check(self, archive: Archive, *, digest: bool = True) -> None:
        """Return if the archive is there and is what was recorded; its size alone is looked at without `digest`.

        Raises:
            UnreadableFileError: It is missing, cannot be read, or was changed; names the file and its leaves.
        """
        with self._opened(archive, digest=digest):
            pass

    def leaves(self, archive: Archive, first: int = 0, end: int | None = None) -> Iterator[ArchivedLeaf]:
        """The leaves from `first` to `end` of an archive, if the file is what was recorded.

        Raises:
            UnreadableFileError: It is not.
        """
        with self._opened(archive) as file:
            try:
                yield from _read(file, first, archive.end if end is None else end)
            except (ValueError, OSError) as exc:  # Arrow's errors are of these.
                raise self._wrong(archive, "format", "is not readable") from exc

    def times(self, archive: Archive) -> Iterator[tuple[int, datetime]]:
        """Index and time of each event of an archive.

        Raises:
            UnreadableFileError: The file is not what was recorded.
        """
        with self._opened(archive) as file:
            try:
                for rows in _groups(file, ("leaf_index", "occurred_at")):
                    for row in rows:
                        yield int(str(row["leaf_index"])), _instant(row["occurred_at"])
            except (ValueError, OSError) as exc:
                raise self._wrong(archive, "format", "is not readable") from exc

    def remove(self, archive: Archive) -> bool:
        """Delete the file, durably; returns whether it was there.

        Raises:
            ConfigurationError: It cannot be deleted.
        """
        path = self.path(archive)
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be deleted: {exc.strerror}") from exc
        return True

    def _opened(self, archive: Archive, *, digest: bool = True) -> BinaryIO:
        try:
            descriptor = os.open(self.path(archive), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            file = os.fdopen(descriptor, "rb")
        except FileNotFoundError as exc:
            raise self._wrong(archive, "io", "is missing") from exc
        except OSError as exc:
            raise self._wrong(archive, "io", f"cannot be read: {exc.strerror}") from exc
        try:
            is_whole = os.fstat(file.fileno()).st_size == archive.bytes
            if is_whole and digest:
                is_whole = hashlib.file_digest(file, "sha256").digest() == archive.sha256
            file.seek(0)
        except OSError as exc:
            file.close()
            raise self._wrong(archive, "io", f"cannot be read: {exc.strerror}") from exc
        if not is_whole:
            file.close()
            raise self._wrong(archive, "changed", "was changed after it was written")
        return file

    def _wrong(self, archive: Archive, reason: str, what: str) -> UnreadableFileError:
        return UnreadableFileError(
            reason, f"the archive {self.path(archive)} with {archive.leaves} {what}; restore it from a backup"
        )


def _write(file: BinaryIO, leaves: Iterable[ArchivedLeaf]) -> tuple[int, datetime, datetime] | None:
    """How many leaves, and the least and greatest time of their events."""
    # Only for who needs it: the import takes a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    instant = pa.timestamp("us", tz="UTC")
    types = (pa.int64(), pa.string(), instant, instant, pa.binary(32), pa.string())
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in zip(_COLUMNS, types, strict=True)])
    count, oldest, newest = 0, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        group: list[dict[str, object]] = []

        def flush() -> None:
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=_GROUP)
                group.clear()

        for leaf in leaves:
            count += 1
            oldest, newest = min(oldest, leaf.occurred_at), max(newest, leaf.occurred_at)
            cells = (leaf.index, leaf.event_id, leaf.occurred_at, leaf.sequenced_at, leaf.hash, leaf.event.decode())
            group.append(dict(zip(_COLUMNS, cells, strict=True)))
            if len(group) == _GROUP:
                flush()
        flush()
    return (count, oldest, newest) if count else None


def _groups(file: BinaryIO, columns: tuple[str, ...]) -> Iterator[list[Mapping[str, object]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=list(columns)).to_pylist()


def _read(file: BinaryIO, first: int, end: int) -> Iterator[ArchivedLeaf]:
    for rows in _groups(file, _COLUMNS):
        for row in rows:
            index = int(str(row["leaf_index"]))
            if first <= index < end:
                yield ArchivedLeaf(
                    index,
                    str(row["event_id"]),
                    _instant(row["occurred_at"]),
                    _instant(row["sequenced_at"]),
                    bytes(cast("bytes", row["leaf_hash"])),
                    str(row["event"]).encode(),
                )


def _instant(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value.astimezone(UTC)


def _keep_other(path: Path, digest: bytes) -> None:
    """A file that stands at `path` and holds something else gets a name of its own."""
    if not path.exists():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    if found.digest() != digest:
        path.replace(path.with_name(f"{path.stem}.{found.hexdigest()[:16]}.kept.parquet"))


def parsed(leaf: ArchivedLeaf) -> Mapping[str, object]:
    """The event of a leaf."""
    event: dict[str, object] = json.loads(leaf.event)
    return event
