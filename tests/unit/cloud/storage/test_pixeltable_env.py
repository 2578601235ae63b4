"""Laws of Pixeltable's environment, in processes of their own: a process can have only one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud
from cloud.storage.embedded import EmbeddedPostgres
from tests.support.homes import temporary_home

PROJECT = Path(cloud.__file__).parents[1]
SECRET = "rosebud-4713"

COMMON = """
import json, logging, os, sys, threading, warnings
from pathlib import Path
warnings.simplefilter("error")
import sqlalchemy as sa
from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.storage import pixeltable_env
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.pixeltable_env import disconnect_pixeltable, listening_sockets, open_pixeltable

home = Path(sys.argv[1])
server = EmbeddedPostgres.open(home)
url = server.url("luminescent_pixeltable", "luminescent_data")
facts = {}

def refused(call):
    try:
        call()
    except LuminescentError as exc:
        return [type(exc).__name__, str(exc), exc.__context__ is None and exc.__cause__ is None]
    return None

def finish():
    disconnect_pixeltable()
    with server._server.cluster.connect("postgres") as superuser:
        query = "SELECT application_name FROM pg_stat_activity WHERE datname = 'luminescent_data'"
        facts["connections"] = [name for (name,) in superuser.execute(query)]
    server.close()
    print("FACTS" + json.dumps(facts))
"""

WHOLE = (
    COMMON
    + """
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.storage.pixeltable_tables import assert_operational, create_operational_table, translated

secret = sys.argv[2]
facts["imported_before"] = "pixeltable" in sys.modules
sql_logger = logging.getLogger("sqlalchemy.engine")
sql_before = (sql_logger.level, sql_logger.propagate, len(sql_logger.handlers))
nowhere = url.set(query={"host": str(home / "nowhere")})
facts["unreachable"] = refused(lambda: open_pixeltable(home, nowhere))
at_once = [threading.Thread(target=open_pixeltable, args=(home, url)) for _ in range(4)]
for thread in at_once:
    thread.start()
for thread in at_once:
    thread.join()
open_pixeltable(home, url)

from pixeltable.config import Config
from pixeltable.env import Env
import pixeltable as pxt

facts["listening"] = sorted(listening_sockets())
facts["httpd"] = Env.get()._httpd is None
facts["threads"] = [thread.name for thread in threading.enumerate()]
facts["environment"] = [name for name in os.environ if name.startswith(("PIXELTABLE_", "PXTCLOUD_"))]
facts["password_in_environment"] = any(url.password in value for value in os.environ.values())
facts["project_root"] = str(Config.get().project_root)
facts["home"] = [str(Config.get().home), str(Config.get().config_file)]
facts["sql_logger_as_before"] = sql_before == (sql_logger.level, sql_logger.propagate, len(sql_logger.handlers))
facts["second_home"] = refused(lambda: open_pixeltable(home / "second", url))
facts["second_home_made"] = (home / "second").exists()
facts["second_database"] = refused(lambda: open_pixeltable(home, url.set(database="luminescent_control")))
reader, writer = os.pipe()
if (child := os.fork()) == 0:
    os.write(writer, str(refused(lambda: open_pixeltable(home, url))).encode())
    os._exit(0)
os.waitpid(child, 0)
facts["forked"] = os.read(reader, 4096).decode()

pool = PixeltablePool()
schema = {"id": pxt.String, "text": pxt.String}
make = lambda: create_operational_table("operational", schema, ["id"])
table = pool.run_blocking(make)
facts["versioned_flag"] = table.get_metadata()["is_data_versioned"]
physical = 'tbl_' + str(table.get_metadata()['id']).replace('-', '')
facts["same_again"] = pool.run_blocking(make).get_metadata()["id"] == table.get_metadata()["id"]
pool.run_blocking(lambda: pxt.create_table("versioned", schema, primary_key="id"))
facts["versioned_refused"] = refused(lambda: assert_operational(pxt.get_table("versioned")))
facts["versioned_path_refused"] = refused(lambda: create_operational_table("versioned", schema, ["id"]))

