"""Locks between the processes of one machine, on files: none outlives the process that held it.

A lease says "this process uses the server"; the last one to give its lease back stops the server. The locks are
`flock(2)` locks of open files: the kernel drops them with the process, however that ends. Descriptors are not
inherited by programs we start; a forked child closes its copy, so that it neither holds nor ends its parent's lease.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.kernel.errors import ProviderUnavailableError

_POLL_S = 0.02


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextmanager
def exclusive(path: Path, *, deadline_s: float, component: str) -> Iterator[None]:
    """Hold the lock file alone, among all processes and threads.

    Args:
        path: The lock file; it is created if missing and never removed.
        deadline_s: How long to wait for it, in seconds.
        component: What the error names as unavailable.

    Raises:
        ProviderUnavailableError: Others held it until the deadline.
    """
    give_up_at = time.monotonic() + deadline_s
    descriptor = _open(path)
    try:
        # Polled: a blocking flock cannot be given a deadline.
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= give_up_at:
                raise ProviderUnavailableError(component, reason="is being started or stopped by another process")
            time.sleep(_POLL_S)
        yield
    finally:
        # Said to the lock, not only to the descriptor: a child forked meanwhile has a copy of the latter.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


class Lease:
    """A share in a lock file, held from construction until `release`."""

    def __init__(self, path: Path) -> None:
        """Take the share.

        Args:
            path: The lock file; it is created if missing. Whoever may lock it alone (`release`) must hold another
                lock around that and around every construction, so that this never waits.
        """
        self._path = path
        self._descriptor = _open(path)
        self._released = False
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        _held.add(self)

    def release(self) -> bool:
        """Give the share back; returns whether it was the last one of all processes. Idempotent."""
        if self._released:
            return False
        self._released = True
        _held.discard(self)
        try:
            # Turning a share into an exclusive lock succeeds exactly when nobody else holds a share.
            last = _try_lock(self._descriptor, fcntl.LOCK_EX)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self._descriptor)
        return last

    def abandon(self) -> None:
        """Close this process's copy of the descriptor and leave the share to the process it was copied from."""
        if not self._released:
            self._released = True
            os.close(self._descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_held: weakref.WeakSet[Lease] = weakref.WeakSet()


def _abandon_after_fork() -> None:
    for lease in list(_held):
        lease.abandon()
    _held.clear()


os.register_at_fork(after_in_child=_abandon_after_fork)
