"""Who goes on asking after the quota said no; pure.

A refusal is an answer; a hundred of one meter within a minute are a loop that hears none, or somebody who tries what
gives way. An agent that waits between attempts stays far below: with a second between them it is refused 60 times.

It is found among events as they get their leaves, so no operation waits for it. What was counted is this process's
alone: after a restart counting begins anew, and abuse that goes on is found a window later.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cloud.audit.model import Category
from cloud.kernel.errors import QuotaExceededError

REFUSALS: Final = 100
WINDOW_S: Final = 60.0
SERIES: Final = 1_000
"""Logs and meters that are counted at a time, of 100 times each: beyond, who was refused longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Abuse:
    """A tenant that went on asking.

    Attributes:
        log_id: Its log.
        meter: The meter that refused.
        refusals: How many there were since it began, or since it was last told.
    """

    log_id: str
    meter: str
    refusals: int


@dataclass(slots=True)
class _Series:
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=REFUSALS))
    untold: int = 0
    told_s: float | None = None


class Abuses:
    """Counts refusals of each log and meter over a window that moves with them."""

    def __init__(self) -> None:
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()

    def seen(self, log_id: str, event: Mapping[str, Any]) -> Abuse | None:
        """Count an event; what it makes of its log and meter, once in a window.

        Args:
            log_id: Its log.
            event: It; all but refusals for quota are passed over.
        """
        if event.get("reason") != QuotaExceededError.code or event.get("category") == Category.SECURITY.value:
            return None
        meter = str((event.get("details") or {}).get("meter") or "memories")
        series = self._of(log_id, meter)
        at_s = datetime.fromisoformat(event["occurred_at"]).timestamp()
        series.times_s.append(at_s)
        series.untold += 1
        # Neighbours are out of order, and clocks jump: what counts is how far apart they are.
        if len(series.times_s) < REFUSALS or abs(at_s - series.times_s[0]) > WINDOW_S:
            series.untold = min(series.untold, REFUSALS - 1)
            return None
        if series.told_s is not None and abs(at_s - series.told_s) < WINDOW_S:
            return None
        found = Abuse(log_id, meter, series.untold)
        series.told_s, series.untold = at_s, 0
        return found

    def _of(self, log_id: str, meter: str) -> _Series:
        series = self._series.setdefault((log_id, meter), _Series())
        self._series.move_to_end((log_id, meter))
        if len(self._series) > SERIES:
            self._series.popitem(last=False)
        return series
