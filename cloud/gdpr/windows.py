"""Hours of the day in which stored data may be rewritten."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from cloud.kernel.errors import ConfigurationError

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Windows:
    """Spans of every day (UTC); one that ends before it begins goes over midnight. None at all means at any time."""

    spans: tuple[tuple[time, time], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Windows:
        """Of a text such as `02:00-04:00,23:30-00:30`; empty or `None` for any time.

        Raises:
            ConfigurationError: It is written in another way, or a window has no length.
        """
        spans = []
        for part in (text or "").replace(" ", "").split(","):
            if not part:
                continue
            found = _WINDOW.fullmatch(part)
            if found is None or (found[1], found[2]) == (found[3], found[4]):
                raise ConfigurationError(
                    f"rewrite_windows: {part!r} is no window; write them as 02:00-04:00, in UTC, separated by commas"
                )
            spans.append((time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))))
        return cls(tuple(spans))

    def next_open(self, now: datetime) -> datetime:
        """`now` if a window is open, otherwise when the next one opens (UTC)."""
        if not self.spans or any(_is_within(now.time(), *span) for span in self.spans):
            return now
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        opens = [today + timedelta(hours=start.hour, minutes=start.minute) for start, _ in self.spans]
        return min(moment if moment > now else moment + timedelta(days=1) for moment in opens)


def _is_within(moment: time, start: time, end: time) -> bool:
    return start <= moment < end if start < end else moment >= start or moment < end