def rows():
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(f'SELECT count(*) FROM "{physical}"')).scalar()

pool.run_blocking(lambda: table.insert([{"id": "a", "text": "first"}, {"id": "b", "text": "other"}]))
pool.run_blocking(lambda: table.update({"text": "second"}, where=table.id == "a"))
facts["after_update"] = rows()
facts["read"] = [row["text"] for row in pool.run_blocking(lambda: list(table.where(table.id == "a").collect()))]
pool.run_blocking(lambda: table.delete(where=table.id == "a"))
facts["after_delete"] = rows()

import failing_udf

def insert_twice():
    with translated():
        table.insert([{"id": secret, "text": secret}, {"id": secret, "text": secret}])

def add_failing_column():
    with translated():
        table.insert([{"id": "x", "text": secret}])
        table.add_computed_column(bad=failing_udf.fail(table.text))

def database_error():
    with translated(), Env.get().engine.connect() as connection:
        connection.execute(sa.text("SELECT CAST(:x AS uuid)"), {"x": secret})

def database_gone():
    with translated(), sa.create_engine(nowhere).connect():
        pass

failing_calls = (insert_twice, add_failing_column, database_error, database_gone)
facts["translated"] = [refused(lambda: pool.run_blocking(call)) for call in failing_calls]
try:
    with translated():
        raise ConfigurationError("ours")
except ConfigurationError as exc:
    facts["own_errors_pass"] = str(exc)
try:
    with Env.get().engine.connect() as connection:
        connection.execute(sa.text("SELECT CAST(:x AS int)"), {"x": secret})
except sa.exc.DBAPIError as exc:
    facts["parameters_hidden"] = "SQL parameters hidden" in str(exc)
facts["files"] = sorted(str(p.relative_to(home)) for p in (home / "pixeltable").rglob("*") if p.is_file())
facts["still_listening"] = sorted(listening_sockets())
pool.close()
finish()
"""
)

FAILING_UDF = """
import pixeltable as pxt

@pxt.udf
def fail(text: str) -> str:
    raise ValueError(text)
"""

REFUSALS = (
    COMMON
    + """
import socket
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pixeltable.env import Env

original = Env._start_web_server
del Env._start_web_server
facts["unknown_version"] = refused(lambda: open_pixeltable(home, url))
facts["not_initialized"] = Env._instance is None
Env._start_web_server = original

replacement = pixeltable_env._start_no_web_server
opened = []

def listen(env):
    replacement(env)
    opened.append(socket.create_server(("127.0.0.1", 0)))

