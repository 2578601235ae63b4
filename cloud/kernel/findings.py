"""What a look at an installation finds: facts, and for what is wrong how to mend it. Nothing personal is in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """It works, and could stop to, or is less safe than it should be."""
    PROBLEM = "problem"
    """It does not work, or loses what it promises."""
    SKIPPED = "skipped"
    """Nobody looked: something that comes before it is a problem already."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at, as a short stable name.
        level: How much it matters.
        what: What is so, in one sentence.
        how_to_mend: What whoever runs the service can do; `None` where there is nothing to do.
    """

    check: str
    level: Level
    what: str
    how_to_mend: str | None = None


def ok(check: str, what: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, how_to_mend: str) -> Finding:
    """It works and should be seen to."""
    return Finding(check, Level.WARNING, what, how_to_mend)


def problem(check: str, what: str, how_to_mend: str | None) -> Finding:
    """It must be mended."""
    return Finding(check, Level.PROBLEM, what, how_to_mend)


def holds(findings: Iterable[Finding]) -> bool:
    """Whether none of them is a problem."""
    return all(finding.level is not Level.PROBLEM for finding in findings)
