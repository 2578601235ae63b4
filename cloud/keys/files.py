"""What the keyring asks of the file system: privacy, durable names, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError

_OTHERS: Final = 0o077
_POLL_S: Final = 0.0005


def others_may_enter(found: os.stat_result) -> bool:
    """Whether the mode of a file or a directory gives anything to group or others."""
    return bool(found.st_mode & _OTHERS)


def sync_directory(directory: Path) -> None:
    """Makes new and renamed entries of `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WriterLock:
    """One holder among all threads and processes that opened the same file; released when its process dies.

    `flock` and not POSIX record locks: those are lost as soon as any descriptor of the file is closed.
    """

    def __init__(self, path: Path, *, timeout_s: float, busy: str = "is busy with another writer") -> None:
        """
        Args:
            path: The lock file; it is made if it is missing and never removed.
            timeout_s: How long `held` waits.
            busy: What the keyring is doing while somebody else holds the lock, for the error.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._thread_lock = threading.Lock()
        self._timeout_s = timeout_s
        self._busy = busy

    def is_held(self) -> bool:
        """Whether somebody holds it at this moment."""
        if not self._thread_lock.acquire(blocking=False):
            return True
        try:
            if not self._try_flock():
                return True
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            return False
        finally:
            self._thread_lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock; it must not be asked for again inside.

        Raises:
            ProviderUnavailableError: Somebody else held it for `timeout_s`.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._thread_lock.acquire(timeout=self._timeout_s):
            raise ProviderUnavailableError("keyring", reason=self._busy)
        try:
            while not self._try_flock():
                if time.monotonic() >= deadline:
                    raise ProviderUnavailableError("keyring", reason=self._busy)
                time.sleep(_POLL_S)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def close(self) -> None:
        """Closes the lock file."""
        os.close(self._descriptor)

    def _try_flock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
