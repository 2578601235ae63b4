"""Disks that are soon full; `tests.support.homes.fill` fills them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.homes import kill_server

_INSTALLATION_KB = 160 * 1024


@contextmanager
def small_disk(size_kb: int = _INSTALLATION_KB) -> Iterator[Path]:
    """A directory that is a file system of its own, by default as large as an empty installation and a little more."""
    directory = Path(tempfile.mkdtemp(prefix="lum-", dir="/tmp"))
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k,mode=700", "tmpfs", directory],
            check=False,
            capture_output=True,
        ).returncode
    )
    try:
        if not mounted:
            pytest.skip("a file system of a given size needs the right to mount one")
        yield directory
    finally:
        if mounted:
            kill_server(directory)
            subprocess.run(["umount", directory], check=True)
        directory.rmdir()
