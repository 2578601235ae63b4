"""Homes for tests: short paths, and nothing left running or lying about afterwards."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.storage.embedded import EmbeddedPostgres


@contextmanager
def temporary_home(*, prepared: bool = False) -> Iterator[Path]:
    """A private directory with a path short enough for a socket in it; gone afterwards, with its server.

    Args:
        prepared: Not empty, but a copy of a home that was opened and closed before: with a stopped server in it,
            which saves the processor time of making one.
    """
    home = Path(tempfile.mkdtemp(prefix="lum-", dir="/tmp"))
    try:
        if prepared:
            subprocess.run(["cp", "-a", f"{_template()}/.", home], check=True)
        yield home
    finally:
        kill_server(home)
        shutil.rmtree(home, ignore_errors=True)


@functools.cache
def _template() -> Path:
    home = Path(tempfile.mkdtemp(prefix="lum-", dir="/tmp"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    EmbeddedPostgres.open(home).close()
    return home


def kill_server(home: Path) -> None:
    """End every process of the PostgreSQL server of `home`, if one was left; no other process."""
    pid = postmaster_pid(home)
    if pid is None:
        return
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + 5
    while process_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if process_exists(pid):
        os.kill(pid, signal.SIGKILL)


def postmaster_pid(home: Path) -> int | None:
    """Process id of the running PostgreSQL server of `home`."""
    try:
        pid = int((home / "postgres/data/postmaster.pid").read_text().splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, IndexError, ValueError):
        return None
    return pid if os.fsencode(home.resolve() / "postgres/data") in command else None


def process_exists(pid: int) -> bool:
    """Whether a process has this id and has not ended; one that nobody has waited for yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, *, deadline_s: float = 10.0) -> None:
    """Return once no process has this id; fail at the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while process_exists(pid):
        assert time.monotonic() < give_up_at, f"process {pid} still runs"
        time.sleep(0.01)


def fill(ballast: Path) -> None:
    """Leave no room on the disk that this file is on."""
    # Without a buffer: what no longer fits in would be written once more, and fail, when the file is closed.
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
