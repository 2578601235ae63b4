"""Laws of the embedded server among processes: one starts it, the last stops it, a killed one does no harm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE, OWNER_ROLE
from tests.support.homes import postmaster_pid, process_exists, temporary_home, wait_until_gone

pytestmark = pytest.mark.crash

USE = """
import sys
from pathlib import Path
import psycopg
from cloud.storage.embedded import EmbeddedPostgres
server = EmbeddedPostgres.open(Path(sys.argv[1]))
url = server.url("luminescent_app", "luminescent_control").set(drivername="postgresql")
with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
    print(server.pid(), connection.execute("SELECT current_user").fetchone()[0], flush=True)
"""
USE_AND_CLOSE = USE + "server.close()\n"
USE_UNTIL_TOLD = USE + "sys.stdin.read()\nserver.close()\n"


def start(script: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def can_connect(server: EmbeddedPostgres) -> bool:
    engine = sa.create_engine(server.url(APP_ROLE, CONTROL_DATABASE), poolclass=sa.NullPool)
    try:
        engine.connect().close()
    except sa.exc.OperationalError:
        return False
    return True


def killed(server: EmbeddedPostgres) -> int:
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    return pid


def test_eight_processes_that_open_a_new_home_at_once_all_succeed_and_the_last_stops_the_server() -> None:
    with temporary_home() as home:
        users = [start(USE_AND_CLOSE, home) for _ in range(8)]
        lines = [user.communicate(timeout=120)[0].strip() for user in users]
        assert [user.returncode for user in users] == [0] * 8
        assert all(text.endswith(f" {APP_ROLE}") for text in lines)
        for pid in {int(text.split()[0]) for text in lines}:
            wait_until_gone(pid)
        assert not (home / "postgres/data/postmaster.pid").exists()


def test_the_server_stays_for_others_and_outlives_its_starter_who_was_killed() -> None:
    with temporary_home(prepared=True) as home:
        with start(USE_UNTIL_TOLD, home) as starter:
            pid = int(line(starter).split()[0])
            own = EmbeddedPostgres.open(home)
            assert own.pid() == pid
            starter.send_signal(signal.SIGKILL)
            starter.wait()
            assert can_connect(own)
            with start(USE_UNTIL_TOLD, home) as other:
                line(other)
                own.close()
                assert process_exists(pid), "closed under another user"
                other.communicate(timeout=30)
        wait_until_gone(pid)
        assert postmaster_pid(home) is None


def test_the_server_holds_none_of_our_files_and_is_nobodys_child() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        pid = server.pid()
        assert pid is not None
        held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert not any(str(home / part) in name for name in held for part in ("locks", "secrets"))
        parent, group, leader = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1:4]
        assert int(parent) != os.getpid()
        assert (int(group), int(leader)) == (pid, pid)


def test_a_killed_server_is_started_again_by_whoever_notices_first() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        former = killed(server)
        assert server.pid() is None
        assert not can_connect(server)
        with EmbeddedPostgres.open(home) as second:
            threads = [threading.Thread(target=handle.ensure_running) for handle in (server, second) * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert can_connect(second)
        assert can_connect(server)
        now = server.pid()
        assert now != former
        server.ensure_running()
        assert server.pid() == now


def test_what_was_acknowledged_is_there_after_the_server_was_killed() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        engine = sa.create_engine(server.url(OWNER_ROLE, CONTROL_DATABASE), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE kept AS SELECT 7 AS x"))
        killed(server)
        server.ensure_running()
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT x FROM kept")).scalar() == 7


def test_a_busy_backend_of_a_killed_server_does_not_keep_the_next_from_starting() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        url = server.url(APP_ROLE, CONTROL_DATABASE).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as busy:
            backend = busy.info.backend_pid
            # Waits for nothing, so it does not notice that the postmaster is gone.
            busy.pgconn.send_query(b"DO $$ BEGIN LOOP NULL; END LOOP; END $$")
            busy.pgconn.flush()
            killed(server)
            assert process_exists(backend)
            server.ensure_running()
            assert can_connect(server)
            assert not process_exists(backend)
            busy.close()


def test_the_last_to_leave_stops_the_server_even_while_it_recovers_from_the_crash_of_a_backend() -> None:
    with temporary_home(prepared=True) as home:
        server = EmbeddedPostgres.open(home)
        log = home / "postgres/log/server.log"
        url = server.url(APP_ROLE, CONTROL_DATABASE).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            victim.close()
        while "was terminated by signal 9" not in log.read_text():
            time.sleep(0.001)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 15
        assert postmaster_pid(home) is None


def test_opening_waits_for_a_server_that_recovers_from_the_crash_of_a_backend() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        log = home / "postgres/log/server.log"
        url = server.url(APP_ROLE, CONTROL_DATABASE).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            victim.close()
        while "was terminated by signal 9" not in log.read_text():
            time.sleep(0.001)
        server.ensure_running()
        assert can_connect(server)


def test_a_process_id_that_was_given_to_another_process_means_nothing() -> None:
    """After a container's restart the id in `postmaster.pid` may be anybody's, even our own."""
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        killed(server)
        path = home / "postgres/data/postmaster.pid"
        lines = path.read_text().splitlines()
        with subprocess.Popen(["sleep", "60"]) as stranger:
            for pid in (os.getpid(), stranger.pid):
                if server.pid() is not None:
                    killed(server)
                path.write_text("\n".join([str(pid), *lines[1:]]))
                assert server.pid() is None
                server.ensure_running()
                assert can_connect(server)
            assert stranger.poll() is None
            stranger.kill()


def test_an_interrupted_initdb_is_begun_anew() -> None:
    with temporary_home(prepared=True) as home:
        shutil.rmtree(home / "postgres/data")
        unfinished = home / "postgres/data.new"
        unfinished.mkdir(mode=0o700)
        (unfinished / "PG_VERSION").write_text("16\n")
        with EmbeddedPostgres.open(home) as server:
            assert can_connect(server)
        assert not unfinished.exists()


def test_handles_of_one_process_share_a_server_and_the_last_stops_it() -> None:
    with temporary_home(prepared=True) as home:
        first, second = EmbeddedPostgres.open(home), EmbeddedPostgres.open(home)
        first.close()
        first.close()
        assert can_connect(second), "closing one handle twice took the other's share"
        second.close()
        assert postmaster_pid(home) is None


def test_opening_again_after_the_server_was_killed_starts_it() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as first:
        killed(first)
        with EmbeddedPostgres.open(home) as second:
            assert can_connect(second)
        assert can_connect(first)


def test_one_process_may_use_two_homes() -> None:
    with temporary_home(prepared=True) as one, temporary_home() as two, EmbeddedPostgres.open(one) as first:
        with EmbeddedPostgres.open(two) as second:
            assert first.pid() != second.pid()
            passwords = {server.url(APP_ROLE, CONTROL_DATABASE).password for server in (first, second)}
            assert len(passwords) == 2, "every home has passwords of its own"
        assert can_connect(first)


def test_a_path_with_characters_that_only_look_special_works() -> None:
    with temporary_home() as directory, EmbeddedPostgres.open(directory / "a b%20;&(ü)#{x}@~") as server:
        assert can_connect(server)
        assert server.pid() is not None


FORK = """
import os, sys
from pathlib import Path
from cloud.storage.embedded import EmbeddedPostgres
home = Path(sys.argv[1])
server = EmbeddedPostgres.open(home)
pid = server.pid()
if os.fork() == 0:
    server.close()
    assert EmbeddedPostgres.open(home).pid() == pid
    os._exit(0)
