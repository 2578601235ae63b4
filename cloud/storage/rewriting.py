"""Rewrites what deleted rows have left in a database's files: heap, indexes, TOAST, and the planner's statistics.

A deleted row's bytes stay in the heap until `VACUUM`, and after it in the free space of its pages; indexes keep its
keys in the same way, and `pg_statistic` keeps values of columns. Here a table and its indexes get new files that hold
the live rows alone, the files of before are removed, and the statistics are made anew.

Rules

1. First nobody may be able to see the deleted rows any more, or they would be taken along.
2. A table is rewritten by `VACUUM FULL`, which keeps others out for as long as it takes, cancelled at the bound. One
   that would take longer is relocated while it is in use, if it may be; otherwise it is left as it is, and said so.
3. Statistics: `ANALYZE` replaces those of a table with rows; of an empty one it keeps them, so its columns are given
   their own types again, which drops them. Then `pg_statistic` is rewritten, for it has versions of its rows too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.relocating import clear_remains, relocate
from cloud.storage.upkeep import (
    COMPONENT,
    TIMED_OUT,
    UNBOUND_MS,
    Session,
    bound,
    current_xid,
    quoted,
    run,
    scalar,
    wait_until_unseen,
)

_ROWS_PER_MS: Final = 160
_BYTES_PER_MS: Final = 100_000
"""What `VACUUM FULL` gets through on two busy cores: live rows with four indexes, and bytes of the table."""
_UNSEEN_S: Final = 15.0
_PAUSES_S: Final = (0.0, 0.1, 0.5)
_CATALOG: Final = "pg_catalog.pg_statistic"
_STATISTICS: Final = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attstattarget = 0 FROM pg_attribute a"
    " JOIN pg_stats s ON s.schemaname = 'public' AND s.tablename = %s AND s.attname = a.attname"
    " WHERE a.attrelid = to_regclass(%s) AND NOT EXISTS (SELECT FROM pg_depend d"
    " WHERE d.classid = 'pg_policy'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum)"
)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A table with new files.

    Attributes:
        table: Its name.
        relocated: Whether it was in use meanwhile.
        before: Number of its file before.
        after: Number of its file now; another one.
        size_bytes: What it takes now, with indexes and TOAST.
        waited_ms: Longest that others may have waited for it.
        taken_ms: How long it took.
    """

    table: str
    relocated: bool
    before: int
    after: int
    size_bytes: int
    waited_ms: int
    taken_ms: int


def rewrite_tables(
    connection: Session, tables: Iterable[str], *, small_table: str, max_wait_ms: int, may_relocate: bool = False
) -> list[Rewritten]:
    """Give each of these tables, and the statistics of the database, new files without what was deleted before.

    Args:
        connection: As the owner of the tables and of the database.
        tables: Tables of the schema `public`; those that are not there are left out.
        small_table: Any small table of the same owner.
        max_wait_ms: What others may wait for a table.
        may_relocate: Whether nothing but statements by name reaches the tables.

    Returns:
        The tables with new files; one that would take longer than the bound is missing.

    Raises:
        ConfigurationError: The role may not.
        ProviderUnavailableError: It did not get its turn; calling again does it.
    """
    there = [name for name in tables if _file(connection, name) is not None]
    since = _Since(current_xid(connection), small_table)
    found = (_rewrite(connection, name, max_wait_ms, since, may_relocate=may_relocate) for name in there)
    done = [rewritten for rewritten in found if rewritten is not None]
    for name in there:
        _renew_statistics(connection, name, max_wait_ms)
    # The statistics' own former versions are deleted rows of a table as well.
    wait_until_unseen(connection, current_xid(connection), small_table=small_table, within_s=_UNSEEN_S)
    if _vacuum_full(connection, _CATALOG, max_wait_ms) is None:
        raise ProviderUnavailableError(COMPONENT, reason="cannot rewrite the statistics within rewrite_max_wait_ms")
    return done


