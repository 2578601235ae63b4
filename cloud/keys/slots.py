"""The slots file: wrapped keys at fixed places, overwritten there when they are destroyed.

Why not rows of a database: a row moves when its page is split, and each move leaves a copy in blocks that the file
system has freed and nobody overwrites. A slot never moves. Its blocks are written when the file grows, so a later
overwrite reaches the same blocks on a file system that writes in place (ext4, XFS). What a copy-on-write file system
or the disk does beneath is beyond this file.

The first slot is a header; numbers of keys begin at 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError, ErasureIncompleteError, ProviderUnavailableError
from cloud.keys.model import SLOT_BYTES, SlotState

_MAGIC: Final = b"LUMINESCENT-SLOTS-1\n"
_PAGE_BYTES: Final = 4096
KEYRING_ID_BYTES: Final = 16


class SlotFile:
    """Reads and overwrites slots in place. Who writes must hold the keyring's writer lock."""

    def __init__(self, descriptor: int, keyring_id: bytes) -> None:
        self._descriptor = descriptor
        self.keyring_id = keyring_id

    @classmethod
    def create(cls, path: Path, keyring_id: bytes) -> SlotFile:
        """A new file without slots.

        Args:
            path: Must not exist.
            keyring_id: 16 random bytes that tie the file to its index.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        slots = cls(descriptor, keyring_id)
        slots.write(0, (_MAGIC + keyring_id).ljust(SLOT_BYTES, b"\0"))
        slots.sync()
        return slots

    @classmethod
    def open(cls, path: Path) -> SlotFile:
        """The existing file.

        Raises:
            ConfigurationError: It is missing or no slots file.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise ConfigurationError(
                f"the keyring's slots file {path} cannot be opened ({exc.strerror}); restore the keyring's backup"
            ) from exc
        header = os.pread(descriptor, SLOT_BYTES, 0)
        if len(header) != SLOT_BYTES or not header.startswith(_MAGIC):
            os.close(descriptor)
            raise ConfigurationError(f"{path} is not a slots file of this version; restore the keyring's backup")
        return cls(descriptor, header[len(_MAGIC) : len(_MAGIC) + KEYRING_ID_BYTES])

    def capacity(self) -> int:
        """How many slots for keys the file has room for."""
        return os.fstat(self._descriptor).st_size // SLOT_BYTES - 1

    def read(self, slot: int) -> bytes:
        """The 256 bytes of a slot as they are now, in any process; fewer past the end of the file."""
        with _translated():
            return os.pread(self._descriptor, SLOT_BYTES, slot * SLOT_BYTES)

    def read_many(self, first: int, count: int) -> bytes:
        """Slots in a row as they are now; number 0 is the header."""
        with _translated():
            return os.pread(self._descriptor, count * SLOT_BYTES, first * SLOT_BYTES)

    def write(self, slot: int, image: bytes) -> None:
        """Replaces a slot; durable after `sync`."""
        with _translated():
            if os.pwrite(self._descriptor, image, slot * SLOT_BYTES) != SLOT_BYTES:
                raise ProviderUnavailableError("keyring", reason="could not write a whole slot")

    def sync(self) -> None:
        """Makes what was written durable. The file's size changes only in `grow`, so data is enough elsewhere."""
        with _translated():
            os.fdatasync(self._descriptor)

    def grow(self, first: int, count: int) -> None:
        """Adds `count` free slots from number `first` on, durably; room that a crash left behind is used again."""
        with _translated():
            zeros = bytes(count * SLOT_BYTES)  # SlotState.FREE is 0
            if os.pwrite(self._descriptor, zeros, first * SLOT_BYTES) != len(zeros):
                raise ProviderUnavailableError("keyring", reason="has no room for more keys")
            os.fsync(self._descriptor)

    def destroy(self, slots: Sequence[int]) -> None:
        """Overwrites slots with random bytes, makes that durable, and reads it back from the disk.

        Raises:
            ErasureIncompleteError: A slot does not show what was written over it.
        """
        images = {slot: bytes((SlotState.DESTROYED,)) + os.urandom(SLOT_BYTES - 1) for slot in slots}
        for slot, image in images.items():
            self.write(slot, image)
        self.sync()
        for slot, image in images.items():
            offset = slot * SLOT_BYTES
            # Ask the kernel to drop the page (now clean), so that the check below sees the disk where it can.
            page = offset - offset % _PAGE_BYTES
            os.posix_fadvise(self._descriptor, page, _PAGE_BYTES, os.POSIX_FADV_DONTNEED)
            if self.read(slot) != image:
                raise ErasureIncompleteError(("keyring slots",))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ProviderUnavailableError("keyring", reason=f"could not use its slots file: {exc.strerror}") from exc