assert os.wait()[1] == 0
print(server.pid() == pid)
server.close()
print(server.pid())
"""


def test_a_forked_child_does_not_stop_its_parents_server() -> None:
    with temporary_home(prepared=True) as home:
        done = subprocess.run([sys.executable, "-c", FORK, home], check=True, capture_output=True, timeout=60)
    assert done.stdout.split() == [b"True", b"None"]


AS_SELF = """
import os, sys
from pathlib import Path
import psycopg, sqlalchemy.dialects.postgresql.psycopg
from cloud.storage.embedded import EmbeddedPostgres
os.setgid(65534); os.setgroups([]); os.setuid(65534)
home = Path(sys.argv[1])
with EmbeddedPostgres.open(home) as server:
    url = server.url("luminescent_app", "luminescent_control").set(drivername="postgresql")
    psycopg.connect(url.render_as_string(hide_password=False)).close()
    print(os.stat(f"/proc/{server.pid()}").st_uid)
print(oct(home.stat().st_mode & 0o777), oct((home / "postgres").stat().st_mode & 0o777))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another account")
def test_an_ordinary_account_runs_the_server_as_itself_and_opens_nothing_to_others() -> None:
    # Passing through the environment's directories is granted here, where it may be missing, by the first opening.
    with temporary_home() as home:
        EmbeddedPostgres.open(home).close()
    with temporary_home() as directory:
        home = directory / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        directory.chmod(0o711)
        done = subprocess.run([sys.executable, "-c", AS_SELF, home], check=True, capture_output=True, timeout=60)
    assert done.stdout.split() == [b"65534", b"0o700", b"0o700"]
