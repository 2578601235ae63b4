"""Where the files of an export go: into a directory, or into one encrypted archive. A half one stays nowhere.

The archive is a ZIP, written from its beginning to its end without knowing the size of anything, so nothing waits on a
disk: every system opens one, once it is decrypted.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cloud.gdpr.encrypting import Recipients, encrypted
from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import sync_directory
from cloud.transfer.exporting import exclusive, named, part_of

SUFFIX: Final = ".zip.age"
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_COMPRESSION: Final = 6


class Bundle(Protocol):
    """The files of one export, written one after another."""

    @property
    def files(self) -> tuple[str, ...]:
        """Their names so far."""
        ...

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """The next file, for writing.

        Raises:
            OSError: It cannot be written.
        """
        ...


class DirectoryBundle:
    """Files in a directory, each with mode 0600, in the clear."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[str] = []

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self._files)

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        descriptor = os.open(
            self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        self._files.append(name)
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(descriptor, 0o600)
            yield out
            out.flush()
            os.fsync(descriptor)

    def discard(self) -> None:
        """Nothing that was written stays."""
        for name in self._files:
            (self._directory / name).unlink(missing_ok=True)


class ArchiveBundle:
    """Members of a ZIP archive that is written to a stream."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._files: list[str] = []

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self._files)

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        member = zipfile.ZipInfo(name, _EARLIEST)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.external_attr = 0o600 << 16
        self._files.append(name)
        # Its size is not known before, and may be past what a plain archive can say.
        with self._archive.open(member, "w", force_zip64=True) as out:
            yield out  # type: ignore[misc]


@contextmanager
def directory_bundle(directory: Path) -> Iterator[DirectoryBundle]:
    """A bundle in `directory`, which is empty or missing; if the block fails, nothing that it wrote stays.

    Raises:
        ConfigurationError: It is not empty, or cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigurationError(f"{directory} is not empty; export into an empty directory")
        bundle = DirectoryBundle(directory)
        try:
            yield bundle
        except BaseException:
            # Whatever ended it, an interruption too: half of what is kept of a person must not lie about.
            bundle.discard()
            raise
        sync_directory(directory)
    except OSError as exc:
        raise ConfigurationError(f"{directory} cannot be written: {exc.strerror}") from exc


class EncryptedFile:
    """A file at `path` once it is published; until then it has another name."""

    def __init__(self, path: Path, out: BinaryIO) -> None:
        self._path = path
        self._out = out

    @contextmanager
    def archive(self, recipients: Recipients) -> Iterator[ArchiveBundle]:
        """The bundle in it; all of it is durable when the block has ended."""
        with encrypted(self._out, recipients) as text:
            # Not the archive's own end of the block: after a failure it would go on writing to what is broken.
            archive = zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION)
            try:
                yield ArchiveBundle(archive)
                archive.close()
            finally:
                archive.fp = None  # Else it tries once more when it is collected.
        self._out.flush()
        os.fsync(self._out.fileno())

    def publish(self) -> None:
        """Give it its name.

        Raises:
            ConfigurationError: Somebody has made a file of that name meanwhile.
        """
        named(part_of(self._path), self._path)
        sync_directory(self._path.parent)


@contextmanager
def encrypted_file(path: Path) -> Iterator[EncryptedFile]:
    """A file that will be at `path`, mode 0600, once it is published; if the block fails, nothing stays.

    Raises:
        ConfigurationError: There is a file at `path`, another export is writing it, or it cannot be written.
    """
    try:
        part = part_of(path)
        if path.exists():
            raise ConfigurationError(f"{path} exists; an export never overwrites")
        with exclusive(part, path) as raw:
            try:
                # What a killed export left.
                raw.truncate()
                yield EncryptedFile(path, raw)
            finally:
                part.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror or type(exc).__name__}") from exc
