"""Backup of a keyring while it is used, and restoring one into its place.

A backup is in the keyring's index before its file begins: a certificate of an erasure states until when a copy of the
person's key may exist, so no copy may exist that nobody counted. It holds one moment of slots and index: nobody writes
while it is taken.

A restored keyring is unpacked beside its place, tried out and only then renamed there. One that it replaces is
overwritten after that, as every key that is given up.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.keys.attendance import attendees
from cloud.keys.backupfile import BackupHeader, read_backup, read_header, write_backup
from cloud.keys.files import sync_directory
from cloud.keys.layout import INDEX_NAME, LOCK_NAME, SLOTS_NAME, KeyringFiles, is_absent
from cloud.keys.model import SLOT_BYTES
from cloud.keys.reports import KeyringBackup
from cloud.keys.rootkeys import RootKeys

_PIECE_BYTES: Final = 2**20


def back_up(
    files: KeyringFiles,
    path: Path,
    *,
    now: datetime,
    keep: timedelta,
    count: Callable[[KeyringBackup], None] = lambda _: None,
) -> KeyringBackup:
    """A whole backup is at `path`, mode 0600 and durable, when this returns.

    Args:
        files: The keyring.
        path: Must not exist; in a directory that does.
        now: The present, UTC.
        keep: How long its file may be kept.
        count: Given the backup before anything of it exists, to count it elsewhere, too; what it raises ends the
            backup. What it counted stays counted, whatever comes after.

    Raises:
        ConfigurationError: The path exists or its directory does not; `keep` is no time; the keyring is in the
            middle of a rotation.
        ProviderUnavailableError: Another backup or a rotation is under way, or the disk is full; nothing is left. One
            whose directory could not be flushed is gone, and counted.
    """
    if keep <= timedelta():
        raise ConfigurationError("a backup is kept for at least one day")
    if path.exists() or path.is_symlink() or not path.parent.is_dir():
        raise ConfigurationError(f"{path} exists already, or its directory does not; name a new file")
    with files.rotation_lock.held(), files.lock.held():
        register = files.register
        if register.next_root_key_id() is not None or register.rotating_tenants():
            raise ConfigurationError("a rotation was interrupted; finish it first: luminescent-cloud keyring rotate")
        files.index.scrub_journal()
        backup = KeyringBackup(
            backup_id=secrets.token_hex(8),
            made_at=now,
            expires_at=now + keep,
            epoch=files.index.number("epoch") + 1,
            root_key_id=register.root_key_id(),
            complete=False,
        )
        count(backup)
        with files.index.transaction():
            register.add_backup(backup)
        failpoints.reach("backup.registered")
        try:
            _write(files, path, backup)
        except OSError as exc:
            with files.index.transaction():
                register.drop_backup(backup.backup_id)
            raise ProviderUnavailableError("keyring backup", reason=f"could not be written: {exc.strerror}") from exc
        try:
            sync_directory(path.parent)
        except OSError as exc:
            # Whether its name is on the disk nobody knows, so it counts as one that is there.
            path.unlink(missing_ok=True)
            raise ProviderUnavailableError("keyring backup", reason=f"could not be flushed: {exc.strerror}") from exc
        failpoints.reach("backup.written")
        whole = _completed(backup)
        with files.index.transaction():
            register.add_backup(whole)
    return whole


def _write(files: KeyringFiles, path: Path, backup: KeyringBackup) -> None:
    image = files.index.image()
    slots = files.index.capacity() + 1
    header = BackupHeader(backup, files.slots.keyring_id.hex(), slots * SLOT_BYTES, len(image))

    def content() -> Iterator[bytes]:
        at_a_time = _PIECE_BYTES // SLOT_BYTES
        for first in range(0, slots, at_a_time):
            yield files.slots.read_many(first, min(at_a_time, slots - first))
        yield image

    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            write_backup(out, header, content(), files.wrapping_root_key())
            out.flush()
            os.fsync(descriptor)
        # A link and no rename: a file that somebody put there meanwhile is not replaced.
        os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def _completed(backup: KeyringBackup) -> KeyringBackup:
    return KeyringBackup(
        backup_id=backup.backup_id,
        made_at=backup.made_at,
        expires_at=backup.expires_at,
        epoch=backup.epoch,
        root_key_id=backup.root_key_id,
        complete=True,
    )


def header_of(path: Path) -> BackupHeader:
    """What the backup at `path` says in the clear.

    Raises:
        ConfigurationError: It cannot be read, or is no backup.
    """
    try:
        with path.open("rb") as file:
            return read_header(file)
    except OSError as exc:
        raise ConfigurationError(f"the backup {path} cannot be read: {exc.strerror}") from exc


def restore(
    directory: Path,
    path: Path,
    root_keys: RootKeys,
    *,
    replace: bool,
    prepare: Callable[[Path], None],
) -> None:
    """The keyring of the backup is in `directory`, tried out and prepared, when this returns; or nothing changed.

    Args:
        directory: The keyring's place.
        path: The backup.
        root_keys: Must have the one that the backup is sealed under.
        replace: Whether a keyring that is there now is given up.
        prepare: Given the unpacked keyring before it is used; what it raises ends the restoring.

    Raises:
        ConfigurationError: The backup cannot be used; there is a keyring and `replace` is false; or a process has
            the present one open.
        ProviderUnavailableError: Another restoring is under way, or the disk is full.
    """
    with _alone(directory.parent):
        if not is_absent(directory) and not replace:
            raise ConfigurationError(
                f"there is a keyring in {directory}. --replace gives it up, with the keys of everybody who came after "
                "this backup was made; make a backup of it before: luminescent-cloud keyring backup --out FILE"
            )
        if directory.exists() and attendees(directory):
            raise ConfigurationError(
                f"{len(attendees(directory))} process(es) have the keyring open; stop the service first"
            )
        draft, aside = directory.with_name(f".{directory.name}.restored"), directory.with_name(f".{directory.name}.old")
        _destroy(draft)
        try:
            _unpack(path, root_keys, draft)
            failpoints.reach("restore.unpacked")
            prepare(draft)
            if directory.exists():
                _destroy(aside)
                directory.rename(aside)
            failpoints.reach("restore.put_aside")
            draft.rename(directory)
            sync_directory(directory.parent)
        except OSError as exc:
            raise ProviderUnavailableError("keyring", reason=f"could not be restored: {exc.strerror}") from exc
        finally:
            if aside.exists() and not directory.exists():
                aside.rename(directory)
            _destroy(draft)
        failpoints.reach("restore.in_place")
        _destroy(aside)


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ProviderUnavailableError("keyring", reason="is being restored by another process") from exc
        yield
    finally:
        os.close(descriptor)


def _unpack(path: Path, root_keys: RootKeys, draft: Path) -> None:
    draft.mkdir(mode=0o700)
    with path.open("rb") as file:
        header, content = read_backup(file, root_keys)
        sizes = {SLOTS_NAME: header.slots_bytes, INDEX_NAME: header.index_bytes}
        waiting = b""
        for name, size in sizes.items():
            descriptor = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                while size:
                    waiting = waiting or next(content)
                    out.write(waiting[:size])
                    waiting, size = waiting[size:], size - len(waiting[:size])
                out.flush()
                os.fsync(descriptor)
        # What follows the last chunk is an error too.
        for _ in content:
            raise ConfigurationError("this backup is damaged, cut off or was altered; use another one")
    os.close(os.open(draft / LOCK_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_directory(draft)


def _destroy(directory: Path) -> None:
    """Overwrites the keys of a keyring that is not used any more, and removes it; one that is not there is fine."""
    if not directory.exists():
        return
    for name in (SLOTS_NAME, INDEX_NAME):
        path = directory / name
        if path.is_file():
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for offset in range(0, os.fstat(descriptor).st_size, _PIECE_BYTES):
                    size = min(_PIECE_BYTES, os.fstat(descriptor).st_size - offset)
                    os.pwrite(descriptor, os.urandom(size), offset)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    shutil.rmtree(directory)
    sync_directory(directory.parent)
