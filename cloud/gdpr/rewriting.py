"""`StorageRewriter` on PostgreSQL, and the level of row versions: what was deleted leaves heap, files and log.

It connects as the owners of the two databases, whose passwords the request path does not use, and as the maintenance
role for the write-ahead log. One of all processes rewrites at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import URL

from cloud.gdpr.catalog import CATALOG, Kind, OnErasure
from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.windows import Windows
from cloud.kernel import failpoints
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.materializer import placement_locks
from cloud.storage.engine import ControlEngine
from cloud.storage.rewriting import Rewritten, rewrite_tables, statistics_of
from cloud.storage.roles import CONTROL_DATABASE, DATA_DATABASE, MAINTENANCE_ROLE, OWNER_ROLE, PIXELTABLE_ROLE
from cloud.storage.upkeep import COMPONENT, Session, current_xid, reaches, scalar, session, vacuumed
from cloud.storage.wal import clear_wal

_TURN: Final = 0x6C635F72  # 'lc_r': one rewriting at a time
_TURN_WAIT_S: Final = 60.0
_POLL_S: Final = 0.1
_UNSEEN_S: Final = 15.0
_LOCK_WAIT_S: Final = 30.0
_SMALL_CONTROL: Final = "alembic_version"
_SMALL_DATA: Final = "systeminfo"

CONTROL_TABLES: Final = tuple(
    place.location
    for place in CATALOG
    if place.kind is Kind.CONTROL_TABLE
    and (place.on_erasure is OnErasure.DELETED or place.location in ("subjects", "erasures"))
)
"""Tables that an erasure or a closing deletes rows or values from."""


class PostgresRewriter:
    """`StorageRewriter` on the databases of an installation.

    Args:
        url: Where and as whom to connect, by role and database.
        tables_of: Names in the data database of the tables of these placements, as far as they were made.
        engine: Engine that holds the placements' locks.
        clock: The present, UTC.
        max_wait_ms: What any other request may wait for a table.
        at_once: Whether an erasure rewrites before it returns.
        windows: When it may be done otherwise.
    """

    def __init__(
        self,
        url: Callable[[str, str], URL],
        tables_of: Callable[[Sequence[str]], Sequence[str]],
        engine: ControlEngine,
        clock: Clock,
        *,
        max_wait_ms: int,
        at_once: bool,
        windows: Windows,
    ) -> None:
        self._url = url
        self._tables_of = tables_of
        self._engine = engine
        self._clock = clock
        self._max_wait_ms = max_wait_ms
        self._at_once = at_once
        self._windows = windows

    def at_once(self) -> bool:
        """As configured; the embedded server's default."""
        return self._at_once

    def due(self) -> datetime:
        """Now, if a window is open or none is configured."""
        return self._windows.next_open(self._clock())

    def row_versions(self, predicate: TenantPredicate, placements: Sequence[str]) -> LevelState:
        """The level of the store: `VACUUM` has taken every deleted row version out of the tables; keeps nobody waiting.

        Measured: each table's `VACUUM` says a cutoff past every deletion that was committed before this call, and that
        it missed none.

        Raises:
            ProviderUnavailableError: A transaction that could still see them is open; calling again measures anew.
        """
        removed, tables = 0, 0
        with self._owner() as control, self._data_owner() as data:
            for connection, names in ((control, CONTROL_TABLES), (data, tuple(self._tables_of(placements)))):
                before = current_xid(connection)
                for name in names:
                    removed += _vacuumed_past(connection, name, before)
                    tables += 1
        return LevelState(Level.STORE, self._clock(), None, {"tables": tables, "row_versions_removed": removed})

    def rewrite(self, predicate: TenantPredicate, placements: Sequence[str]) -> Sequence[LevelState]:
        """`VACUUM FULL` or relocation of every table, new statistics, then the log of before is removed.

        What cannot be reached here says so: its state is not reached, with the obstacle as its evidence.
        """
        try:
            with self._owner() as control, self._alone(control):
                files = self._files(control, placements)
                failpoints.reach("rewrite.files")
                wal = self._wal()
                failpoints.reach("rewrite.wal")
                return files, wal
        except ConfigurationError as error:
            # It may not: a fact about this server, which calling again does not change.
            return tuple(self._not_reached(level, str(error)) for level in (Level.FILE, Level.WAL))

    def _files(self, control: Session, placements: Sequence[str]) -> LevelState:
        names = tuple(self._tables_of(placements))
        # Two databases, neither of which waits for the other's transactions.
        with ThreadPoolExecutor(1, thread_name_prefix="luminescent-rewriting") as beside:
            of_data = beside.submit(self._data_files, placements, names)
            done = rewrite_tables(control, CONTROL_TABLES, small_table=_SMALL_CONTROL, max_wait_ms=self._max_wait_ms)
            left_over = statistics_of(control, CONTROL_TABLES)
            done_of_data, left_over_of_data = of_data.result()
        done, left_over = done + done_of_data, left_over + left_over_of_data
        missing = sorted({*CONTROL_TABLES, *names} - {one.table for one in done})
        if missing:
            return self._not_reached(
                Level.FILE,
                f"rewriting {', '.join(missing)} would keep others waiting for more than {self._max_wait_ms} ms: raise "
                "rewrite_max_wait_ms, and set rewrite_windows to hours in which that does no harm",
            )
        if left_over:
            # It was emptied and looked at meanwhile; the next time measures anew.
            raise ProviderUnavailableError(COMPONENT, reason=f"has statistics of {left_over} columns of empty tables")
        return LevelState(Level.FILE, self._clock(), None, _evidence(done))

    def _data_files(self, placements: Sequence[str], names: Sequence[str]) -> tuple[list[Rewritten], int]:
        # Whoever writes much to them waits: materializer, mover, purge, other erasures. Nobody's request is among them.
        with placement_locks(self._engine, placements, wait_s=_LOCK_WAIT_S) as held, self._data_owner() as data:
            if not held:
                raise ProviderUnavailableError("materializer", reason="kept the placement busy")
            # Nothing but Pixeltable's statements reaches these, each by the table's name.
            done = rewrite_tables(
                data, names, small_table=_SMALL_DATA, max_wait_ms=self._max_wait_ms, may_relocate=True
            )
            return done, statistics_of(data, names)

    def _wal(self) -> LevelState:
        with session(self._url(MAINTENANCE_ROLE, CONTROL_DATABASE)) as connection:
            cleared = clear_wal(connection)
        if cleared.obstacle is not None:
            return self._not_reached(Level.WAL, cleared.obstacle)
        evidence: dict[str, int | str] = {
            "position": cleared.position,
            "oldest_segment": cleared.oldest_segment,
            "rounds": cleared.rounds,
            "taken_ms": cleared.taken_ms,
        }
        return LevelState(Level.WAL, self._clock(), None, evidence)

    @staticmethod
    def _not_reached(level: Level, obstacle: str) -> LevelState:
        return LevelState(level, None, None, {"obstacle": obstacle})

    @contextmanager
    def _owner(self) -> Iterator[Session]:
        with session(self._url(OWNER_ROLE, CONTROL_DATABASE)) as connection:
            yield connection

    @contextmanager
    def _data_owner(self) -> Iterator[Session]:
        with session(self._url(PIXELTABLE_ROLE, DATA_DATABASE)) as connection:
            yield connection

    @contextmanager
    def _alone(self, connection: Session) -> Iterator[None]:
        """One rewriting at a time; the lock goes with the connection."""
        give_up_at = time.monotonic() + _TURN_WAIT_S
        while not scalar(connection, "SELECT pg_try_advisory_lock(%s)", _TURN):
            if time.monotonic() >= give_up_at:
                raise ProviderUnavailableError(COMPONENT, reason="is busy with another rewriting")
            time.sleep(_POLL_S)
        yield


def _vacuumed_past(connection: Session, table: str, before: int) -> int:
    """Row versions that were removed until nothing deleted before transaction `before` is left."""
    removed, give_up_at = 0, time.monotonic() + _UNSEEN_S
    while True:
        found = vacuumed(connection, table)
        removed += found.removed
        if not found.missed and reaches(found.cutoff, before):
            return removed
        if time.monotonic() >= give_up_at:
            raise ProviderUnavailableError(
                COMPONENT, reason="waits for a transaction that began before the deletion and is still open"
            )
        time.sleep(_POLL_S)


def _evidence(done: Sequence[Rewritten]) -> dict[str, int | str]:
    """Numbers of the files before and after, and what it cost; names of tables tell nothing about a person."""
    files: dict[str, int | str] = {f"file.{one.table}": f"{one.before}>{one.after}" for one in done}
    return files | {
        "tables": len(done),
        "in_use_meanwhile": sum(one.relocated for one in done),
        "size_bytes": sum(one.size_bytes for one in done),
        "longest_wait_ms": max((one.waited_ms for one in done), default=0),
        "taken_ms": sum(one.taken_ms for one in done),
    }
