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
from cloud.keys.attendance import Attendance
from cloud.keys.files import WriterLock, others_may_enter, sync_directory
from cloud.keys.index import SqliteIndex
from cloud.keys.model import KEY_BYTES, Place, SlotState, encode_place, pack_slot, parse_slot
from cloud.keys.ports import RootKey
from cloud.keys.register import Register
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sealing import checked_key
from cloud.keys.slots import KEYRING_ID_BYTES, SlotFile

SLOTS_NAME: Final = "keys.slots"
INDEX_NAME: Final = "index.sqlite3"
LOCK_NAME: Final = "writer.lock"
ROTATION_LOCK_NAME: Final = "rotation.lock"
LOOKUP_SLOT: Final = 1
_WRITER_TIMEOUT_S: Final = 10.0
_SLOTS_AT_A_TIME: Final = 1024
_ROTATION_BUSY: Final = "is being rotated or backed up already; keyring status shows how far it is"


@dataclass(frozen=True, slots=True)
class KeyringFiles:
    """The open parts of one keyring.

    Attributes:
        directory: Where it is.
        slots: The wrapped keys.
        index: Whose they are.
        register: What the index remembers about the keyring as a whole.
        lock: Held by whoever changes something.
        rotation_lock: Held by whoever rotates or backs up, from the first step to the last.
        root_keys: What its keys are wrapped under.
        attendance: Says that it is open.
        lookup_key: Turns user ids into link tags.
    """

    directory: Path
    slots: SlotFile
    index: SqliteIndex
    register: Register
    lock: WriterLock
    rotation_lock: WriterLock
    root_keys: RootKeys
    attendance: Attendance
    lookup_key: bytes = field(repr=False)

    def wrapping_root_key(self) -> RootKey:
        """The root key to wrap a key under now; for the holder of the writer lock.

        Raises:
            ConfigurationError: It is not within this process's reach.
        """
        key_id = self.register.next_root_key_id() or self.register.root_key_id()
        found = self.root_keys.named(key_id)
        if found is None:
            raise ConfigurationError(f"the keyring is under root key {key_id!r} now; give it to this process")
        return found

    def take_slots(self, count: int) -> tuple[int, ...]:
        """Slots that belong to nobody, inside a transaction of the index; the file grows if there are too few."""
        taken = self.index.take_slots(count)
        while len(taken) < count:
            first = self.index.capacity() + 1
            self.slots.grow(first, _SLOTS_AT_A_TIME)
            self.index.add_slots(first, _SLOTS_AT_A_TIME)
            taken += self.index.take_slots(count - len(taken))
        return taken

    def close(self) -> None:
        """Closes all of them; for the holder of the writer lock, which stays open."""
        self.attendance.close()
        self.index.close()
        self.slots.close()
        self.rotation_lock.close()


def tenant_place(tenant_id: str, slot: int) -> Place:
    """Where a tenant's wrapped key belongs."""
    return Place(tenant_id, "", f"slot:{slot}", "tenant_key")


def subject_place(tenant_id: str, subject_id: str, slot: int) -> Place:
    """Where a subject's wrapped data key belongs."""
    return Place(tenant_id, subject_id, f"slot:{slot}", "subject_key")


def lookup_aad() -> bytes:
    """What the wrapped lookup key is bound to."""
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
            slots.write(LOOKUP_SLOT, pack_slot(root_key.wrap(os.urandom(KEY_BYTES), lookup_aad())))
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


def open_keyring(directory: Path, root_keys: RootKeys) -> KeyringFiles:
    """The open files of a keyring that is whole and belongs to one of `root_keys`.

    Raises:
        ConfigurationError: A part is missing or damaged, the parts do not belong together, others may enter the
            directory, or it is under another root key.
    """
    if others_may_enter(directory.stat()):
        raise ConfigurationError(f"the keyring {directory} is open to others; run: chmod 700 {directory}")
    with ExitStack() as undo:
        index = SqliteIndex(directory / INDEX_NAME)
        undo.callback(index.close)
        slots = SlotFile.open(directory / SLOTS_NAME)
        undo.callback(slots.close)
        lock = WriterLock(directory / LOCK_NAME, timeout_s=_WRITER_TIMEOUT_S)
        undo.callback(lock.close)
        rotation_lock = WriterLock(directory / ROTATION_LOCK_NAME, timeout_s=0, busy=_ROTATION_BUSY)
        undo.callback(rotation_lock.close)
        with lock.held():
            # A process that died within a destruction may have left copies of links in the journal.
            index.scrub_journal()
            # Before the root key is looked at: a rotation either sees this entry, or is seen below.
            attendance = Attendance(directory, root_keys)
            undo.callback(attendance.close)
            register = Register(index)
            lookup_key = _checked_lookup_key(slots, register, index, root_keys)
        undo.pop_all()
    return KeyringFiles(directory, slots, index, register, lock, rotation_lock, root_keys, attendance, lookup_key)


def _checked_lookup_key(slots: SlotFile, register: Register, index: SqliteIndex, root_keys: RootKeys) -> bytes:
    if index.meta("keyring_id") != slots.keyring_id or slots.capacity() < index.capacity():
        raise ConfigurationError(
            "the keyring's slots file and index do not belong together; restore both from one backup"
        )
    made_with, moving_to = register.root_key_id(), register.next_root_key_id()
    if moving_to is not None and root_keys.named(moving_to) is None:
        raise ConfigurationError(
            f"this keyring is being moved to root key {moving_to!r}; configure it as other_root_key_file"
        )
    if root_keys.named(made_with) is None:
        raise ConfigurationError(
            f"this keyring was made with root key {made_with!r}, not with {root_keys.first.key_id!r}; "
            "configure that root key"
        )
    slot = parse_slot(slots.read(LOOKUP_SLOT))
    try:
        if slot.state is not SlotState.USED:
            raise SealBrokenError("the slot is empty")
        return checked_key(root_keys.unwrap(slot.wrapped, lookup_aad()))
    except SealBrokenError as exc:
        raise ConfigurationError(
            "the root key does not open this keyring: it is the wrong key, or the slots file is damaged"
        ) from exc
