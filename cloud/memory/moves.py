"""Moves a tenant to another table while it is read and written.

Rules
1. Rows are copied in pages under the locks of both tables, which are let go between pages, so that the materializers
   of both go on. Whoever writes, updates, deletes or erases does so in the source, and erasure in both.
2. The last differences are copied under both locks, after the epochs of both tables were counted up: a materializer
   that lost its lock and does not know it clears nothing any more (see `cloud.memory.materializer`, rule 5).
3. One transaction, under the tenant's own write lock, names the target in the tenant's row and in what waits in intake.
4. Only then the source is emptied. A reader that was told the source before finds a memory missing, and asks again
   (see `cloud.memory.snapshots`): it never takes an incomplete answer for a whole one.
5. Every step may be done again. A killed move is continued by the next worker that starts, or by the same command.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cloud.audit.model import AuditDraft
from cloud.kernel import failpoints
from cloud.kernel.errors import OperationInProgressError, ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.materializer import placement_locks, remove_unknown
from cloud.memory.model import SealedRow
from cloud.memory.placement_store import PlacementStore
from cloud.memory.ports import Rows
from cloud.storage.advisory import advisory_locks
from cloud.storage.engine import ControlEngine
from cloud.tenancy.placements import Move, MoveState, Progress

PAGE: Final = 500
_LOCK_SPACE: Final = 0x6C6D  # 'lm': the advisory locks of moves
_LOCK_WAIT_S: Final = 30.0
_FIRST: Final = ""


class Mover:
    """Moves tenants between tables.

    Args:
        engine: Engine of the maintenance role; holds the locks.
        store: Placements and moves.
        rows: The data plane.
        predicate_for: Makes the predicate under which a tenant's rows are copied.
    """

    def __init__(
        self,
        engine: ControlEngine,
        store: PlacementStore,
        rows: Rows,
        predicate_for: Callable[[str], TenantPredicate],
    ) -> None:
        self._engine = engine
        self._store = store
        self._rows = rows
        self._predicate_for = predicate_for

    def begin(self, tenant_id: str, target: str, intent: AuditDraft) -> Move:
        """As `PlacementStore.begin_move`."""
        move = self._store.begin_move(tenant_id, target, intent)
        failpoints.reach("move.begun")
        return move

    def run(
        self,
        move: Move,
        audit: AuditDraft,
        *,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Move:
        """Bring a move that was begun to its end; its event commits with that.

        Args:
            move: As `begin` or `unfinished` returned it.
            audit: Its event.
            progress: Told how many rows of how many are copied.
            stop: Set where the process ends; the move is then left as it is, to be continued.

        Raises:
            OperationInProgressError: Another process is at it.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        with self._alone(move):
            move = self._store.move(move.move_id)
            if move.state is MoveState.DONE:
                return move
            if move.state is MoveState.COPYING:
                self._copy(move, progress, stop)
                failpoints.reach("move.copied")
                move = self._switch(move)
                failpoints.reach("move.switched")
            self._clean(move)
            failpoints.reach("move.cleaned")
            return self._store.finish_move(move, audit)

    def unfinished(self) -> list[Move]:
        """Moves that a process was killed in, or that one is at."""
        return self._store.unfinished_moves()

    @contextmanager
    def _alone(self, move: Move) -> Iterator[None]:
        key = (_LOCK_SPACE, zlib.crc32(move.tenant_id.encode()) - 2**31)
        with advisory_locks(self._engine, [key], wait_s=0.0) as held:
            if not held:
                raise OperationInProgressError("another process is moving this tenant; nothing else has to be done")
            yield

    @contextmanager
    def _locked(self, *placements: str) -> Iterator[None]:
        with placement_locks(self._engine, placements, wait_s=_LOCK_WAIT_S) as held:
            if not held:
                raise ProviderUnavailableError("materializer", reason="kept a placement busy")
            yield

    def _copy(self, move: Move, progress: Progress | None, stop: threading.Event | None) -> None:
        """Most of the rows, page by page."""
        predicate = self._predicate_for(move.tenant_id)
        total, copied, after = self._rows.count_tenant(predicate, move.source), 0, _FIRST
        while True:
            if stop is not None and stop.is_set():
                raise ProviderUnavailableError("mover", reason="is being stopped; the next worker continues")
            with self._locked(move.source, move.target):
                page = self._rows.page(predicate, move.source, after=after, limit=PAGE)
                self._write(predicate, move.target, page)
            if not page:
                return
            copied, after = copied + len(page), page[-1].memory_id
            if progress is not None:
                progress(copied, max(total, copied))

    def _switch(self, move: Move) -> Move:
        """Copy what changed since, and switch, while nobody writes to either table."""
        predicate = self._predicate_for(move.tenant_id)
        with self._locked(move.source, move.target):
            self._store.raise_epochs(move)
            wanted = self._rows.all_revisions(predicate, move.source)
            there = self._rows.all_revisions(predicate, move.target)
            lacking = [key for key, revision in wanted.items() if there.get(key, 0) < revision]
            for at in range(0, len(lacking), PAGE):
                rows = self._rows.named(predicate, move.source, lacking[at : at + PAGE], column=None)
                self._write(predicate, move.target, rows)
            surplus = [key for key in there if key not in wanted]
            for at in range(0, len(surplus), PAGE):
                self._rows.remove(predicate, move.target, surplus[at : at + PAGE])
            copied = self._rows.count_tenant(predicate, move.target)
            if copied != self._rows.count_tenant(predicate, move.source):
                raise ProviderUnavailableError(
                    "data plane", reason="counts the tenant's rows differently in two tables"
                )
            failpoints.reach("move.synced")
            return self._store.switch_move(move, copied=copied)

    def _write(self, predicate: TenantPredicate, target: str, rows: Sequence[SealedRow]) -> None:
        there = self._rows.revisions([predicate], target, [row.memory_id for row in rows])
        inserts = [row for row in rows if row.memory_id not in there]
        updates = [row for row in rows if row.memory_id in there and there[row.memory_id] < row.revision]
        if inserts or updates:
            self._rows.write(target, inserts, updates)
        # A restart of the server takes the locks away unnoticed, and an erasure may have passed since they were read.
        if rows:
            remove_unknown(self._engine, self._rows, self._predicate_for, target, rows)

    def _clean(self, move: Move) -> None:
        """Nothing of the tenant is left in the source."""
        predicate = self._predicate_for(move.tenant_id)
        with self._locked(move.source):
            self._rows.remove_tenant(predicate, move.source)
            left = self._rows.count_tenant(predicate, move.source)
        if left:
            raise ProviderUnavailableError("data plane", reason=f"keeps {left} rows that were deleted")
