"""Which processes of an installation are at work on this machine, and which are gone.

Each keeps a file, locked while it works, named by a random id; the kernel gives the lock back with the process, however
it ends. The file stays, so that whoever looks can tell a process that is gone from one of another machine, of which it
knows nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloud.storage.leases import Lease

_PREFIX: Final = "process-"


class Presence:
    """This process is at work, from construction until `close` or its end.

    Attributes:
        id: What it is known by; says nothing about it.
    """

    def __init__(self, directory: Path) -> None:
        """Begin.

        Args:
            directory: The installation's directory of locks.
        """
        self.id = secrets.token_hex(16)
        self._lease = Lease(directory / f"{_PREFIX}{self.id}")

    def close(self) -> None:
        """End; what was left undone can be known from now on. Idempotent."""
        self._lease.release()


class Processes:
    """The processes of this machine that worked on an installation.

    Args:
        directory: The installation's directory of locks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def gone(self) -> Iterator[frozenset[str]]:
        """The ids of those that are gone; while the block runs nobody else is given the same ones."""
        with contextlib.ExitStack() as stack:
            yield frozenset(filter(None, (self._taken(path, stack) for path in self._directory.glob(f"{_PREFIX}*"))))

    def forget(self, process: str) -> None:
        """Nothing is left to know of one that is gone; to be called while `gone` names it."""
        (self._directory / f"{_PREFIX}{process}").unlink(missing_ok=True)

    @staticmethod
    def _taken(path: Path, stack: contextlib.ExitStack) -> str | None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        stack.callback(os.close, descriptor)
        return path.name.removeprefix(_PREFIX)
