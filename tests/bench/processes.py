"""What processes cost, as `/proc` tells it: processor time, memory, bytes in directories."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def cpu_ms(pid: int) -> float:
    """Processor time of a process with all its threads so far, in steps of 10 ms; 0 once it has ended."""
    user, system, *_ = _times(pid)
    return (user + system) * _TICK_MS


def family_cpu_ms(pid: int) -> float:
    """Processor time of a process, of its children, and of those that have ended; for a PostgreSQL server."""
    total = sum(_times(pid))
    for child in _children(pid):
        user, system, *_ = _times(child)
        total += user + system
    return total * _TICK_MS


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of processes; what several share is divided among them (PSS)."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def directory_bytes(directory: Path) -> int:
    """What the files below a directory take."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:
                continue  # removed since it was listed
    return total


def _times(pid: int) -> tuple[int, int, int, int]:
    """User and system time of a process, and of its children that have ended, in ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