pixeltable_env._start_no_web_server = listen
facts["listens"] = refused(lambda: open_pixeltable(home, url))
opened[0].close()
pixeltable_env._start_no_web_server = replacement
facts["elsewhere"] = refused(lambda: open_pixeltable(home, url))
finish()
"""
)

AT_ONCE = COMMON + "open_pixeltable(home, url)\nfinish()\n"


def start(script: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def facts_of(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    """What the script found, and everything else it wrote."""
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    rest, _, found = output.partition("FACTS")
    return json.loads(found), rest


@pytest.fixture(scope="module")
def whole() -> Iterator[tuple[dict[str, object], str]]:
    with temporary_home(prepared=True) as home:
        # A directory as a user might start the service in, with settings that would send tables elsewhere.
        (home / "somewhere").mkdir()
        (home / "somewhere/pyproject.toml").write_text("[tool.pixeltable]\ndb_uri = 'pxt://org:db'\n")
        (home / "somewhere/failing_udf.py").write_text(FAILING_UDF)
        environment = {"PIXELTABLE_DB_URI": "pxt://org:db", "PIXELTABLE_HOME": str(home / "elsewhere")}
        facts, rest = facts_of(start(WHOLE, home, SECRET, cwd=home / "somewhere", **environment))
        facts["elsewhere_made"] = (home / "elsewhere").exists()
        facts["home_path"] = str(home)
        yield facts, rest


@pytest.fixture
def facts(whole: tuple[dict[str, object], str]) -> dict[str, object]:
    return whole[0]


def test_it_is_imported_only_when_opened(facts: dict[str, object]) -> None:
    assert facts["imported_before"] is False


def test_nothing_listens_and_no_thread_is_left(facts: dict[str, object]) -> None:
    assert facts["listening"] == facts["still_listening"] == []
    assert facts["httpd"] is True
    assert facts["threads"] == ["MainThread"]


def test_neither_environment_nor_directory_decides_where_tables_go(facts: dict[str, object]) -> None:
    directory = f"{facts['home_path']}/pixeltable"
    assert facts["home"] == [directory, f"{directory}/config.toml"]
    assert facts["environment"] == []
    assert facts["project_root"] == "None"
    assert facts["elsewhere_made"] is False


def test_the_password_is_not_left_in_the_environment(facts: dict[str, object]) -> None:
    assert facts["password_in_environment"] is False


@pytest.mark.parametrize("name", ["second_home", "second_database"])
def test_a_second_home_or_database_is_refused(facts: dict[str, object], name: str) -> None:
    kind, message, _ = facts[name]  # type: ignore[misc]
    assert kind == "ConfigurationError"
    assert "one home and one database per process" in message
    assert facts["second_home_made"] is False


def test_a_forked_child_is_refused(facts: dict[str, object]) -> None:
    assert "was forked" in str(facts["forked"])


def test_a_database_that_does_not_answer_is_said_to_be_unavailable_and_can_be_tried_again(
    facts: dict[str, object],
) -> None:
    kind, message, _ = facts["unreachable"]  # type: ignore[misc]
    assert (kind, "could not reach" in message) == ("ProviderUnavailableError", True)


def test_an_operational_table_forgets(facts: dict[str, object]) -> None:
    """The contract with Pixeltable that erasure stands on; if a new version breaks it, that version cannot be used."""
    assert facts["versioned_flag"] is False
    assert facts["after_update"] == 2, "an updated row's older version is kept"
    assert facts["read"] == ["second"]
    assert facts["after_delete"] == 1, "a deleted row is kept"
    assert facts["same_again"] is True


@pytest.mark.parametrize("name", ["versioned_refused", "versioned_path_refused"])
def test_a_table_that_keeps_versions_is_refused(facts: dict[str, object], name: str) -> None:
    kind, message, _ = facts[name]  # type: ignore[misc]
    assert (kind, "is_data_versioned is True" in message) == ("ConfigurationError", True)


def test_no_error_carries_a_row_not_even_in_its_chain(facts: dict[str, object]) -> None:
    errors = facts["translated"]
    assert isinstance(errors, list)
    assert len(errors) == 4
    for kind, message, alone in errors:
        assert kind == "ProviderUnavailableError"
        assert SECRET not in message
        assert alone, "the original is attached"
    assert "CONSTRAINT_VIOLATION" in errors[0][1]
    assert "SQLSTATE 22P02" in errors[2][1]
    assert facts["own_errors_pass"] == "ours"
    assert facts["parameters_hidden"] is True


def test_nothing_is_logged_to_file_or_console(whole: tuple[dict[str, object], str]) -> None:
    facts, rest = whole
    assert facts["files"] == ["pixeltable/config.toml"]
    assert SECRET not in rest
    assert facts["sql_logger_as_before"] is True


def test_no_connection_is_left_when_told_to_disconnect(facts: dict[str, object]) -> None:
    assert facts["connections"] == []


def test_a_version_that_cannot_be_kept_from_listening_or_that_is_in_use_elsewhere_is_refused() -> None:
    with temporary_home(prepared=True) as home:
        facts, _ = facts_of(start(REFUSALS, home, cwd=home))
    for name, part in (
        ("unknown_version", "web server"),
        ("listens", "a socket is listening"),
        ("elsewhere", "in use in this process already"),
    ):
        kind, message, _ = facts[name]  # type: ignore[misc]
        assert (kind, part in message) == ("ConfigurationError", True), message
    assert facts["not_initialized"] is True


def test_two_processes_open_a_new_home_at_once() -> None:
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home):
        both = [start(AT_ONCE, home, cwd=home) for _ in range(2)]
        for process in both:
            facts_of(process)
