"""Reads some events out of a log of any length: slice by slice, so that no statement runs long.

Which events are about a person stands within them and has no index: an index of people would be one more place to
erase. So the whole log is looked through, 5,000 events at a time in the order of its own index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa

from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import audit_events

SLICE: Final = 5_000
Wanted = Callable[[Any], sa.ColumnElement[bool]]
"""The condition on an event, given the column of it."""


def events_of(
    engine: ControlEngine, log_id: str, wanted: Wanted, *, since: datetime | None = None, slice_events: int = SLICE
) -> Iterator[dict[str, object]]:
    """The events of a log that are wanted, oldest first.

    Args:
        engine: Reads it.
        log_id: The log.
        wanted: Which events.
        since: The earliest time.
        slice_events: How many events are looked at in one statement.

    Raises:
        ProviderUnavailableError: A slice was not read within the deadline.
    """
    columns = audit_events.c
    place = sa.tuple_(columns.occurred_at, columns.event_id)
    order = (columns.occurred_at, columns.event_id)
    rest: list[sa.ColumnElement[bool]] = [columns.log_id == log_id]
    if since is not None:
        rest.append(columns.occurred_at >= since)
    while True:
        ends = sa.select(*order).where(*rest).order_by(*order).offset(slice_events - 1).limit(1)
        last = next(iter(engine.rows(ends)), None)
        upper = [] if last is None else [place <= sa.tuple_(sa.literal(last[0]), sa.literal(last[1]))]
        query = sa.select(columns.event).where(*rest, *upper, wanted(columns.event)).order_by(*order)
        for row in engine.rows(query):
            yield cast("dict[str, object]", row[0])
        if last is None:
            return
        rest = [columns.log_id == log_id, place > sa.tuple_(sa.literal(last[0]), sa.literal(last[1]))]
