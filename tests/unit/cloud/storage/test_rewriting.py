"""What was deleted is in no file and no log after a rewriting; others wait within the bound, and miss nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage import relocating, rewriting
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.relocating import clear_remains
from cloud.storage.rewriting import Rewritten, rewrite_tables, statistics_of
from cloud.storage.roles import CONTROL_DATABASE, DATA_DATABASE, MAINTENANCE_ROLE, PIXELTABLE_ROLE
from cloud.storage.shape import shape_of
from cloud.storage.upkeep import Session, current_xid, session, vacuumed, wait_until_unseen
from cloud.storage.wal import clear_wal
from tests.support.homes import temporary_home
from tests.support.nursery import ROOT

BOUND_MS = 1_000
ROWS = 3_000


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as opened:
        yield opened


@pytest.fixture
def owner(server: EmbeddedPostgres) -> Iterator[Session]:
    """The owner of the data database, and in it a table like one of memories, with a small one beside it."""
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as connection:
        run = connection.execute
        run("DROP TABLE IF EXISTS kept, small CASCADE")
        run("CREATE TABLE small (n int)")
        run(
            "CREATE TABLE kept (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar UNIQUE,"
            " body text, n int NOT NULL CHECK (n >= 0), at timestamptz DEFAULT now())"
        )
        run("ALTER TABLE kept ALTER COLUMN body SET STORAGE EXTERNAL")
        run("ALTER TABLE kept SET (fillfactor = 90)")
        run("CREATE INDEX kept_by_n ON kept (n) WHERE n > 3")
        run("CREATE INDEX kept_by_body ON kept (left(body, 40))")
        run("COMMENT ON TABLE kept IS 'it''s kept'")
        run("GRANT UPDATE (n) ON kept TO luminescent_maintenance")
        run("ALTER TABLE kept SET (autovacuum_enabled = false)")
        yield connection
        failpoints.disarm_all()


@pytest.fixture(params=["in place", "relocated"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "relocated":
        monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS)
    return str(request.param)


def fill(connection: Session, canary: str) -> None:
    """Rows of others, and some of somebody with a canary: in the row, in TOAST, in both indexes, and statistics."""
    connection.execute(
        "INSERT INTO kept (name, body, n) SELECT 'row ' || g, 'body ' || g || repeat('-', 200), g"
        " FROM generate_series(1, %s) g",
        (ROWS,),
    )
    for number in range(5):
        body = f"{canary} {number} " + "x" * (5_000 * (number % 2))
        connection.execute("INSERT INTO kept (name, body, n) VALUES (%s, %s, %s)", (f"{canary}-{number}", body, number))
    # Few, so that they are not compressed; the least value is among them.
    connection.execute("ALTER TABLE kept ALTER COLUMN name SET STATISTICS 20, ALTER COLUMN body SET STATISTICS 20")
    connection.execute("ANALYZE kept")


def found_in(server: EmbeddedPostgres, canary: str) -> set[str]:
    """Directories of the cluster in which the canary stands."""
    with session(server.url(MAINTENANCE_ROLE, CONTROL_DATABASE)) as connection:
        connection.execute("CHECKPOINT")
    data, needle, found = server._server.home.postgres / "data", canary.encode(), set()
    for path in data.rglob("*"):
        try:
            if path.is_file() and needle in path.read_bytes():
                found.add(path.relative_to(data).parts[0])
        except FileNotFoundError:
            continue
    return found


def relations_with(connection: Session, server: EmbeddedPostgres, canary: str) -> set[str]:
    names = connection.execute(
        "SELECT pg_relation_filepath(oid), CASE WHEN relname LIKE 'pg_toast%%' THEN 'toast' ELSE relname END"
        " FROM pg_class WHERE pg_relation_filepath(oid) IS NOT NULL"
    ).fetchall()
    data = server._server.home.postgres / "data"
    return {name for path, name in names if canary.encode() in (data / path).read_bytes()}


def rewritten(connection: Session, *, may_relocate: bool = True) -> list[Rewritten]:
    return rewrite_tables(
        connection, ["kept", "missing"], small_table="small", max_wait_ms=BOUND_MS, may_relocate=may_relocate
    )


def canary() -> str:
    return f"canary{os.urandom(12).hex()}"


def test_deleted_rows_leave_heap_indexes_toast_and_statistics(
    server: EmbeddedPostgres, owner: Session, way: str
) -> None:
    word = canary()
    fill(owner, word)
    shape, others = shape_of(owner, "kept"), rows_of(owner, word)
    found_in(server, word)
    places = {"kept", "toast", "kept_by_body", "kept_name_key", "pg_statistic"}
    assert relations_with(owner, server, word) >= places, "the test would prove nothing"
    owner.execute("DELETE FROM kept WHERE body LIKE %s", (f"{word}%",))
    assert found_in(server, word) >= {"base", "pg_wal"}
    (done,) = rewritten(owner)
    assert done.relocated == (way == "relocated")
    assert done.before != done.after
    assert "base" not in found_in(server, word)
    assert shape_of(owner, "kept") == shape
    assert rows_of(owner, word) == others
    with session(server.url(MAINTENANCE_ROLE, CONTROL_DATABASE)) as maintenance:
        cleared = clear_wal(maintenance)
    assert cleared.obstacle is None
    assert found_in(server, word) == set()


def rows_of(connection: Session, word: str) -> list[tuple[object, ...]]:
    return connection.execute("SELECT * FROM kept WHERE name NOT LIKE %s ORDER BY id", (f"{word}%",)).fetchall()


def test_an_emptied_table_leaves_no_statistics(server: EmbeddedPostgres, owner: Session) -> None:
    word = canary()
    fill(owner, word)
    owner.execute("DELETE FROM kept")
    owner.execute("ANALYZE kept")
    assert statistics_of(owner, ["kept"]) > 0, "analyzing it would do"
    rewritten(owner)
    assert statistics_of(owner, ["kept"]) == 0
    assert "base" not in found_in(server, word)


def test_nothing_is_taken_along_for_a_transaction_that_could_still_see_it(
    server: EmbeddedPostgres, owner: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_UNSEEN_S", 0.3)
    word = canary()
    fill(owner, word)
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM small")
        owner.execute("DELETE FROM kept WHERE body LIKE %s", (f"{word}%",))
        with pytest.raises(ProviderUnavailableError, match="still open"):
            rewritten(owner)
        reader.execute("COMMIT")
    rewritten(owner)
    assert "base" not in found_in(server, word)


def test_row_versions_are_measured_by_what_vacuum_says(server: EmbeddedPostgres, owner: Session) -> None:
    fill(owner, canary())
    owner.execute("DELETE FROM kept WHERE n <= 10")
    before = current_xid(owner)
    assert vacuumed(owner, "kept").removed >= 10
    wait_until_unseen(owner, before, small_table="kept", within_s=0)
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM small")
        owner.execute("DELETE FROM kept WHERE n <= 20")
        with pytest.raises(ProviderUnavailableError):
            wait_until_unseen(owner, current_xid(owner), small_table="kept", within_s=0.2)
        reader.execute("ROLLBACK")


# While others use it


class Others:
    """Readers under one snapshot per transaction, as Pixeltable is one, and writers; they note what they see."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.counts: list[int] = []
        self.errors: list[str] = []
        self.longest_s = 0.0
        self.written = 0
        self._server = server
        self._stop = threading.Event()

    @contextmanager
    def at_work(self, *works: Callable[[Session], None]) -> Iterator[None]:
        threads = [threading.Thread(target=self._repeat, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _repeat(self, work: Callable[[Session], None]) -> None:
        with session(self._server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as connection:
            while not self._stop.is_set():
                began_s = time.monotonic()
                try:
                    work(connection)
                except psycopg.Error as error:
                    self.errors.append(repr(error))
                    return
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def read(self, connection: Session) -> None:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM small")
        time.sleep(0.002)
        (count,) = connection.execute("SELECT count(*) FROM kept WHERE n > 0").fetchone() or (0,)
        connection.execute("COMMIT")
        self.counts.append(int(count))

    def write(self, connection: Session) -> None:
        name = f"written {self.written}"
        connection.execute("INSERT INTO kept (name, body, n) VALUES (%s, 'new', 5)", (name,))
        connection.execute("UPDATE kept SET body = 'newer' WHERE name = %s", (name,))
        self.written += 1
        time.sleep(0.3)


@pytest.mark.parametrize("round_", range(3))
def test_readers_and_writers_miss_nothing_and_wait_no_longer_than_the_bound(
    server: EmbeddedPostgres, owner: Session, way: str, round_: int
) -> None:
    fill(owner, canary())
    others = Others(server)
    with others.at_work(others.read, others.read, others.write):
        time.sleep(0.2)
        for _ in range(2):
            (done,) = rewritten(owner)
            assert done.waited_ms <= BOUND_MS
        time.sleep(0.2)
    assert others.errors == []
    # None of them may see an empty table, or half of one.
    assert min(others.counts) >= ROWS
    assert others.counts == sorted(others.counts) or min(others.counts) >= ROWS
    # A writer sleeps for 0.3 s of this by itself; a busy machine gets some more.
    assert others.longest_s <= BOUND_MS / 1000 + 0.8
    (newer,) = owner.execute("SELECT count(*) FROM kept WHERE body = 'newer'").fetchone() or (0,)
    assert newer == others.written > 0


def test_a_reader_that_began_before_the_copy_is_waited_for(
    server: EmbeddedPostgres, owner: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot is older than the copied rows: to it the copy would be an empty table."""
    monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS)
    fill(owner, canary())
    seen: list[int] = []
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as reader:
        begun, end = threading.Event(), threading.Event()

        def begin() -> None:
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM small")
            begun.set()

        failpoints.arm("rewrite.copied", begin)

        def read_later() -> None:
            begun.wait(10)
            time.sleep(0.5)
            # The second statement of a transaction that began in the middle, on a table it had not touched.
            seen.extend(int(row[0]) for row in reader.execute("SELECT count(*) FROM kept WHERE n > 0"))
            reader.execute("COMMIT")
            end.set()

        thread = threading.Thread(target=read_later)
        thread.start()
        rewritten(owner)
        thread.join()
    assert seen == [ROWS + 4]


def test_a_relocation_that_cannot_have_the_table_gives_way_in_time(
    server: EmbeddedPostgres, owner: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS)
    monkeypatch.setattr(relocating, "_ATTEMPTS", 2)
    fill(owner, canary())
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as holder:
        failpoints.arm("rewrite.copied", lambda: holder.execute("BEGIN; SELECT 1 FROM kept LIMIT 1"))
        began_s = time.monotonic()
        monkeypatch.setattr(relocating, "_UNSEEN_S", 0.2)
        with pytest.raises(ProviderUnavailableError):
            rewritten(owner)
        assert time.monotonic() - began_s < 10
        holder.execute("COMMIT")
    failpoints.disarm_all()
    assert len(rewritten(owner)) == 1
    assert not clear_remains(owner, "kept", max_wait_ms=BOUND_MS)


# What stops it


KILLED = """
import os, signal, sys
from pathlib import Path
from cloud.kernel import failpoints
from cloud.storage import rewriting
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.upkeep import session
rewriting._estimated_ms = lambda *_: 10**6
failpoints.arm(sys.argv[2], lambda: os.kill(os.getpid(), signal.SIGKILL))
with session(EmbeddedPostgres.open(Path(sys.argv[1])).url("luminescent_pixeltable", "luminescent_data")) as owner:
    rewriting.rewrite_tables(owner, ["kept"], small_table="small", max_wait_ms=1000, may_relocate=True)
"""


@pytest.mark.parametrize("place", ["rewrite.copied", "rewrite.places_changed"])
def test_a_table_whose_relocation_was_killed_is_whole_and_is_rewritten_later(
    server: EmbeddedPostgres, owner: Session, place: str
) -> None:
    word = canary()
    fill(owner, word)
    shape = shape_of(owner, "kept")
    owner.execute("DELETE FROM kept WHERE body LIKE %s", (f"{word}%",))
    rows = rows_of(owner, word)
    arguments = [sys.executable, "-c", KILLED, str(server._server.home.root), place]
    assert subprocess.run(arguments, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    assert rows_of(owner, word) == rows
    owner.execute("UPDATE kept SET n = n + 1 WHERE name = 'row 7'")
    assert len(rewritten(owner)) == 1
    assert not clear_remains(owner, "kept", max_wait_ms=BOUND_MS)
    assert shape_of(owner, "kept") == shape
    assert len(rows_of(owner, word)) == len(rows)
    assert "base" not in found_in(server, word)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW shown AS SELECT name FROM kept",
        "CREATE FUNCTION taking(one kept) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE referring (id uuid REFERENCES kept)",
        "ALTER TABLE kept ENABLE ROW LEVEL SECURITY",
        "CREATE TABLE heir () INHERITS (kept)",
    ],
)
def test_a_table_on_which_something_depends_is_not_relocated(
    owner: Session, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS)
    owner.execute(statement.encode())
    with pytest.raises(ConfigurationError, match="cannot be rewritten while it is in use"):
        rewritten(owner)
    assert not clear_remains(owner, "kept", max_wait_ms=BOUND_MS)
    owner.execute("DROP TABLE IF EXISTS referring, heir")


def test_a_table_that_takes_too_long_and_may_not_be_relocated_is_left_out(
    owner: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS + 1)
    fill(owner, canary())
    assert rewritten(owner, may_relocate=False) == []


def test_a_column_added_meanwhile_is_not_lost(
    server: EmbeddedPostgres, owner: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_estimated_ms", lambda *_: BOUND_MS)
    with session(server.url(PIXELTABLE_ROLE, DATA_DATABASE)) as other:
        failpoints.arm("rewrite.copied", lambda: other.execute("ALTER TABLE kept ADD COLUMN late int"))
        with pytest.raises(ProviderUnavailableError, match="changed while it was rewritten"):
            rewritten(owner)
    failpoints.disarm_all()
    rewritten(owner)
    assert "late" in {name for name, _ in shape_of(owner, "kept").columns}


def test_no_role_of_the_request_path_may_do_any_of_it(server: EmbeddedPostgres) -> None:
    for role, database in (("luminescent_app", CONTROL_DATABASE), ("luminescent_worker", CONTROL_DATABASE)):
        for statement in ("SELECT pg_switch_wal()", "CHECKPOINT", "SELECT count(*) FROM pg_ls_waldir()"):
            with pytest.raises(ConfigurationError), session(server.url(role, database)) as connection:
                connection.execute(statement.encode())


def test_a_role_that_may_not_clear_the_log_says_so(server: EmbeddedPostgres) -> None:
    with session(server.url("luminescent_backup", CONTROL_DATABASE)) as connection:
        obstacle = clear_wal(connection).obstacle
    assert obstacle is not None
    assert "roles.sql" in obstacle
