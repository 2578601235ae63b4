"""What has to hold, as data, and the judgement of a run by it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.bench.figures import ratio

Document = Mapping[str, Any]
PERSISTENT_PEERS = ("pixeltable", "langgraph", "mem0")
MEASURED = {
    "store": ("store", 3.0),
    "retrieve": ("retrieve, hot", 4.0),
    "search": ("filtered search", 5.0),
    "search_text": ("ranked search", 10.0),
    "delete": ("delete", 3.0),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        what: In words.
        limit: The bound, in `unit`.
        unit: Of the value and the limit.
        side: On which side of the limit it holds; the limit itself holds but for `below`.
        value: Finds the value in the results; `None` where it was not measured.
        apart: Whether it needs a measurement that `make bench` leaves out.
    """

    what: str
    limit: float
    unit: str
    side: Literal["at most", "at least", "below"]
    value: Callable[[Document], float | None]
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bar and what was measured."""

    bar: Bar
    value: float | None

    @property
    def verdict(self) -> Literal["holds", "missed", "not measured"]:
        """Of this run."""
        if self.value is None:
            return "not measured"
        match self.bar.side:
            case "at most":
                held = self.value <= self.bar.limit
            case "at least":
                held = self.value >= self.bar.limit
            case "below":
                held = self.value < self.bar.limit
        return "holds" if held else "missed"

    @property
    def good(self) -> bool:
        """Whether it holds, or is of a measurement of its own that was not made."""
        return self.verdict == "holds" or (self.verdict == "not measured" and self.bar.apart)


def at(document: Document, *path: str) -> Any:
    """What is there, or `None`."""
    place: Any = document
    for step in path:
        if not isinstance(place, Mapping) or step not in place:
            return None
        place = place[step]
    return place


def all_bars() -> tuple[Bar, ...]:
    """Every bar, in the order in which they are told."""
    bars = [
        Bar(f"{words}, one caller, at scale: p95", limit_ms, "ms", "at most", _at_scale(operation))
        for operation, (words, limit_ms) in MEASURED.items()
    ]
    bars += [
        Bar(f"{words}, one caller: p95 by that of the fastest persistent peer", 1, "×", "below", _by_peers(operation))
        for operation, (words, _) in MEASURED.items()
    ]
    cold, load = ("throughput", "cold"), ("throughput",)
    bars += [
        Bar("store by a bare committed INSERT, p50 of interleaved rounds", 4, "×", "at most", _by_insert),
        _at_most("retrieve, cold, at scale: p95", 400, "scale", "cells", "retrieve_cold/1", "ours", "p95"),
        _at_most("eight callers for one cold person, all answered: p95", 400, *cold, "eight_callers", "p95"),
        _at_most("hot retrieve of another person beside cold loads: p95", 4, *cold, "hot_beside_loads", "p95"),
        _at_most("hot retrieve beside 200 stores/s: p95", 4, *load, "beside", "beside_stores", "p95"),
        _at_least("stores, one process, eight callers over eight tenants", 500, *load, "stores"),
        Bar("backlog at the end of these stores by that of the middle", 1.5, "×", "at most", _backlog),
        _at_least("hot retrieves, one process, eight callers over eight tenants", 500, *load, "retrieves"),
        Bar(
            "process memory per hot memory", 2_048, "bytes", "at most", _figure(*load, "hot_memory", "bytes_per_memory")
        ),
        _at_least("store_many", 3_000, *load, "store_many"),
        _at_least("import", 3_000, *load, "import"),
        Bar("hot retrieve at 1,000,000 by that at 10,000: p95", 1.5, "×", "at most", _growth, apart=True),
    ]
    return tuple(bars)


def judged(document: Document) -> tuple[Judgement, ...]:
    """Every bar, judged by the results."""
    return tuple(Judgement(bar, bar.value(document)) for bar in all_bars())


def _at_most(what: str, limit_ms: float, *path: str) -> Bar:
    return Bar(what, limit_ms, "ms", "at most", _figure(*path))


def _at_least(what: str, limit_per_s: float, *path: str) -> Bar:
    return Bar(what, limit_per_s, "/s", "at least", _figure(*path, "per_s"))


def _figure(*path: str) -> Callable[[Document], float | None]:
    return lambda document: at(document, *path)


def _at_scale(operation: str) -> Callable[[Document], float | None]:
    return _figure("scale", "cells", f"{operation}/1", "ours", "p95")


def _by_peers(operation: str) -> Callable[[Document], float | None]:
    """Ours by the fastest peer's; none of them may be missing."""

    def value(document: Document) -> float | None:
        cells = at(document, "side_by_side", "cells", f"{operation}/1") or {}
        peers = [at(cells, peer, "p95") for peer in PERSISTENT_PEERS]
        ours = at(cells, "ours", "p95")
        if ours is None or None in peers:
            return None
        return float(ours / min(peers))

    return value


def _by_insert(document: Document) -> float | None:
    cells = at(document, "scale", "cells", "store/1") or {}
    found = ratio(cells.get("ours", {}), cells.get("limits", {}), "p50")
    return found.middle if found else None


def _backlog(document: Document) -> float | None:
    """Mean of the last third by that of the middle third; what a second brings in does not count as growing."""
    samples = at(document, "throughput", "stores", "backlog")
    per_s = at(document, "throughput", "stores", "per_s")
    if not samples or len(samples) < 3 or per_s is None:
        return None
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    return float((sum(last) / len(last)) / max(sum(middle) / len(middle), per_s))


def _growth(document: Document) -> float | None:
    large, small = (at(document, "growth", f"total-{n}", "cells", "retrieve", "p95") for n in (1_000_000, 10_000))
    return None if large is None or small is None else float(large / small)
