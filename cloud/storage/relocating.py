"""A table's rows move to new files while the table is in use; those of before are gone when this returns.

`VACUUM FULL` keeps everybody out, which for a large table is too long. Here the live rows are copied beside, changes
made meanwhile are noted by a trigger and copied after, and at the end the copy takes the table's place, name and
rights. Others wait for the two moments in which the trigger is set and the places change. For tables that are reached
by statements alone: what depends on a table itself, such as a server function with a row of it, would be left with the
one of before.

Rules

1. The trigger is there, and nobody's older write is under way, before the first row is copied: no change is missed.
2. Noted changes are taken and copied in one transaction of one snapshot: what was noted is what is seen.
3. The places change only while no snapshot is open that is older than the last copied row, and nothing was noted since.
   Pixeltable reads under one snapshot per transaction: to one from before the copy, the copied rows would be rows of
   the future, and its table would look empty.
4. They change in one transaction that holds the table alone and looks whether it still has the shape that was copied.
   Until it commits the table is what it was, so whatever stops this leaves a working table, and the next call removes
   what is left beside it.
5. Whoever waits for a lock here gives up before anybody else's request waits longer than its part of the bound.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.shape import Shape, index_on, shape_of
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
    transaction,
    wait_until_unseen,
)

_BATCH: Final = 10_000
_ROUNDS: Final = 50
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.25
_UNSEEN_S: Final = 15.0
_LOCK_SHARE: Final = 4
"""Part of the bound that a lock is waited for. Below PostgreSQL's `deadlock_timeout`, so that we give way, not they."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Names:
    table: str
    copy: str
    notes: str
    trigger: str

    @classmethod
    def of(cls, table: str) -> _Names:
        tag = hashlib.sha256(table.encode()).hexdigest()[:16]
        return cls(table, f"lc_copy_{tag}", f"lc_notes_{tag}", f"lc_note_{tag}")


def clear_remains(connection: Session, table: str, *, max_wait_ms: int) -> bool:
    """What an interrupted relocation of `table` left is gone; returns whether there was anything.

    Raises:
        ProviderUnavailableError: The table was too busy.
    """
    names = _Names.of(table)
    left = scalar(
        connection,
        "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname IN (%s, %s))"
        " OR EXISTS (SELECT FROM pg_proc WHERE proname = %s)",
        names.copy,
        names.notes,
        names.trigger,
    )
    if left:
        _patiently(lambda: _drop_remains(connection, names, max_wait_ms))
    return bool(left)


def relocate(connection: Session, table: str, *, small_table: str, max_wait_ms: int) -> int:
    """Move `table` to new files; returns the longest time in ms that others may have waited for it.

    It does not end while the table is changed all the time: whoever can should keep those away that write much.

    Args:
        connection: In autocommit, as the owner of the table.
        table: A table of the schema `public` with a primary key, and nothing that depends on it.
        small_table: Any small table of the same owner.
        max_wait_ms: What others may wait.

    Raises:
        ConfigurationError: The table has something that cannot be made again.
        ProviderUnavailableError: It was too busy, or changed its shape meanwhile; calling again starts anew.
    """
    names, shape = _Names.of(table), shape_of(connection, table)
    if shape.odd or not shape.key:
        raise ConfigurationError(
            f"table {table} cannot be rewritten while it is in use: {', '.join(shape.odd) or 'it has no primary key'}"
        )
    clear_remains(connection, table, max_wait_ms=max_wait_ms)
    try:
        waited_ms = _patiently(lambda: _note_changes(connection, names, shape, max_wait_ms))
        with _unflushed(connection):
            _copy(connection, names, shape)
        failpoints.reach("rewrite.copied")
        for _ in range(_ATTEMPTS):
            _catch_up(connection, names, shape)
            wait_until_unseen(connection, current_xid(connection), small_table=small_table, within_s=_UNSEEN_S)
            changed_ms = _patiently(lambda: _change_places(connection, names, shape, max_wait_ms))
            if changed_ms is not None:
                return max(waited_ms, changed_ms)
        raise ProviderUnavailableError(COMPONENT, reason="finds a table changed again and again")
    except BaseException:
        if not connection.closed:
            # Otherwise the next call does it; until then changes are noted for nobody.
            with contextlib.suppress(*TIMED_OUT):
                _drop_remains(connection, names, max_wait_ms)
        raise


def _note_changes(connection: Session, names: _Names, shape: Shape, max_wait_ms: int) -> int:
    """From the commit on, the key of every row that is changed is noted."""
    types = dict(shape.columns)
    keys = ", ".join(quoted(name) for name in shape.key)

    def taken(row: str) -> str:
        return ", ".join(f"{row}.{quoted(name)}" for name in shape.key)

    with _holding(connection, max_wait_ms) as began_s:
        columns = ", ".join(f"{quoted(name)} {types[name]}" for name in shape.key)
        notes, trigger = quoted(names.notes), quoted(names.trigger)
        run(connection, f"CREATE TABLE public.{notes} ({columns})")
        # As its owner: whoever changes a row needs no right on the notes.
        run(
            connection,
            f"CREATE FUNCTION public.{trigger}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"  # noqa: S608 - names
            " SET search_path = pg_catalog, pg_temp AS $$ BEGIN"
            f" IF TG_OP <> 'INSERT' THEN INSERT INTO public.{notes} ({keys}) VALUES ({taken('OLD')}); END IF;"
            f" IF TG_OP <> 'DELETE' THEN INSERT INTO public.{notes} ({keys}) VALUES ({taken('NEW')}); END IF;"
            " RETURN NULL; END $$",
        )
        run(connection, f"REVOKE ALL ON FUNCTION public.{trigger}() FROM PUBLIC")
        run(
            connection,
            f"CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON public.{quoted(names.table)}"
            f" FOR EACH ROW EXECUTE FUNCTION public.{trigger}()",
        )
    return _since_ms(began_s)


def _copy(connection: Session, names: _Names, shape: Shape) -> None:
    copy, table = f"public.{quoted(names.copy)}", f"public.{quoted(names.table)}"
    run(connection, f"CREATE TABLE {copy} (LIKE {table} INCLUDING ALL EXCLUDING INDEXES)")
    key = ", ".join(quoted(name) for name in shape.key)
    columns = ", ".join(quoted(name) for name, _ in shape.columns)
    after: tuple[object, ...] | None = None
    while True:
        # In pages, so that no snapshot of ours keeps the rows of others from being vacuumed for long.
        where = "" if after is None else f"WHERE ({key}) > ({', '.join(['%s'] * len(after))})"
        page = (
            f"WITH page AS (SELECT {columns} FROM {table} {where} ORDER BY {key} LIMIT {_BATCH}),"  # noqa: S608 - names
            f" put AS (INSERT INTO {copy} ({columns}) SELECT {columns} FROM page)"
            f" SELECT {key} FROM page ORDER BY ({key}) DESC LIMIT 1"
        )
        after = connection.execute(page.encode(), after).fetchone()
        if after is None:
            break
    for number, (name, definition, kind) in enumerate(shape.indexes):
        own = _index_name(names, number)
        run(connection, index_on(definition, name, names.table, new_name=own, new_table=names.copy))
        if kind:
            word = "PRIMARY KEY" if kind == "p" else "UNIQUE"
            run(connection, f"ALTER TABLE {copy} ADD CONSTRAINT {quoted(own)} {word} USING INDEX {quoted(own)}")
    for statement in shape.statements:
        run(connection, statement.replace("{table}", copy))


def _catch_up(connection: Session, names: _Names, shape: Shape) -> None:
    """Copy what was noted, round by round, until nothing is."""
    for _ in range(_ROUNDS):
        if not _is_noted(connection, names):
            return
        with transaction(connection, isolation="REPEATABLE READ"):
            _apply(connection, names, shape)
    raise ProviderUnavailableError(COMPONENT, reason="cannot keep up with the changes of a table")


def _is_noted(connection: Session, names: _Names) -> bool:
    return bool(scalar(connection, f"SELECT EXISTS (SELECT FROM public.{quoted(names.notes)})"))  # noqa: S608 - a name


def _apply(connection: Session, names: _Names, shape: Shape) -> None:
    """Copy anew what was noted, in a transaction of one snapshot."""
    copy, table, notes = (f"public.{quoted(name)}" for name in (names.copy, names.table, names.notes))
    key = ", ".join(quoted(name) for name in shape.key)
    columns = ", ".join(quoted(name) for name, _ in shape.columns)
    changed = f"({key}) IN (SELECT {key} FROM {notes})"  # noqa: S608 - names
    run(connection, f"DELETE FROM {copy} WHERE {changed}")  # noqa: S608 - names
    run(connection, f"INSERT INTO {copy} ({columns}) SELECT {columns} FROM {table} WHERE {changed}")  # noqa: S608
    run(connection, f"DELETE FROM {notes}")  # noqa: S608 - a name


def _change_places(connection: Session, names: _Names, shape: Shape, max_wait_ms: int) -> int | None:
    """What others may have waited, in ms; `None` if something was changed meanwhile, and nothing was done."""
    table = f"public.{quoted(names.table)}"
    with _holding(connection, max_wait_ms) as began_s:
        run(connection, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        if _is_noted(connection, names):
            return None
        now = shape_of(connection, names.table)
        if replace(now, odd=()) != shape:
            raise ProviderUnavailableError(COMPONENT, reason="finds that a table was changed while it was rewritten")
        run(connection, f"DROP TABLE {table}")
        run(connection, f"ALTER TABLE public.{quoted(names.copy)} RENAME TO {quoted(names.table)}")
        for number, (name, _, kind) in enumerate(shape.indexes):
            own = quoted(_index_name(names, number))
            # A constraint takes its index along.
            run(
                connection,
                f"ALTER TABLE {table} RENAME CONSTRAINT {own} TO {quoted(name)}"
                if kind
                else f"ALTER INDEX public.{own} RENAME TO {quoted(name)}",
            )
        run(connection, f"DROP TABLE public.{quoted(names.notes)}")
        run(connection, f"DROP FUNCTION public.{quoted(names.trigger)}()")
        failpoints.reach("rewrite.places_changed")
    return _since_ms(began_s)


@contextmanager
def _unflushed(connection: Session) -> Iterator[None]:
    """Commits of the block need not outlive a crash; the next one after it is durable, and they with it."""
    run(connection, "SET synchronous_commit = off")
    try:
        yield
    finally:
        if not connection.closed:
            run(connection, "RESET synchronous_commit")


@contextmanager
def _holding(connection: Session, max_wait_ms: int) -> Iterator[float]:
    """A transaction for which others may wait, each statement of it within its part of the bound; yields its begin."""
    bound(connection, max_wait_ms // 2, lock_ms=max_wait_ms // _LOCK_SHARE)
    began_s = time.monotonic()
    try:
        with transaction(connection):
            yield began_s
    finally:
        if not connection.closed:
            bound(connection, UNBOUND_MS)


def _patiently(work: Callable[[], _T]) -> _T:
    """What `work` returns once it gets its locks.

    Raises:
        ProviderUnavailableError: It did not, again and again.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(*TIMED_OUT):
            return work()
        time.sleep(_PAUSE_S)
    raise ProviderUnavailableError(COMPONENT, reason="finds a table too busy to take its place")


def _drop_remains(connection: Session, names: _Names, max_wait_ms: int) -> None:
    # The trigger goes with its function, and for that the table is needed alone.
    with _holding(connection, max_wait_ms):
        run(connection, f"DROP FUNCTION IF EXISTS public.{quoted(names.trigger)}() CASCADE")
        for name in (names.notes, names.copy):
            run(connection, f"DROP TABLE IF EXISTS public.{quoted(name)}")


def _index_name(names: _Names, number: int) -> str:
    return f"{names.copy}_{number}"


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)
