"""The directory of a backup: written beside its place under another name, and renamed when all of it is durable.

What a process was killed in, or a full disk left, never has the name of a backup and has no manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from cloud.backup.manifest import MANIFEST
from cloud.backup.sealedfile import PIECE_BYTES, sealed, unsealed
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError
from cloud.keys.ports import RootKey
from cloud.storage.home import sync_directory, write_private
from cloud.storage.roles import CONTROL_DATABASE, DATA_DATABASE

DUMPS: Final = {CONTROL_DATABASE: "control.dump", DATA_DATABASE: "data.dump"}
"""The file of each database; sealed ones end in `.sealed`."""
_SEALED: Final = ".sealed"
_COPIES: Final = (*DUMPS.values(), *(f"{name}{_SEALED}" for name in DUMPS.values()))


def part_of(directory: Path, backup_id: str) -> Path:
    """Where a backup is while it is written."""
    return directory.with_name(f".{directory.name}.{backup_id}.part")


def check_free(directory: Path) -> None:
    """A backup can be put at `directory`.

    Raises:
        ConfigurationError: There is something, or its parent is no directory.
    """
    if not directory.parent.is_dir():
        raise ConfigurationError(f"{directory.parent} is no directory")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigurationError(f"{directory} is there and no directory; name a new one")
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigurationError(f"{directory} is not empty; name a new directory for each backup")


class Draft:
    """A backup while it is written.

    Args:
        directory: Where it is to be.
        backup_id: Its id.
        key: Seals its files; `None` to leave them as they are.
    """

    def __init__(self, directory: Path, backup_id: str, key: RootKey | None) -> None:
        self._directory = directory
        self._part = part_of(directory, backup_id)
        self._backup_id = backup_id
        self._key = key
        self.files: dict[str, tuple[int, str]] = {}
        self._in_place = False

    def begin(self) -> None:
        """There is a place to write to."""
        self._part.mkdir(mode=0o700)

    def add(self, name: str, pieces: Iterable[bytes], told: Callable[[int], None]) -> None:
        """Write a file of these pieces, durably.

        Args:
            told: Told how many bytes are written.
        """
        name, content = self._content(name, pieces)
        digest, size = hashlib.sha256(), 0
        descriptor = os.open(
            self._part / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as out:
            for piece in content:
                out.write(piece)
                digest.update(piece)
                size += len(piece)
                told(size)
            out.flush()
            os.fsync(descriptor)
        self.files[name] = (size, digest.hexdigest())

    def finish(self, manifest: bytes) -> None:
        """The backup is in its place, whole and durable, when this returns."""
        write_private(self._part / MANIFEST, manifest)
        failpoints.reach("data_backup.dumped")
        # Onto an empty directory, or none: what somebody put there meanwhile makes this fail.
        self._part.rename(self._directory)
        self._in_place = True
        self._directory.chmod(0o700)
        sync_directory(self._directory.parent)

    def drop(self) -> bool:
        """Nothing of it is left to be seen; returns whether that is certain.

        Of one that was in its place nobody knows whether that name is on the disk.
        """
        left = self._directory if self._in_place else self._part
        if left.exists():
            shutil.rmtree(left)
        return not self._in_place

    def _content(self, name: str, pieces: Iterable[bytes]) -> tuple[str, Iterable[bytes]]:
        if self._key is None:
            return name, pieces
        return f"{name}{_SEALED}", sealed(pieces, self._key, f"{self._backup_id}/{name}")


def content_of(directory: Path, backup_id: str, name: str, key: RootKey | None) -> Iterator[bytes]:
    """The plain content of a backup's file.

    Raises:
        ConfigurationError: It cannot be read, or is sealed and does not open.
    """
    path = directory / (name if key is None else f"{name}{_SEALED}")
    try:
        with path.open("rb") as file:
            yield from _pieces(file) if key is None else unsealed(file, key, f"{backup_id}/{name}")
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc


def empty(directory: Path, backup_id: str, is_it: Callable[[Path], bool]) -> Path | None:
    """What was copied is gone, of a backup that is complete or not; where it was, or `None` if it is not to be found.

    A directory that is not there is no sign that a backup was deleted: its disk may not be mounted. So whatever shows
    that this is the place stays until `clear`, and who was cut off before it was recorded finds it again. Nothing else
    in the directory is touched, and none that holds another backup.

    Args:
        is_it: Whether the manifest in a directory is this backup's.

    Raises:
        ConfigurationError: A manifest does not hold, or files of a backup are there without one.
        OSError: It cannot be looked at, or not be deleted.
    """
    part = part_of(directory, backup_id)
    if part.is_dir():
        for path in part.iterdir():
            path.unlink()
        sync_directory(part)
        return part
    if not (directory / MANIFEST).exists():
        if any((directory / name).exists() for name in _COPIES):
            raise ConfigurationError(
                f"{directory} has files of a backup and no {MANIFEST}: nobody knows whose they are; delete it by hand"
            )
        return None
    if not is_it(directory):
        return None
    for name in _COPIES:
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    return directory


def clear(place: Path) -> None:
    """What `empty` left goes too, once it is recorded that the backup is gone."""
    (place / MANIFEST).unlink(missing_ok=True)
    if not any(place.iterdir()):
        place.rmdir()
    sync_directory(place.parent)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece
