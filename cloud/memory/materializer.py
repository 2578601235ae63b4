"""The materializer: moves accepted envelopes from intake into Pixeltable, exactly once, in batches.

Rules
1. One materializer works on a placement at a time, under an advisory lock that erasure takes too.
2. A row leaves intake only after Pixeltable has it, and only the revision that was written leaves.
3. What is there already is found by (id, revision), so a batch that was interrupted anywhere is simply done again.
4. A restart of the server takes the lock away unnoticed, and an erasure or a purge may pass before the batch is
   written. So after it is written the ledger is asked once more, and people and memories that it no longer knows are
   removed again.
5. For the same reason a move of a tenant counts the placement's epoch up before it copies the last rows: a batch that
   was begun before then clears nothing, and its rows stay in intake for the table that the tenant moved to.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from cloud.kernel import failpoints, telemetry, telemetry_names
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import SealedRow
from cloud.memory.ports import Rows
from cloud.memory.postgres import INTAKE_COLUMNS, sealed_row
from cloud.storage.advisory import advisory_locks
from cloud.storage.engine import CONTROL_PLANE, ControlEngine

BATCH: Final = 1_000
"""Rows at once: with 500, a fifth fewer a second; with 2,000, no more, and whoever wants the lock waits longer."""
_MARKED_AT_ONCE: Final = 500
"""Their tenants wait meanwhile."""
_IDLE_S: Final = 0.1
_RESTS: Final = 3
"""How many times as long as a batch took nothing is done after it, unless more than a batch waits."""
_REST_MAX_S: Final = 0.5
_TROUBLE_S: Final = 2.0
_EXPIRY_EVERY_S: Final = 30.0
_HOUR_S: Final = 3600.0
_LOOK_EVERY_S: Final = 10.0
_LOCK_SPACE: Final = 0x6C63  # 'lc': the advisory locks of placements

_log = logging.getLogger(__name__)

# From one name to the next in the index: there are few, however much waits.
PLACEMENTS: Final = sa.text(
    "WITH RECURSIVE found AS ((SELECT placement FROM intake ORDER BY placement LIMIT 1) UNION ALL"
    " SELECT (SELECT i.placement FROM intake i WHERE i.placement > found.placement ORDER BY i.placement LIMIT 1)"
    " FROM found WHERE found.placement IS NOT NULL)"
    " SELECT placement FROM found WHERE placement IS NOT NULL"
)
# By the column, as the index has it; its name alone would be that of the text which is selected.
WAITING: Final = sa.text(
    f"SELECT {INTAKE_COLUMNS} FROM intake"  # noqa: S608 - constant
    " WHERE placement = :placement ORDER BY intake.memory_id LIMIT :batch"
)
_EPOCH = sa.text("SELECT epoch FROM placements WHERE placement = :placement")
_BACKLOG = sa.text("SELECT count(*), (SELECT i.memory_id::text FROM intake i ORDER BY i.memory_id LIMIT 1) FROM intake")
_CLEAR = sa.text(
    "DELETE FROM intake i USING unnest(:ids, :revisions) AS w(id, revision)"
    " WHERE i.memory_id = w.id AND i.revision = w.revision AND i.placement = :placement"
    " AND :epoch = coalesce((SELECT epoch FROM placements WHERE placement = :placement), 0)"
    " RETURNING i.memory_id::text"
).bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False))), sa.bindparam("revisions", type_=ARRAY(sa.Integer()))
)
_ELSEWHERE = sa.text(
    "SELECT t.tenant_id FROM tenants t WHERE t.tenant_id = ANY(:tenants) AND t.placement <> :placement"
    " AND NOT EXISTS (SELECT 1 FROM placement_moves m WHERE m.tenant_id = t.tenant_id AND m.state <> 'done'"
    " AND :placement IN (m.source, m.target))"
).bindparams(sa.bindparam("tenants", type_=ARRAY(sa.Text())))
_KNOWN = sa.text(
    "SELECT memory_id::text FROM memories WHERE memory_id = ANY(:ids) AND purge_started_at IS NULL"
).bindparams(sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False))))


def lock_id(placement: str) -> int:
    """Key of a placement's advisory lock, within its space."""
    return zlib.crc32(placement.encode()) - 2**31


@contextmanager
def placement_lock(engine: ControlEngine, placement: str, *, wait_s: float) -> Iterator[bool]:
    """Hold a placement's lock for as long as the block runs; it vanishes with the connection.

    Args:
        engine: Engine whose connection holds it.
        placement: The placement.
        wait_s: Seconds to wait for it.

    Yields:
        Whether the lock is held.
    """
    with placement_locks(engine, (placement,), wait_s=wait_s) as held:
        yield held


@contextmanager
def placement_locks(engine: ControlEngine, placements: Collection[str], *, wait_s: float) -> Iterator[bool]:
    """As `placement_lock`, of several placements on one connection, always in the same order, so that two who want
    the same ones never wait for each other.
    """
    with advisory_locks(engine, sorted({(_LOCK_SPACE, lock_id(name)) for name in placements}), wait_s=wait_s) as held:
        yield held


def rest_s(moved: int, took_s: float) -> float:
    """How long to rest after a round, in seconds.

    A batch of 25 rows takes four times as long for each as one of 1,000. At 400 stores a second a worker that never
    rests would be at it all the time, with 20 rows each, beside the requests on the same processors.

    Args:
        moved: Rows that left intake.
        took_s: Seconds that the round took.
    """
    if not moved:
        return _IDLE_S
    return 0.0 if moved >= BATCH else min(_REST_MAX_S, _RESTS * took_s)


@dataclass(frozen=True, slots=True)
class Moved:
    """What one batch did."""

    inserted: int
    updated: int
    present: int

    @property
    def total(self) -> int:
        """Rows that left intake."""
        return self.inserted + self.updated + self.present

    def facts(self) -> dict[str, int]:
        """The same as attributes of a span."""
        return {
            telemetry_names.ROWS_INSERTED: self.inserted,
            telemetry_names.ROWS_UPDATED: self.updated,
            telemetry_names.ROWS_PRESENT: self.present,
        }


