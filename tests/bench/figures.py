"""What is made of measured times: percentiles, cells of rounds, ratios of interleaved rounds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values, no percentile")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's turn at one operation.

    Attributes:
        took_ms: Of each call that succeeded.
        failed: Calls that raised what the contender lists as its failures under load.
        wall_s: From the first call's begin to the last one's end.
        cpu_ms: Processor time by where it was spent: `own`, `worker`, `server`; until what the calls left to be done in
            the background was done.
        short: Answers with fewer memories than there are and were asked for, as an approximate index gives.
        errors: Names of what was raised.
    """

    took_ms: list[float]
    failed: int
    wall_s: float
    cpu_ms: dict[str, float]
    short: int = 0
    errors: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """What is kept of it."""
        told = {"calls": len(self.took_ms), "failed": self.failed, "wall_s": round(self.wall_s, 4)}
        told |= {name: round(percentile(self.took_ms, share), 4) for name, share in SHARES.items() if self.took_ms}
        return told | {"cpu_ms": {where: round(ms, 2) for where, ms in self.cpu_ms.items()}}


def cell(rounds: Sequence[Round]) -> dict[str, Any]:
    """All rounds of one contender, operation and number of callers, as the results hold it."""
    took = [ms for one in rounds for ms in one.took_ms]
    calls, failed = len(took), sum(one.failed for one in rounds)
    made: dict[str, Any] = {"calls": calls, "failed": failed, "rounds": [one.summary() for one in rounds]}
    if failed:
        made["errors"] = sorted({name for one in rounds for name in one.errors})
    if short := sum(one.short for one in rounds):
        made["short"] = short
    if not took:
        return made
    made |= {name: round(percentile(took, share), 4) for name, share in SHARES.items()}
    made["per_s"] = round(calls / sum(one.wall_s for one in rounds), 2)
    places = sorted({where for one in rounds for where in one.cpu_ms})
    made["cpu_ms_per_call"] = {
        where: round(sum(one.cpu_ms.get(where, 0.0) for one in rounds) / (calls + failed), 4) for where in places
    }
    return made


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long one contender takes as another.

    Attributes:
        middle: The median of the rounds' ratios.
        least: The smallest of them.
        most: The largest of them.
    """

    middle: float
    least: float
    most: float

    def document(self) -> dict[str, float]:
        """As JSON has it."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def ratio(of: Mapping[str, Any], by: Mapping[str, Any], name: str) -> Ratio | None:
    """Cell `of` by cell `by`, round by round, at the percentile `name`; `None` if no round has both.

    The rounds of both stand beside each other in time, so what the machine did meanwhile is in both.
    """
    pairs = zip(of.get("rounds", ()), by.get("rounds", ()), strict=False)
    found = [one[name] / other[name] for one, other in pairs if one.get(name) and other.get(name)]
    return Ratio(statistics.median(found), min(found), max(found)) if found else None
