"""Trees in the control plane: written as the worker's role, which is the only one that may, and read for an export."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from cloud.audit.heads import Head
from cloud.audit.intents import GONE_ON_WITH, Intent, intents_of, outcomes_of
from cloud.audit.proofs import Leaf
from cloud.audit.sequencer import Growth, PendingEvent, TreeReader
from cloud.audit.tiles import LoadTile, Place
from cloud.kernel import failpoints
from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import audit_events, audit_intents, audit_leaves, audit_pending, audit_tiles, audit_trees

_SEQUENCER: Final = "sequencer of the audit log"
_PAGE: Final = 1_000
_TILES: Final = 256
_LOCK: Final = sa.text("SELECT pg_try_advisory_xact_lock(:space, 0)").bindparams(space=0x6C73)  # 'ls'
_HEADS: Final = sa.select(audit_trees.c.log_id, audit_trees.c.size, audit_trees.c.checkpoint)
_NOW: Final = sa.text("SELECT lc_audit_now()")
_LEAVES: Final = sa.text(
    "INSERT INTO audit_leaves (log_id, leaf_index, sequenced_at, event_id, leaf_hash)"
    " SELECT :log, :first + at - 1, :now, id, hash FROM unnest(:ids, :hashes) WITH ORDINALITY AS leaf (id, hash, at)"
).bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False))), sa.bindparam("hashes", type_=ARRAY(sa.LargeBinary))
)


_ANSWERED: Final = sa.text(
    "DELETE FROM audit_intents i USING unnest(:logs, :requests, :actions, :by_service)"
    " AS e (log_id, request_id, action, by_service)"
    " WHERE i.action = e.action AND (i.request_id = e.request_id OR (e.by_service AND i.log_id = e.log_id))"
).bindparams(
    *(sa.bindparam(name, type_=ARRAY(sa.Text())) for name in ("logs", "requests", "actions")),
    sa.bindparam("by_service", type_=ARRAY(sa.Boolean())),
)
LEFT_BY: Final = (
    " FROM audit_intents i JOIN audit_events e ON e.event_id = i.event_id"
    " WHERE e.event->'details'->>'process' = ANY(:processes)"
    # Its outcome may be among what the sequencer has not come to.
    " AND NOT EXISTS (SELECT FROM audit_pending p JOIN audit_events o ON o.event_id = p.event_id"
    " WHERE p.log_id = i.log_id AND o.event->>'request_id' = i.request_id)"
)
"""What these processes began, of which no outcome is known."""
_LEFT: Final = sa.text(
    "SELECT i.event_id, i.log_id, i.request_id, i.action, i.occurred_at"
    f"{LEFT_BY} AND i.action <> ALL(:gone_on_with) ORDER BY i.occurred_at"
).bindparams(*(sa.bindparam(name, type_=ARRAY(sa.Text())) for name in ("processes", "gone_on_with")))
_UNSEQUENCED: Final = sa.text(
    "SELECT DISTINCT e.event->'details'->>'process' FROM audit_pending p"
    " JOIN audit_events e ON e.event_id = p.event_id WHERE e.event->'details'->>'process' = ANY(:processes)"
).bindparams(sa.bindparam("processes", type_=ARRAY(sa.Text())))


class PostgresTreeStore:
    """`TreeStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def round(
        self,
        grow: Callable[[Sequence[PendingEvent], TreeReader], Sequence[Growth]],
        *,
        batch: int,
        held: Collection[str] = (),
    ) -> int:
        def work(connection: sa.Connection) -> int:
            if not connection.execute(_LOCK).scalar():
                return 0
            # A statement of its own, with the lock held: it sees what the last sequencer committed.
            pending = [
                PendingEvent(str(event_id), log_id, event)
                for event_id, log_id, event in connection.execute(_pending(batch, held))
            ]
            grown = grow(pending, PostgresTreeReader(connection)) if pending else ()
            if grown:
                # The month of this time has its partition; all leaves of a round have the same.
                now = connection.execute(_NOW).scalar_one()
                for growth in grown:
                    _write(connection, growth, now)
            _note_intents(connection, pending)
            failpoints.reach("sequencer.written")
            return len(pending)

        return self._engine.transaction(work)

    def cut_off(self, before: datetime, *, batch: int) -> Sequence[Intent]:
        query = (
            sa.select(audit_intents)
            .where(audit_intents.c.occurred_at < before)
            .order_by(audit_intents.c.occurred_at)
            .limit(batch)
        )
        return [Intent(**{**row._mapping, "event_id": str(row.event_id)}) for row in self._engine.rows(query)]

    def left_by(self, processes: Collection[str]) -> Sequence[Intent]:
        rows = self._engine.rows(_LEFT, {"processes": list(processes), "gone_on_with": list(GONE_ON_WITH)})
        return [Intent(**{**row._mapping, "event_id": str(row.event_id)}) for row in rows]

    def unsequenced_of(self, processes: Collection[str]) -> Collection[str]:
        return {process for (process,) in self._engine.rows(_UNSEQUENCED, {"processes": list(processes)})}

    def forget(self, intent: Intent) -> None:
        self._engine.transaction(
            lambda c: c.execute(
                sa.delete(audit_intents).where(audit_intents.c.event_id == sa.cast(intent.event_id, sa.Uuid))
            )
        )


class PostgresTrees:
    """`Trees` on the control plane.

    Args:
        engine: Engine of a role that may read every log.
    """

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def head(self, log_id: str) -> Head | None:
        query = sa.select(audit_trees.c.size, audit_trees.c.checkpoint).where(audit_trees.c.log_id == log_id)
        rows = self._engine.rows(query)
        return Head(*rows[0]) if rows else None

    def all_heads(self) -> Mapping[str, Head]:
        return {log_id: Head(size, checkpoint) for log_id, size, checkpoint in self._engine.rows(_HEADS)}

    def is_any(self) -> bool:
        """Whether any log has a leaf."""
        return bool(self._engine.rows(sa.select(audit_trees.c.log_id).limit(1)))

    def pending(self, log_id: str, *, batch: int = 10_000) -> list[str]:
        """Events of this log that have no leaf yet, at most so many."""
        query = sa.select(audit_pending.c.event_id).where(audit_pending.c.log_id == log_id).limit(batch)
        return [str(event_id) for (event_id,) in self._engine.rows(query)]

    def any_pending(self, log_id: str, event_ids: Sequence[str]) -> bool:
        """Whether one of these events of a log has no leaf yet."""
        wanted = sa.any_(sa.literal(list(event_ids), ARRAY(sa.Uuid(as_uuid=False))))
        mine = audit_pending.c.log_id == log_id
        query = sa.select(audit_pending.c.event_id).where(mine, audit_pending.c.event_id == wanted).limit(1)
        return bool(self._engine.rows(query))

    def first_since(self, log_id: str, size: int, since: datetime) -> int | None:
        """The first leaf here, below `size`, of an event of `since` or later."""
        return self._leaf(log_id, size, sa.func.min(audit_leaves.c.leaf_index), audit_events.c.occurred_at >= since)

    def last_before(self, log_id: str, size: int, until: datetime) -> int | None:
        """The last leaf here, below `size`, of an event of before `until`."""
        return self._leaf(log_id, size, sa.func.max(audit_leaves.c.leaf_index), audit_events.c.occurred_at < until)

    def _leaf(
        self, log_id: str, size: int, which: sa.ColumnElement[int], condition: sa.ColumnElement[bool]
    ) -> int | None:
        query = (
            sa.select(which)
            .join(audit_events, audit_events.c.event_id == audit_leaves.c.event_id)
            .where(audit_leaves.c.log_id == log_id, audit_leaves.c.leaf_index < size, condition)
        )
        found = self._engine.rows(query)[0][0]
        return None if found is None else int(found)

    def page(self, log_id: str, first: int, end: int) -> list[tuple[int, Mapping[str, object]]]:
        """The leaves from `first` on that are here, at most a page of them, each with its event."""
        query = (
            sa.select(audit_leaves.c.leaf_index, audit_events.c.event)
            .join(audit_events, audit_events.c.event_id == audit_leaves.c.event_id)
            .where(audit_leaves.c.log_id == log_id)
            .where(audit_leaves.c.leaf_index >= first, audit_leaves.c.leaf_index < end)
            .order_by(audit_leaves.c.leaf_index)
            .limit(_PAGE)
        )
        return [(index, event) for index, event in self._engine.rows(query)]

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        # From the end of the index on times: what is looked for is rarely old.
        query = (
            sa.select(audit_leaves.c.leaf_index, audit_events.c.event)
            .join(audit_leaves, audit_leaves.c.event_id == audit_events.c.event_id)
            .where(audit_events.c.log_id == log_id, audit_events.c.event.contains(like))
            .order_by(audit_events.c.occurred_at.desc(), audit_events.c.event_id.desc())
            .limit(1)
        )
        rows = self._engine.rows(query)
        return Leaf(int(rows[0][0]), rows[0][1]) if rows else None

    def tiles(self, log_id: str) -> LoadTile:
        def load(place: Place) -> bytes:
            rows = self._engine.rows(_tile(log_id, place))
            return bytes(rows[0][0]) if rows else b""

        return _cached(load)


class PostgresTreeReader:
    """`TreeReader` within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def heads(self, log_ids: Iterable[str]) -> Mapping[str, Head]:
        query = _HEADS.where(audit_trees.c.log_id.in_(list(log_ids)))
        return {log_id: Head(size, checkpoint) for log_id, size, checkpoint in self._connection.execute(query)}

    def tiles(self, log_id: str) -> LoadTile:
        return _cached(lambda place: self._connection.execute(_tile(log_id, place)).scalar() or b"")


def _pending(batch: int, held: Collection[str]) -> sa.Select[uuid.UUID, str, dict[str, object]]:
    """A batch of what is pending, in the order of its times: that is for people, and nothing relies on it.

    It is chosen by the index, of which a round reads no more than its batch however much is pending.
    """
    chosen = sa.select(audit_pending.c.event_id).order_by(audit_pending.c.event_id).limit(batch)
    if held:
        chosen = chosen.where(audit_pending.c.log_id.not_in(held))
    batch_of = chosen.subquery()
    return (
        sa.select(audit_events.c.event_id, audit_events.c.log_id, audit_events.c.event)
        .join(batch_of, batch_of.c.event_id == audit_events.c.event_id)
        .order_by(audit_events.c.occurred_at, audit_events.c.event_id)
    )


def _tile(log_id: str, place: Place) -> sa.Select[bytes]:
    return sa.select(audit_tiles.c.hashes).where(
        audit_tiles.c.log_id == log_id, audit_tiles.c.level == place[0], audit_tiles.c.number == place[1]
    )


def _cached(load: LoadTile) -> LoadTile:
    """`load`, asked once for each tile: one proof looks into the same few again and again."""
    return functools.lru_cache(maxsize=_TILES)(load)


def _note_intents(connection: sa.Connection, events: Sequence[PendingEvent]) -> None:
    """Keep what was begun until its outcome comes; both may come in one batch."""
    named = [(event.log_id, event.event) for event in events]
    intents, ended = intents_of(named), outcomes_of(named)
    if intents:
        connection.execute(insert(audit_intents).on_conflict_do_nothing(), [asdict(intent) for intent in intents])
    if ended:
        connection.execute(
            _ANSWERED,
            {
                "logs": [one.log_id for one in ended],
                "requests": [one.request_id for one in ended],
                "actions": [one.action for one in ended],
                "by_service": [one.by_service for one in ended],
            },
        )


def _write(connection: sa.Connection, growth: Growth, now: datetime) -> None:
    """Add to one tree.

    Raises:
        ProviderUnavailableError: The tree is not as `growth` found it, so that this would fork it or give an event two
            leaves; nothing of the round commits.
    """
    ids = list(growth.event_ids)
    _advance(connection, growth)
    connection.execute(
        _LEAVES,
        {"log": growth.log_id, "first": growth.first, "now": now, "ids": ids, "hashes": list(growth.leaf_hashes)},
    )
    sequenced = connection.execute(
        sa.delete(audit_pending).where(
            audit_pending.c.event_id == sa.any_(sa.literal(ids, ARRAY(sa.Uuid(as_uuid=False))))
        )
    )
    if sequenced.rowcount != len(ids):
        raise ProviderUnavailableError(_SEQUENCER, reason="another one was at work: its events have leaves already")
    tiles = [
        {"log_id": growth.log_id, "level": level, "number": number, "hashes": hashes}
        for (level, number), hashes in growth.tiles.items()
    ]
    tile = insert(audit_tiles)
    connection.execute(
        tile.on_conflict_do_update(index_elements=["log_id", "level", "number"], set_={"hashes": tile.excluded.hashes}),
        tiles,
    )


def _advance(connection: sa.Connection, growth: Growth) -> None:
    """Move the head on from exactly the size that was read, which is what keeps two leaves from having one index.

    The key of the leaves cannot: a partitioned table's key holds the leaf's time.
    """
    size = growth.first + len(growth.event_ids)
    head: sa.Insert | sa.Update
    if growth.first == 0:
        head = insert(audit_trees).values(log_id=growth.log_id, size=size, checkpoint=growth.checkpoint)
        head = head.on_conflict_do_nothing()
    else:
        head = (
            sa.update(audit_trees)
            .where(audit_trees.c.log_id == growth.log_id, audit_trees.c.size == growth.first)
            .values(size=size, checkpoint=growth.checkpoint, changed_at=sa.func.clock_timestamp())
        )
    if connection.execute(head.returning(audit_trees.c.size)).scalar() != size:
        raise ProviderUnavailableError(_SEQUENCER, reason="another one was at work: the log has grown meanwhile")
