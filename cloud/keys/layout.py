"""The keyring's directory: its files, how they come into being, and the checks before they are used.

A keyring is never made in place of one that is damaged or missing: that would look like an empty one. It is built in
a directory beside its place and renamed there, so half a keyring is never found.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.files import WriterLock, others_may_enter, sync_directory
from cloud.keys.index import SqliteIndex
from cloud.keys.model import KEY_BYTES, Place, SlotState, encode_place, pack_slot, parse_slot
from cloud.keys.ports import RootKey
from cloud.keys.sealing import checked_key
from cloud.keys.slots import KEYRING_ID_BYTES, SlotFile

SLOTS_NAME: Final = "keys.slots"
INDEX_NAME: Final = "index.sqlite3"
LOCK_NAME: Final = "writer.lock"
LOOKUP_SLOT: Final = 1
_WRITER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class KeyringFiles:
    """The open parts of one keyring."""

    slots: SlotFile
    index: SqliteIndex
    lock: WriterLock
    lookup_key: bytes = field(repr=False)


def tenant_place(tenant_id: str, slot: int) -> Place:
    """Where a tenant's wrapped key belongs."""
    return Place(tenant_id, "", f"slot:{slot}", "tenant_key")


def subject_place(tenant_id: str, subject_id: str, slot: int) -> Place:
    """Where a subject's wrapped data key belongs."""
    return Place(tenant_id, subject_id, f"slot:{slot}", "subject_key")


def _lookup_aad() -> bytes:
    return encode_place(Place("", "", f"slot:{LOOKUP_SLOT}", "lookup_key"))


def is_absent(directory: Path) -> bool:
    """Whether nothing at all is there; a directory with only some of the files is damaged, not absent."""
    return not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))


def create_keyring(directory: Path, root_key: RootKey) -> None:
    """Makes an empty keyring in `directory`, durably; one that another process made meanwhile is kept.

    Raises:
        ConfigurationError: The directory cannot be put there, such as on a mount point.
    """
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        keyring_id = os.urandom(KEYRING_ID_BYTES)
        slots = SlotFile.create(draft / SLOTS_NAME, keyring_id)
        try:
            slots.grow(LOOKUP_SLOT, 1)
            slots.write(LOOKUP_SLOT, pack_slot(root_key.wrap(os.urandom(KEY_BYTES), _lookup_aad())))
            slots.sync()
        finally:
            slots.close()
        meta: dict[str, str | bytes | int] = {
            "keyring_id": keyring_id,
            "root_key_id": root_key.key_id,
            "capacity": LOOKUP_SLOT,
        }
        SqliteIndex.create(draft / INDEX_NAME, meta).close()
        WriterLock(draft / LOCK_NAME, timeout_s=_WRITER_TIMEOUT_S).close()
        sync_directory(draft)
        try:
            draft.rename(directory)
        except OSError as exc:
            # Otherwise somebody else's keyring came first, and is the one to open.
            if is_absent(directory):
                raise ConfigurationError(
                    f"the keyring cannot be made in {directory} ({exc.strerror}); name a new directory inside a volume"
                ) from exc
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_keyring(directory: Path, root_key: RootKey) -> KeyringFiles:
    """The open files of a keyring that is whole and belongs to `root_key`.

    Raises:
        ConfigurationError: A part is missing or damaged, the parts do not belong together, others may enter the
            directory, or it was made with another root key.
    """
    if others_may_enter(directory.stat()):
        raise ConfigurationError(f"the keyring {directory} is open to others; run: chmod 700 {directory}")
    with ExitStack() as undo:
        index = SqliteIndex(directory / INDEX_NAME)
        undo.callback(index.close)
        slots = SlotFile.open(directory / SLOTS_NAME)
        undo.callback(slots.close)
        lookup_key = _checked_lookup_key(slots, index, root_key)
        lock = WriterLock(directory / LOCK_NAME, timeout_s=_WRITER_TIMEOUT_S)
        undo.callback(lock.close)
        with lock.held():
            # A process that died within a destruction may have left copies of links in the journal.
            index.scrub_journal()
        undo.pop_all()
    return KeyringFiles(slots, index, lock, lookup_key)


def _checked_lookup_key(slots: SlotFile, index: SqliteIndex, root_key: RootKey) -> bytes:
    if index.meta("keyring_id") != slots.keyring_id or slots.capacity() < index.capacity():
        raise ConfigurationError(
            "the keyring's slots file and index do not belong together; restore both from one backup"
        )
    made_with = index.meta("root_key_id")
    if made_with != root_key.key_id:
        raise ConfigurationError(
            f"this keyring was made with root key {made_with!r}, not with {root_key.key_id!r}; configure that root key"
        )
    slot = parse_slot(slots.read(LOOKUP_SLOT))
    try:
        if slot.state is not SlotState.USED:
            raise SealBrokenError("the slot is empty")
        return checked_key(root_key.unwrap(slot.wrapped, _lookup_aad()))
    except SealBrokenError as exc:
        raise ConfigurationError(
            "the root key does not open this keyring: it is the wrong key, or the slots file is damaged"
        ) from exc
