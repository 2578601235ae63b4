"""Audit events in the control plane: inserted through a server function, never updated, never deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa

from cloud.kernel.ids import SYSTEM_LOG
from cloud.storage import wire
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import audit_events
from cloud.storage.wire import ServerFunction, array

_PAGE = 1_000

_APPEND = ServerFunction(
    "lc_record",
    tenant=wire.TEXT,
    event=wire.JSON,
    outcome=wire.TEXT,
    reason=wire.TEXT,
    ids=array(wire.UUID),
    counts=wire.JSON,
)


class PostgresAuditStore:
    """`AuditStore` on the control plane.

    Args:
        writer: Engine of the request path: it may insert.
        reader: Engine that may read the named log; the request path may read its tenant's, maintenance any.
    """

    def __init__(self, writer: ControlEngine, reader: ControlEngine) -> None:
        self._writer = writer
        self._reader = reader

    def append(
        self,
        log_id: str,
        document: Mapping[str, object],
        *,
        outcome: str,
        reason: str | None,
        resource_ids: tuple[str, ...],
        counts: Mapping[str, int],
    ) -> None:
        self._writer.invoke(
            _APPEND,
            {
                "tenant": log_id,
                "event": dict(document),
                "outcome": outcome,
                "reason": reason,
                "ids": list(resource_ids),
                "counts": dict(counts),
            },
            retry_parameter=None,
        )

    def events(self, log_id: str, *, since: datetime | None, until: datetime | None) -> Iterator[dict[str, object]]:
        """Pages by (time, id), so memory stays bounded however long the log is."""
        table = audit_events.c
        after: tuple[datetime, object] | None = None
        while True:
            query = sa.select(table.event, table.occurred_at, table.event_id).where(table.log_id == log_id)
            if since is not None:
                query = query.where(table.occurred_at >= since)
            if until is not None:
                query = query.where(table.occurred_at < until)
            if after is not None:
                query = query.where(sa.tuple_(table.occurred_at, table.event_id) > sa.tuple_(*map(sa.literal, after)))
            page = self._page(log_id, query.order_by(table.occurred_at, table.event_id).limit(_PAGE))
            for row in page:
                yield cast("dict[str, object]", row[0])
            if len(page) < _PAGE:
                return
            after = (page[-1][1], page[-1][2])

    def _page(self, log_id: str, query: sa.Select[*tuple[Any, ...]]) -> list[Row]:
        def work(connection: sa.Connection) -> list[Row]:
            if log_id != SYSTEM_LOG:
                connection.execute(sa.text("SELECT set_config('luminescent.tenant', :t, true)"), {"t": log_id})
            return list(connection.execute(query).all())

        return self._reader.transaction(work)
