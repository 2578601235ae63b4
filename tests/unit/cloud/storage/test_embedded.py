"""Laws of the embedded server: who gets in, what it keeps, what it writes down."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.durability import check_durability
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.roles import (
    APP_ROLE,
    BACKUP_ROLE,
    CONTROL_DATABASE,
    DATA_DATABASE,
    MAINTENANCE_ROLE,
    OWNER_ROLE,
    PIXELTABLE_ROLE,
    ROLE_DATABASES,
)
from tests.support.homes import temporary_home

STRANGER = 65534
ROLES = [(role, database) for role, databases in ROLE_DATABASES.items() for database in databases]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with temporary_home() as home, EmbeddedPostgres.open(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """A home that was opened and closed; each test puts back what it changes."""
    with temporary_home(prepared=True) as home:
        yield home


@pytest.fixture
def connection(server: EmbeddedPostgres) -> Iterator[sa.Connection]:
    with connected(server, OWNER_ROLE, CONTROL_DATABASE) as opened:
        yield opened


@contextmanager
def connected(server: EmbeddedPostgres, role: str, database: str) -> Iterator[sa.Connection]:
    with sa.create_engine(server.url(role, database), poolclass=sa.NullPool).connect() as opened:
        yield opened


def home_of(server: EmbeddedPostgres) -> Path:
    return server._server.home.root


def attempt(server: EmbeddedPostgres, **parameters: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(host=str(home_of(server) / "postgres/socket"), connect_timeout=5, **parameters)


class TestWhoGetsIn:
    @pytest.mark.parametrize(("role", "database"), ROLES)
    def test_each_role_gets_into_its_databases_with_its_password_only(
        self, server: EmbeddedPostgres, role: str, database: str
    ) -> None:
        with connected(server, role, database) as connection:
            assert connection.execute(sa.text("SELECT current_user")).scalar() == role
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            attempt(server, user=role, dbname=database, password="wrong")
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            attempt(server, user=role, dbname=database)

    def test_no_role_gets_into_a_database_that_is_not_its_own(self, server: EmbeddedPostgres) -> None:
        for role, allowed in ROLE_DATABASES.items():
            password = server.url(role, allowed[0]).password
            assert password
            for database in {CONTROL_DATABASE, DATA_DATABASE, "postgres", "template1"} - set(allowed):
                with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
                    attempt(server, user=role, dbname=database, password=password)

    def test_no_rule_trusts_anybody_and_only_the_bootstrap_superuser_enters_without_password(
        self, server: EmbeddedPostgres
    ) -> None:
        with server._server.cluster.connect("postgres") as connection:
            rules = connection.execute(
                "SELECT type, user_name, auth_method FROM pg_hba_file_rules WHERE error IS NULL"
            ).fetchall()
            errors = connection.execute("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL").fetchall()
        assert errors == []
        assert {kind for kind, _, _ in rules} == {"local"}
        assert {tuple(users) for _, users, method in rules if method == "peer"} == {("postgres",)}
        assert {method for _, users, method in rules if users != ["postgres"]} == {"scram-sha-256"}

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another account")
    def test_another_account_of_the_machine_does_not_get_in(self, server: EmbeddedPostgres) -> None:
        socket = home_of(server) / "postgres/socket"
        script = (
            f"import os, sys, psycopg; os.setgid({STRANGER}); os.setuid({STRANGER})\n"
            "try: psycopg.connect(host=sys.argv[1], user='postgres', dbname='postgres')\n"
            "except psycopg.OperationalError as exc: print(exc)"
        )
        assert "Permission denied" in run_script(script, socket)
        # Even if the directory let it in, the rule would not.
        try:
            for path in (socket, socket / ".s.PGSQL.5432"):
                path.chmod(0o777)
            assert "Peer authentication failed" in run_script(script, socket)
        finally:
            (socket / ".s.PGSQL.5432").chmod(0o700)
            socket.chmod(0o700)

    def test_nothing_listens_on_a_network(self, server: EmbeddedPostgres) -> None:
        with server._server.cluster.connect("postgres") as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        pid = server.pid()
        assert pid is not None
        inodes = {
            entry.readlink().name for entry in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in str(entry.readlink())
        }
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                assert f"socket:[{line.split()[9]}]" not in inodes

    def test_the_url_hides_the_password_and_knows_no_other_role_or_database(self, server: EmbeddedPostgres) -> None:
        url = server.url(APP_ROLE, CONTROL_DATABASE)
        assert url.password
        assert url.password not in repr(url)
        for role, database in (("postgres", "postgres"), (APP_ROLE, DATA_DATABASE), ("nobody", CONTROL_DATABASE)):
            with pytest.raises(ConfigurationError, match="no access"):
                server.url(role, database)


class TestWhatItMayDo:
    def test_maintenance_can_clear_the_log_of_changes_and_nobody_else_can(self, server: EmbeddedPostgres) -> None:
        for role, database in ROLES:
            for statement in ("CHECKPOINT", "SELECT pg_switch_wal()"):
                with connected(server, role, database) as connection:
                    if role == MAINTENANCE_ROLE:
                        connection.execute(sa.text(statement))
                        continue
                    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                        connection.execute(sa.text(statement))

    def test_pixeltables_role_owns_its_database_and_has_vectors(self, server: EmbeddedPostgres) -> None:
        with connected(server, PIXELTABLE_ROLE, DATA_DATABASE) as connection, connection.begin():
            connection.execute(sa.text("CREATE TABLE v (e vector(2))"))
            connection.execute(sa.text("INSERT INTO v VALUES ('[1,2]')"))
            connection.execute(sa.text("CREATE INDEX ON v USING hnsw (e vector_l2_ops)"))

    def test_a_backup_reads_pixeltables_tables_and_writes_none(self, server: EmbeddedPostgres) -> None:
        with connected(server, PIXELTABLE_ROLE, DATA_DATABASE) as connection, connection.begin():
            connection.execute(sa.text("CREATE TABLE b AS SELECT 1 AS x"))
        with connected(server, BACKUP_ROLE, DATA_DATABASE) as connection:
            assert connection.execute(sa.text("SELECT x FROM b")).scalar() == 1
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.execute(sa.text("DELETE FROM b"))


class TestWhatItKeeps:
    def test_an_acknowledged_write_is_durable_and_an_erased_one_is_not_recycled(self, server: EmbeddedPostgres) -> None:
        for role, database in ROLES:
            with connected(server, role, database) as connection:
                check_durability(connection)
                settings = {
                    name: connection.execute(sa.text(f"SHOW {name}")).scalar()
                    for name in ("wal_recycle", "data_checksums", "max_wal_senders", "max_replication_slots")
                }
                assert settings == {
                    "wal_recycle": "off",
                    "data_checksums": "on",
                    "max_wal_senders": "0",
                    "max_replication_slots": "0",
                }

    @pytest.mark.parametrize("value", ["off", "local", "remote_write"])
    def test_a_setting_that_could_lose_a_write_is_named(self, connection: sa.Connection, value: str) -> None:
        check_durability(connection)
        connection.execute(sa.text(f"SET synchronous_commit = {value}"))
        with pytest.raises(ConfigurationError, match="synchronous_commit"):
            check_durability(connection)

    def test_a_setting_left_behind_in_the_data_directory_does_not_pass(self) -> None:
        with temporary_home(prepared=True) as home:
            for setting in ("fsync", "full_page_writes"):
                with EmbeddedPostgres.open(home) as server, server._server.cluster.connect("postgres") as superuser:
                    superuser.execute(b"ALTER SYSTEM RESET ALL")
                    superuser.execute(f"ALTER SYSTEM SET {setting} = off".encode())
                with (
                    EmbeddedPostgres.open(home) as server,
                    connected(server, APP_ROLE, CONTROL_DATABASE) as connection,
                    pytest.raises(ConfigurationError, match=setting),
                ):
                    check_durability(connection)


class TestWhatItWritesDown:
    def test_no_literal_of_a_failing_statement_is_in_the_log(self, server: EmbeddedPostgres) -> None:
        secret = "rosebud-4711"
        log = home_of(server) / "postgres/log/server.log"
        with connected(server, OWNER_ROLE, CONTROL_DATABASE) as connection:
            connection.execute(sa.text("CREATE TEMP TABLE k (x text PRIMARY KEY)"))
            connection.commit()
            for statement in (
                f"SELECT '{secret}'::uuid",
                f"INSERT INTO k VALUES ('{secret}'), ('{secret}')",
                f'SELECT 1/0 AS "{secret}"',
                f"SELECT '{secret}' FROM missing",
                f"DO $$ BEGIN RAISE WARNING '{secret}'; RAISE EXCEPTION '{secret}'; END $$",
                f"SET statement_timeout = 1; SELECT pg_sleep(5), '{secret}'",
            ):
                with pytest.raises(sa.exc.DBAPIError):
                    connection.exec_driver_sql(statement)
                connection.rollback()
            with pytest.raises(sa.exc.DBAPIError):
                connection.execute(sa.text("SELECT CAST(:x AS uuid)"), {"x": secret})
            connection.rollback()
            assert secret not in log.read_text()

    def test_no_literal_of_the_statement_of_a_killed_backend_is_in_the_log(self, server: EmbeddedPostgres) -> None:
        """The postmaster reports what the backend was running, unless told to be terse."""
        secret = "rosebud-4712"
        log = home_of(server) / "postgres/log/server.log"
        url = server.url(APP_ROLE, CONTROL_DATABASE)
        with attempt(server, user=APP_ROLE, dbname=CONTROL_DATABASE, password=url.password or "") as victim:
            pid = victim.info.backend_pid
            victim.pgconn.send_query(f"SELECT pg_sleep(20), '{secret}'".encode())
            victim.pgconn.flush()
            with server._server.cluster.connect("postgres") as superuser:
                query = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND pid = %s"
                wait_for(lambda: secret in str(superuser.execute(query, [pid]).fetchone()))
            os.kill(pid, signal.SIGKILL)
            victim.close()
        wait_for(lambda: "was terminated by signal 9" in log.read_text())
        server.ensure_running()
        assert secret not in log.read_text()

    def test_only_the_owner_reads_the_secrets_the_log_and_the_data(self, server: EmbeddedPostgres) -> None:
        home = home_of(server)
        account = server._server.cluster.account.uid
        expected = {
            "secrets": (os.geteuid(), 0o700),
            "secrets/postgres.json": (os.geteuid(), 0o600),
            "locks": (os.geteuid(), 0o700),
            "postgres/data": (account, 0o700),
            "postgres/socket": (account, 0o700),
            "postgres/log": (account, 0o700),
            "postgres/log/server.log": (account, 0o600),
            "postgres/pg_hba.conf": (os.geteuid(), 0o640),
        }
        found = {name: (home / name).lstat() for name in expected}
        assert {name: (s.st_uid, stat.S_IMODE(s.st_mode)) for name, s in found.items()} == expected
        for place in (home, home / "postgres"):
            assert stat.S_IMODE(place.stat().st_mode) & 0o066 == 0

    def test_no_password_is_in_the_log_or_on_a_command_line(self, server: EmbeddedPostgres) -> None:
        passwords = [server.url(role, database).password or "" for role, database in ROLES]
        log = (home_of(server) / "postgres/log/server.log").read_text()
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                log += cmdline.read_text(errors="replace")
            except OSError:
                continue
        assert not any(password in log for password in passwords)


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", ["socket", "log", "data"])
    def test_a_directory_of_the_server_that_others_can_enter(self, stopped: Path, name: str) -> None:
        path = stopped / "postgres" / name
        path.chmod(0o711)
        try:
            with pytest.raises(ConfigurationError, match=f"{name} is open to other accounts"):
                EmbeddedPostgres.open(stopped)
        finally:
            path.chmod(0o700)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give files to another account")
    @pytest.mark.parametrize("name", ["socket", "log", "data"])
    def test_a_directory_of_the_server_that_another_account_owns(self, stopped: Path, name: str) -> None:
        path = stopped / "postgres" / name
        before = path.stat()
        os.chown(path, STRANGER, STRANGER)
        try:
            with pytest.raises(ConfigurationError, match=f"belongs to uid {STRANGER}"):
                EmbeddedPostgres.open(stopped)
        finally:
            os.chown(path, before.st_uid, before.st_gid)

    def test_a_socket_directory_that_is_a_link(self, stopped: Path) -> None:
        path = stopped / "postgres/socket"
        path.rmdir()
        path.symlink_to("/tmp")
        try:
            with pytest.raises(ConfigurationError, match="is not a directory"):
                EmbeddedPostgres.open(stopped)
        finally:
            path.unlink()

    @pytest.mark.parametrize("damage", ["mode", "content"])
    def test_a_password_file_that_others_can_read_or_that_is_damaged(self, stopped: Path, damage: str) -> None:
        path = stopped / "secrets/postgres.json"
        if damage == "mode":
            path.chmod(0o640)
        else:
            path.write_text("{")
        with pytest.raises(ConfigurationError, match=r"postgres\.json"):
            EmbeddedPostgres.open(stopped)
        path.unlink()
        # The remedy the message names: new passwords are made, and the roles get them.
        with EmbeddedPostgres.open(stopped) as server, connected(server, APP_ROLE, CONTROL_DATABASE):
            pass

    def test_a_server_that_does_not_start_says_why_and_nobody_counts_as_its_user(self, stopped: Path) -> None:
        path = stopped / "postgres/data/PG_VERSION"
        content = path.read_bytes()
        path.write_bytes(b"99\n")
        try:
            with pytest.raises(ConfigurationError, match="did not start: FATAL: .*incompatible"):
                EmbeddedPostgres.open(stopped)
        finally:
            path.write_bytes(content)
        server = EmbeddedPostgres.open(stopped)
        server.close()
        assert server.pid() is None

    def test_a_closed_handle_starts_nothing(self, stopped: Path) -> None:
        server = EmbeddedPostgres.open(stopped)
        server.close()
        server.close()
        with pytest.raises(ProviderUnavailableError, match="was closed"):
            server.ensure_running()
        assert server.pid() is None


def wait_for(condition: Callable[[], bool], *, deadline_s: float = 10.0) -> None:
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, "the awaited did not happen"
        time.sleep(0.01)


def run_script(script: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout
