"""Statements of upkeep, on a connection of their own: none keeps others waiting longer than it may.

A statement that needs a table alone makes others wait twice: while it waits for its lock everybody queues behind it,
and then while it runs. `statement_timeout` counts both, so it is the bound; a cancelled `VACUUM FULL` leaves the table
as it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import URL

from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.storage.connections import BoundedConnection

COMPONENT: Final = "storage upkeep"
UNBOUND_MS: Final = 600_000
"""Longest that work nobody waits for, such as a copy or a checkpoint, may take."""
_CUTOFF: Final = re.compile(r"removable cutoff: (\d+)")
_REMOVED: Final = re.compile(r"tuples: (\d+) removed")
_MISSED: Final = re.compile(r"tuples missed: (\d+)")
_POLL_S: Final = 0.05

Session = psycopg.Connection[tuple[Any, ...]]

TIMED_OUT: Final = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
)
"""The statement would have kept others waiting too long, or waited too long itself; nothing of it was done."""


@contextmanager
def session(url: URL) -> Iterator[Session]:
    """A connection in autocommit as the role of `url`, which ends with the block.

    Raises:
        ConfigurationError: The role may not do what was asked of it, or does not get in.
        ProviderUnavailableError: The server did not answer, or a statement took too long.
    """
    _, arguments = url.get_dialect()().create_connect_args(url)
    own: dict[str, Any] = {"application_name": "luminescent-cloud upkeep", "connect_timeout": 10, "autocommit": True}
    try:
        with BoundedConnection.connect(**{**arguments, **own}) as connection:
            connection.answer_s = UNBOUND_MS / 1000 + 1
            bound(connection, UNBOUND_MS)
            yield connection
    except psycopg.Error as exc:
        # From None: the text of a failed statement may quote a row.
        raise _translated(exc, url) from None


def bound(connection: Session, wait_ms: int, *, lock_ms: int | None = None) -> None:
    """No statement after this one takes longer than `wait_ms`, nor waits longer than `lock_ms` for a lock."""
    connection.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false)",
        (f"{max(1, wait_ms)}ms", f"{max(1, lock_ms or wait_ms)}ms"),
    )


@contextmanager
def transaction(connection: Session, *, isolation: str = "READ COMMITTED") -> Iterator[None]:
    """One transaction of a connection in autocommit."""
    run(connection, f"BEGIN ISOLATION LEVEL {isolation}")
    try:
        yield
        run(connection, "COMMIT")
    except BaseException:
        if not connection.closed:
            run(connection, "ROLLBACK")
        raise


def run(connection: Session, statement: str) -> None:
    """Run a statement that is made of names of the catalog, without parameters."""
    connection.execute(statement.encode())


def scalar(connection: Session, query: str, *parameters: object) -> Any:
    """The single value of a query.

    Args:
        connection: The connection.
        query: With `%s` for each parameter.
        parameters: Its parameters; a query without any is taken as it is.
    """
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row is not None else None


def quoted(name: str) -> str:
    """A name of the catalog as it is written in a statement."""
    return '"' + name.replace('"', '""') + '"'


def current_xid(connection: Session) -> int:
    """A transaction id of now: whatever was committed before has a lower one."""
    return int(scalar(connection, "SELECT pg_current_xact_id()::text"))


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a plain `VACUUM` of a table and its TOAST says.

    Attributes:
        removed: Row versions that it took away.
        missed: Row versions that it had to leave, since somebody was looking at their page.
        cutoff: Transaction id before which nothing dead is left but what was missed; 32 bits.
    """

    removed: int
    missed: int
    cutoff: int


def vacuumed(connection: Session, table: str) -> Vacuumed:
    """`VACUUM` a table of the schema `public`, as its owner, which keeps nobody waiting.

    Raises:
        ConfigurationError: The server does not say in English what it did.
    """
    said: list[str] = []

    def take(notice: psycopg.errors.Diagnostic) -> None:
        said.append(notice.message_primary or "")

    connection.add_notice_handler(take)
    try:
        # Without truncation, which would take the table alone.
        run(connection, f"VACUUM (VERBOSE, INDEX_CLEANUP ON, TRUNCATE OFF) public.{quoted(table)}")
    finally:
        connection.remove_notice_handler(take)
    cutoffs = [int(found) for text in said for found in _CUTOFF.findall(text)]
    if not cutoffs:
        raise ConfigurationError(
            "the server does not tell in English how far VACUUM went: as a superuser, run ALTER ROLE "
            f"{connection.info.user} SET lc_messages = 'C'"
        )
    removed = sum(int(found) for text in said for found in _REMOVED.findall(text))
    missed = sum(int(found) for text in said for found in _MISSED.findall(text))
    return Vacuumed(removed, missed, cutoffs[0])


def wait_until_unseen(connection: Session, before: int, *, small_table: str, within_s: float) -> None:
    """No snapshot that is open in this database can still see a row that was deleted before transaction `before`.

    Such a row would be taken along by a `VACUUM FULL`. What PostgreSQL holds back is asked of a `VACUUM` of a small
    table: it says its cutoff, for which an ordinary role has no other way.

    Args:
        connection: As the owner of `small_table`.
        before: Of `current_xid`, after the deletion.
        small_table: Any small table of this role.
        within_s: Seconds to wait.

    Raises:
        ConfigurationError: The server does not say it in English.
        ProviderUnavailableError: A transaction that began before is still open.
    """
    give_up_at = time.monotonic() + within_s
    while not reaches(vacuumed(connection, small_table).cutoff, before):
        if time.monotonic() >= give_up_at:
            raise ProviderUnavailableError(
                COMPONENT, reason="waits for a transaction that began before the deletion and is still open"
            )
        time.sleep(_POLL_S)


def reaches(cutoff: int, before: int) -> bool:
    """Whether a 32-bit transaction id is not before another, as PostgreSQL compares them."""
    return (cutoff - before) % 2**32 < 2**31


def _translated(exc: psycopg.Error, url: URL) -> LuminescentError:
    if isinstance(exc, psycopg.errors.InsufficientPrivilege):
        return ConfigurationError(
            f"role '{url.username}' may not do what a rewriting of {url.database} needs; infra/postgres/roles.sql "
            "grants it"
        )
    if isinstance(exc, TIMED_OUT):
        return ProviderUnavailableError(COMPONENT, reason="did not get its turn within the bound")
    if exc.sqlstate is None and "no password supplied" in str(exc):
        return ConfigurationError(f"role '{url.username}' has no password in role_passwords_file; rewriting needs it")
    return ProviderUnavailableError(COMPONENT, reason=f"failed (SQLSTATE {exc.sqlstate})")
