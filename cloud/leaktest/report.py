"""What a leak test came to: how often each path was tried in each way, and what leaked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Check(StrEnum):
    """A way in which a path is tried."""

    CLASSIFIED = "classified"
    CONTROL = "control"
    NEIGHBOUR = "neighbour"
    FOREIGN_ID = "foreign id"
    HOSTILE = "hostile"
    CREDENTIALS = "credentials"
    TOGETHER = "together"
    GONE = "gone"
    RECORDS = "records"


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that was seen and should not have been.

    Attributes:
        path: The path that leaked.
        check: How it was tried.
        how: What was seen.
        example: Who saw what; of what people stored it quotes canaries alone.
        times: How often it was seen.
    """

    path: str
    check: Check
    how: str
    example: str = ""
    times: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run.

    Attributes:
        tenants: The tenants it used.
        seed: What reproduces the order of its attempts.
        attempts: How often each path was tried in each way.
        leaks: What leaked, each way once.
        leftovers: What could not be removed, and why.
        took_s: Seconds it took.
    """

    tenants: tuple[str, ...]
    seed: int
    attempts: Mapping[tuple[str, Check], int]
    leaks: tuple[Leak, ...]
    leftovers: tuple[str, ...] = ()
    took_s: float = 0.0

    @property
    def tight(self) -> bool:
        """Whether nothing leaked."""
        return not self.leaks

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that were tried."""
        return tuple(dict.fromkeys(path for path, _ in self.attempts))

    @property
    def total(self) -> int:
        """How many attempts were made."""
        return sum(self.attempts.values())


@dataclass(slots=True)
class Findings:
    """Collects what a run finds. Safe for threads."""

    attempts: Counter[tuple[str, Check]] = field(default_factory=Counter)
    _leaks: dict[tuple[str, Check, str], Leak] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tried(self, path: str, check: Check) -> None:
        """Count an attempt."""
        with self._lock:
            self.attempts[path, check] += 1

    def leaked(self, path: str, check: Check, how: str, example: str = "") -> None:
        """Keep a leak; of each way that a path leaks in, the first example."""
        with self._lock:
            before = self._leaks.get((path, check, how))
            leak = Leak(path, check, how, example) if before is None else replace(before, times=before.times + 1)
            self._leaks[path, check, how] = leak

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """What leaked so far."""
        with self._lock:
            return tuple(self._leaks.values())
