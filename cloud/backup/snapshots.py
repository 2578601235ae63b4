"""One moment of both databases.

A memory is in intake until the transaction that takes it from there, after Pixeltable has it; an erasure and a purge
take it from both. All of them hold a placement's lock meanwhile. So with every placement's lock held nothing is between
the two planes, and a snapshot of each, exported then, shows one moment; the locks are given back before anything is
read. Stores go on all the while: they touch the control plane alone.

Tables are locked against being rewritten before the snapshots begin: a table that is rewritten looks empty to a
snapshot from before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.memory.materializer import placement_locks
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import BACKUP_ROLE, CONTROL_DATABASE, DATA_DATABASE

_LOCK_WAIT_S: Final = 60.0
_ATTEMPTS: Final = 3
_COMPONENT: Final = "backup"
_TABLES: Final = (
    "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1"
)
_HIDDEN: Final = (
    "SELECT c.relname FROM pg_class c WHERE c.relrowsecurity AND NOT c.relispartition"
    " AND c.relnamespace = 'public'::regnamespace"
    " AND (NOT EXISTS (SELECT FROM pg_policies p WHERE p.tablename = c.relname AND p.schemaname = 'public'"
    "      AND p.permissive = 'PERMISSIVE' AND current_user = ANY(p.roles) AND p.cmd IN ('SELECT', 'ALL')"
    "      AND p.qual = 'true')"
    "  OR EXISTS (SELECT FROM pg_policies p WHERE p.tablename = c.relname AND p.schemaname = 'public'"
    "      AND p.permissive = 'RESTRICTIVE'))"
)

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of both databases, for as long as its connections are open.

    Attributes:
        control: A connection on which the control plane is as it was.
        data: The same of Pixeltable's database.
        exported: Name of the exported snapshot, by database.
    """

    control: Connection
    data: Connection
    exported: Mapping[str, str]


@contextlib.contextmanager
def one_moment(
    engine: ControlEngine,
    connect: Callable[[str], contextlib.AbstractContextManager[Connection]],
    placements: Callable[[], Sequence[str]],
) -> Iterator[Moment]:
    """A moment of both databases, held until the block ends.

    Args:
        engine: Engine that takes the placements' locks.
        connect: Connects to a database as the role of backups, outside a transaction.
        placements: Every table that rows may move to and from.

    Raises:
        ConfigurationError: A policy hides rows from the role of backups.
        ProviderUnavailableError: A placement stayed busy.
    """
    with contextlib.ExitStack() as held:
        control = held.enter_context(connect(CONTROL_DATABASE))
        data = held.enter_context(connect(DATA_DATABASE))
        hidden = [str(name) for (name,) in control.execute(_HIDDEN)]
        if hidden:
            raise ConfigurationError(
                f"row-level security hides rows of {', '.join(hidden)} from {BACKUP_ROLE}: a backup would lack them"
            )
        for _ in range(_ATTEMPTS):
            names = placements()
            with placement_locks(engine, names, wait_s=_LOCK_WAIT_S) as all_held:
                if not all_held:
                    raise ProviderUnavailableError("materializer", reason="kept a placement busy")
                if placements() != names:
                    continue  # One was made in between.
                exported = {CONTROL_DATABASE: _exported(control), DATA_DATABASE: _exported(data)}
            break
        else:
            raise ProviderUnavailableError(_COMPONENT, reason="new tables are being made; try again")
        yield Moment(control, data, exported)


def counts_of(connection: Connection) -> dict[str, int]:
    """Rows of every table, by its name."""
    return {
        str(name): _one(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(str(name))))
        for (name,) in connection.execute(_TABLES).fetchall()
    }


def rows_of(counts: Mapping[str, int]) -> int:
    """Rows of memories among the counts of Pixeltable's database."""
    return sum(count for name, count in counts.items() if name.startswith("tbl_"))


def newest_event(connection: Connection) -> datetime | None:
    """When the newest audit event happened."""
    row = connection.execute("SELECT max(occurred_at) FROM audit_events").fetchone()
    return row[0] if row else None


def _exported(connection: Connection) -> str:
    names = [sql.Identifier(str(name)) for (name,) in connection.execute(_TABLES).fetchall()]
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    if names:
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(names)))
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def _one(connection: Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