class Materializer:
    """Moves batches; `run` does so until it is told to stop.

    Args:
        engine: Engine of the worker's role.
        rows: The data plane.
        predicate_for: Makes the predicate under which a tenant's rows are looked at.
        chores: What else is done now and then, beside taking expired memories out of the stock.
        hourly: Work that is due now and then, begun with the loop and once an hour.
    """

    def __init__(
        self,
        engine: ControlEngine,
        rows: Rows,
        predicate_for: Callable[[str], TenantPredicate],
        *,
        chores: Sequence[Callable[[], object]] = (),
        hourly: Callable[[], object] | None = None,
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._predicate_for = predicate_for
        self._chores = chores
        self._hourly = hourly
        self._not_before_s: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; trouble with a plane is waited out, not died of."""
        expire_at_s = hourly_at_s = look_at_s = 0.0
        while not stop.is_set():
            try:
                began_s = time.monotonic()
                pause_s = rest_s(self.round(stop), time.monotonic() - began_s)
                if time.monotonic() >= look_at_s:
                    self.look()
                    look_at_s = time.monotonic() + _LOOK_EVERY_S
                if time.monotonic() >= expire_at_s:
                    self.expire()
                    self.sweep()
                    for chore in self._chores:
                        chore()
                    expire_at_s = time.monotonic() + _EXPIRY_EVERY_S
                if self._hourly is not None and time.monotonic() >= hourly_at_s:
                    # Put off before it is begun: what cannot be done now must not keep the batches waiting.
                    hourly_at_s = time.monotonic() + _HOUR_S
                    self._hourly()
            except ProviderUnavailableError as error:
                _log.warning("the materializer waits: %s", error)
                pause_s = _TROUBLE_S
            stop.wait(pause_s)

    def round(self, stop: threading.Event | None = None) -> int:
        """One batch of every placement that has something waiting; returns how many rows left intake.

        A placement that the data plane has trouble with is left alone for a while, and keeps no other one waiting.
        """
        moved = 0
        for (name,) in self._engine.rows(PLACEMENTS):
            placement = str(name)
            if stop is not None and stop.is_set():
                break
            if time.monotonic() < self._not_before_s.get(placement, 0.0):
                continue
            try:
                with placement_lock(self._engine, placement, wait_s=0.0) as held:
                    if held:
                        moved += self.batch(placement).total
            except ProviderUnavailableError as error:
                if error.component == CONTROL_PLANE:
                    # The others need it too.
                    raise
                _log.warning("the materializer leaves placement %s alone for a while: %s", placement, error)
                self._not_before_s[placement] = time.monotonic() + _TROUBLE_S
        return moved

    def expire(self) -> int:
        """Take memories whose time is over out of their tenants' stock; returns how many."""
        done = self._engine.call(sa.text("SELECT lc_expire(:batch)"), {"batch": _MARKED_AT_ONCE}, retry_parameter=None)
        return int(str(done))

    def sweep(self) -> int:
        """Mark reservations whose time is over, which hold nothing any more; returns how many."""
        done = self._engine.call(sa.text("SELECT lc_sweep(:batch)"), {"batch": _MARKED_AT_ONCE}, retry_parameter=None)
        return int(str(done))

    def batch(self, placement: str) -> Moved:
        """Move one batch. The caller holds the placement's lock."""
        epoch = self._epoch(placement)
        waiting = self._waiting(placement)
        if not waiting:
            return Moved(0, 0, 0)
        with telemetry.batch(placement) as span:
            moved = self._move(placement, epoch, waiting)
            span.set_attributes(moved.facts())
        for kind, rows in (("inserted", moved.inserted), ("updated", moved.updated), ("present", moved.present)):
            telemetry.instruments().rows.add(rows, {telemetry_names.KIND: kind})
        return moved

    def look(self) -> None:
        """Measure what waits and for how long."""
        ((waiting, oldest),) = self._engine.rows(_BACKLOG)
        telemetry.instruments().backlog.set(int(waiting))
        # The id says when the memory was accepted.
        age_s = max(0.0, time.time() - (uuid.UUID(oldest).int >> 80) / 1000) if oldest is not None else 0.0
        telemetry.instruments().backlog_age.set(age_s)

    def _move(self, placement: str, epoch: int, waiting: Sequence[SealedRow]) -> Moved:
        failpoints.reach("materializer.selected")
        predicates = [self._predicate_for(tenant_id) for tenant_id in sorted({row.tenant_id for row in waiting})]
        there = self._rows.revisions(predicates, placement, [row.memory_id for row in waiting])
        inserts = [row for row in waiting if row.memory_id not in there]
        updates = [row for row in waiting if row.memory_id in there and there[row.memory_id] < row.revision]
        self._rows.write(placement, inserts, updates)
        failpoints.reach("materializer.inserted")
        cleared = self._clear(placement, epoch, waiting)
        self._take_back(placement, [row for row in waiting if row.memory_id not in cleared])
        failpoints.reach("materializer.cleared")
        return Moved(len(inserts), len(updates), len(waiting) - len(inserts) - len(updates))

    def _waiting(self, placement: str) -> list[SealedRow]:
        rows = self._engine.rows(WAITING, {"placement": placement, "batch": BATCH})
        return [sealed_row(row) for row in rows]

    def _epoch(self, placement: str) -> int:
        rows = self._engine.rows(_EPOCH, {"placement": placement})
        return int(rows[0][0]) if rows else 0

    def _clear(self, placement: str, epoch: int, done: Sequence[SealedRow]) -> set[str]:
        """Take these revisions out of intake; returns the ids that were there."""
        parameters = {
            "ids": [row.memory_id for row in done],
            "revisions": [row.revision for row in done],
            "placement": placement,
            "epoch": epoch,
        }
        return self._engine.transaction(lambda connection: set(connection.execute(_CLEAR, parameters).scalars()))

    def _take_back(self, placement: str, vanished: Sequence[SealedRow]) -> None:
        """Remove what was written of memories that were erased, purged or moved away while the batch ran."""
        if not vanished:
            return
        remove_unknown(self._engine, self._rows, self._predicate_for, placement, vanished)
        tenants = sorted({row.tenant_id for row in vanished})
        for (tenant_id,) in self._engine.rows(_ELSEWHERE, {"tenants": tenants, "placement": placement}):
            ids = [row.memory_id for row in vanished if row.tenant_id == tenant_id]
            self._rows.remove(self._predicate_for(tenant_id), placement, ids)


def remove_unknown(
    engine: ControlEngine,
    rows: Rows,
    predicate_for: Callable[[str], TenantPredicate],
    placement: str,
    written: Sequence[SealedRow],
) -> None:
    """Remove from the placement what was just written of memories that the ledger no longer knows."""
    found = engine.rows(_KNOWN, {"ids": [row.memory_id for row in written]})
    known = {str(memory_id) for (memory_id,) in found}
    gone: dict[str, list[str]] = {}
    for row in written:
        if row.memory_id not in known:
            gone.setdefault(row.tenant_id, []).append(row.memory_id)
    for tenant_id, ids in gone.items():
        rows.remove(predicate_for(tenant_id), placement, ids)