def statistics_of(connection: Session, tables: Sequence[str]) -> int:
    """How many columns of these tables have statistics though the table has no row, tenants and logs left out."""
    return sum(len(_statistics(connection, name)) for name in tables if _is_empty(connection, name))


@dataclass(frozen=True, slots=True)
class _Since:
    """From when on a deleted row counts as deleted: a transaction id, and where to ask who may still see it."""

    xid: int
    small_table: str

    def wait(self, connection: Session) -> None:
        wait_until_unseen(connection, self.xid, small_table=self.small_table, within_s=_UNSEEN_S)


def _rewrite(
    connection: Session, table: str, max_wait_ms: int, since: _Since, *, may_relocate: bool
) -> Rewritten | None:
    began_s = time.monotonic()
    clear_remains(connection, table, max_wait_ms=max_wait_ms)
    before, waited_ms = _file(connection, table), None
    if _estimated_ms(connection, table) <= (max_wait_ms // 2 if may_relocate else max_wait_ms):
        # A relocation copies what is alive, whoever may see what else.
        since.wait(connection)
        waited_ms = _vacuum_full(connection, f"public.{quoted(table)}", max_wait_ms)
    is_relocated = waited_ms is None
    if waited_ms is None:
        if not may_relocate:
            return None
        waited_ms = relocate(connection, table, small_table=since.small_table, max_wait_ms=max_wait_ms)
    after = _file(connection, table)
    assert before is not None
    assert after is not None
    return Rewritten(table, is_relocated, before, after, _size(connection, table), waited_ms, _since_ms(began_s))


def _estimated_ms(connection: Session, table: str) -> int:
    rows = scalar(connection, "SELECT pg_stat_get_live_tuples(to_regclass(%s))", f"public.{quoted(table)}")
    return int(rows or 0) // _ROWS_PER_MS + _size(connection, table) // _BYTES_PER_MS


def _vacuum_full(connection: Session, table: str, max_wait_ms: int) -> int | None:
    """How long it took in ms, its wait for the lock included; `None` if it was not done within the bound."""
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        bound(connection, max_wait_ms)
        began_s = time.monotonic()
        try:
            run(connection, f"VACUUM (FULL) {table}")
        except TIMED_OUT:
            continue
        else:
            return _since_ms(began_s)
        finally:
            bound(connection, UNBOUND_MS)
    return None


def _renew_statistics(connection: Session, table: str, max_wait_ms: int) -> None:
    name, empty = f"public.{quoted(table)}", _is_empty(connection, table)
    if not empty:
        run(connection, f"ANALYZE {name}")
    # Of an empty table all that is there is of before; otherwise what `ANALYZE` is told to leave alone.
    columns = [(name, kind) for name, kind, is_left in _statistics(connection, table) if empty or is_left]
    if not columns:
        return
    types = ", ".join(f"ALTER COLUMN {quoted(column)} TYPE {kind}" for column, kind in columns)
    bound(connection, max_wait_ms)
    try:
        run(connection, f"ALTER TABLE {name} {types}")
    finally:
        bound(connection, UNBOUND_MS)


def _is_empty(connection: Session, table: str) -> bool:
    return not scalar(connection, f"SELECT EXISTS (SELECT FROM public.{quoted(table)})")  # noqa: S608 - a name


def _file(connection: Session, table: str) -> int | None:
    found = scalar(connection, "SELECT pg_relation_filenode(to_regclass(%s))", f"public.{quoted(table)}")
    return None if found is None else int(found)


def _size(connection: Session, table: str) -> int:
    return int(scalar(connection, "SELECT pg_total_relation_size(%s)", f"public.{quoted(table)}"))


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)


def _statistics(connection: Session, table: str) -> list[tuple[str, str, bool]]:
    """The columns that have statistics: name, type, and whether `ANALYZE` leaves it alone.

    Without those that a policy names, which cannot be given a type: they hold tenants and logs, nothing of a person.
    """
    return connection.execute(_STATISTICS.encode(), (table, f"public.{quoted(table)}")).fetchall()
