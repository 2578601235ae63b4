"""Which processes have a keyring open, and which root keys each of them can reach.

Each opening keeps a small file in the keyring's directory, locked while it is open; the kernel gives the lock back
when the process dies, however it dies. So nobody is counted who is gone, and a rotation of the root key can be refused
before it would lock somebody out. The holder of the writer lock alone enters, leaves and counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.keys.rootkeys import RootKeys

_PREFIX: Final = "open-"
_MAX_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Attendee:
    """One opening of the keyring.

    Attributes:
        root_key_ids: Root keys that it had when it opened.
        root_key_file: The file that it finds others beside; empty if it was given its root keys.
    """

    root_key_ids: frozenset[str]
    root_key_file: str

    def reaches(self, key_id: str, root_keys: RootKeys) -> bool:
        """Whether it can use this root key, which `root_keys` has or has put beside its file."""
        here = str(root_keys.file.resolve()) if root_keys.file is not None else ""
        return key_id in self.root_key_ids or (bool(here) and here == self.root_key_file)


class Attendance:
    """This process's own entry; `close` takes it back."""

    def __init__(self, directory: Path, root_keys: RootKeys) -> None:
        """Enters; entries that dead processes left are removed."""
        for _ in _attendees(directory, sweep=True):
            pass
        self._path = directory / f"{_PREFIX}{secrets.token_hex(8)}"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entry = {
            "root_key_ids": list(root_keys.ids),
            "root_key_file": str(root_keys.file.resolve()) if root_keys.file is not None else "",
        }
        os.write(self._descriptor, json.dumps(entry).encode())

    def close(self) -> None:
        """Leaves."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def attendees(directory: Path) -> tuple[Attendee, ...]:
    """Every opening of the keyring in `directory` at this moment, in any process."""
    return tuple(_attendees(directory, sweep=False))


def _attendees(directory: Path, *, sweep: bool) -> Iterator[Attendee]:
    for path in sorted(directory.glob(f"{_PREFIX}*")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield _parsed(os.read(descriptor, _MAX_BYTES))
            else:
                if sweep:
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _parsed(entry: bytes) -> Attendee:
    try:
        match json.loads(entry):
            case {"root_key_ids": list(ids), "root_key_file": str(file)}:
                return Attendee(frozenset(map(str, ids)), file)
    except ValueError:
        pass
    # Cannot be read, so nothing is known of what it can reach.
    return Attendee(frozenset(), "")
