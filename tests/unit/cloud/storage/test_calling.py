"""Server functions are called on the wire: every kind arrives as it was, and what fails fails as it does elsewhere."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from cloud import CloudRuntime
from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage import wire
from cloud.storage.engine import ControlEngine, Deadline
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE, OWNER_ROLE
from cloud.storage.wire import Kind, ServerFunction, array

SHORT = Deadline(total_s=2.0, statement_s=1.0, attempts=3)
_instants = st.datetimes(timezones=st.just(UTC)) | st.sampled_from(
    [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES: dict[str, tuple[Kind, str, st.SearchStrategy[Any], Callable[[Any], Any]]] = {
    "text": (wire.TEXT, "text", _texts, str),
    "uuid": (wire.UUID, "uuid", st.uuids().map(str), str),
    "bigint": (wire.BIGINT, "bigint", st.integers(-(2**63), 2**63 - 1), int),
    "integer": (wire.INTEGER, "integer", st.integers(-(2**31), 2**31 - 1), int),
    "double": (wire.DOUBLE, "float8", st.floats(allow_nan=False, allow_infinity=False), float),
    "boolean": (wire.BOOLEAN, "boolean", st.booleans(), bool),
    "instant": (wire.INSTANT, "timestamptz", _instants, lambda value: value),
    "bytes": (wire.BYTES, "bytea", st.binary(), bytes),
}


@pytest.fixture(scope="module")
def owner(runtime: CloudRuntime) -> Iterator[sa.Engine]:
    """The owner's engine, with functions that this module adds and takes away."""
    engine = sa.create_engine(
        runtime._installation.server.url(OWNER_ROLE, CONTROL_DATABASE), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE SCHEMA calling")
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA calling TO PUBLIC")
        for name, (_, kind, _, _) in VALUES.items():
            connection.exec_driver_sql(
                f"CREATE FUNCTION calling.of_{name}(one {kind}, many {kind}[]) RETURNS jsonb LANGUAGE sql AS"
                " $$ SELECT jsonb_build_object('one', one::text, 'many', many::text[]) $$"
            )
        connection.exec_driver_sql(
            "CREATE FUNCTION calling.json(j jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT j $$;"
            "CREATE FUNCTION calling.sleep(s float8) RETURNS text LANGUAGE sql AS $$ SELECT pg_sleep(s)::text $$;"
            "CREATE FUNCTION calling.fail(state text) RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'said' USING ERRCODE = state; END $$;"
            "CREATE SEQUENCE calling.numbers; GRANT USAGE ON SEQUENCE calling.numbers TO PUBLIC;"
            "CREATE FUNCTION calling.write() RETURNS text LANGUAGE sql AS"
            " $$ SELECT nextval('calling.numbers')::text $$;"
            "CREATE FUNCTION calling.again(retry boolean) RETURNS text LANGUAGE sql AS"
            " $$ SELECT CASE WHEN retry THEN 'seen' ELSE pg_sleep(30)::text END $$"
        )
    yield engine
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP SCHEMA calling CASCADE")
    engine.dispose()


def ready(engine: ControlEngine) -> psycopg.Connection[Any]:
    """The connection that the next call goes over."""
    connection = engine._calls._ready[-1].driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


@pytest.fixture(scope="module")
def engine(runtime: CloudRuntime, owner: sa.Engine) -> Iterator[ControlEngine]:
    made = ControlEngine(runtime._installation.server.url(APP_ROLE, CONTROL_DATABASE), pool_size=1, deadline=SHORT)
    yield made
    made.close()


SLEEP = ServerFunction("calling.sleep", s=wire.DOUBLE)
FAIL = ServerFunction("calling.fail", state=wire.TEXT)
JSON = ServerFunction("calling.json", j=wire.JSON)


def ask(engine: ControlEngine, function: ServerFunction, **values: object) -> Any:
    return engine.invoke(function, values, retry_parameter=None)


@pytest.mark.parametrize("name", VALUES)
def test_values_lists_and_nothing_arrive_as_they_were(engine: ControlEngine, owner: sa.Engine, name: str) -> None:
    kind, sql_type, values, read = VALUES[name]
    function = ServerFunction(f"calling.of_{name}", one=kind, many=array(kind))

    @settings(max_examples=40, deadline=None)
    @given(st.none() | values, st.none() | st.lists(st.none() | values, max_size=4))
    def check(one: Any, many: Any) -> None:
        said = ask(engine, function, one=one, many=many)
        # What the server read is what it reads from the driver's own form of the value.
        with owner.connect() as connection:
            row = connection.connection.cursor().execute(  # type: ignore[call-arg,attr-defined]
                f"SELECT %s::{sql_type}::text, %s::{sql_type}[]::text[]",
                (read(one) if one is not None else None, many),
            )
            expected = row.fetchone()
        assert (said["one"], said["many"]) == expected

    check()


def test_json_goes_there_and_back(engine: ControlEngine) -> None:
    value = {"a": [1, 2.5, None, True, "ß\u2028\U0001f600"], "b": {"c": []}}
    assert ask(engine, JSON, j=value) == value
    assert ask(engine, JSON, j=None) is None


def test_megabytes_go_there_and_back(engine: ControlEngine) -> None:
    value = ["x" * 1000] * 8000
    assert ask(engine, JSON, j=value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (wire.UUID, "not-a-uuid"),
        (wire.UUID, 7),
        (wire.BIGINT, 2**63),
        (wire.INSTANT, datetime(2024, 1, 1)),  # noqa: DTZ001 - a naive one is the point
        (wire.TEXT, b"bytes"),
        (wire.JSON, object()),
        (array(wire.UUID), ["x"]),
    ],
)
def test_a_value_of_another_kind_is_refused_before_anything_is_sent(kind: Kind, value: object) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError, struct.error)):
        ServerFunction("calling.none", one=kind).arguments({"one": value})


@pytest.mark.parametrize(("state", "error"), [("23505", IntegrityError), ("42501", ProgrammingError)])
def test_what_will_fail_again_is_raised_as_sqlalchemy_raises_it(
    engine: ControlEngine, state: str, error: type[DBAPIError]
) -> None:
    with pytest.raises(error) as raised:
        ask(engine, FAIL, state=state)
    assert raised.value.hide_parameters
    assert ask(engine, JSON, j=1) == 1, "the connection is of use still"


@pytest.mark.parametrize("state", ["40001", "57P01", "57014"])
def test_what_may_pass_is_tried_until_the_attempts_are_used_up(engine: ControlEngine, state: str) -> None:
    with pytest.raises(ProviderUnavailableError) as unavailable:
        ask(engine, FAIL, state=state)
    assert isinstance(unavailable.value.__cause__, OperationalError)


def test_only_further_attempts_say_that_an_earlier_one_may_have_committed(engine: ControlEngine) -> None:
    function = ServerFunction("calling.again", retry=wire.BOOLEAN)
    assert engine.invoke(function, {}, retry_parameter="retry") == "seen"


def test_a_server_that_stands_still_is_given_up(runtime: CloudRuntime, engine: ControlEngine) -> None:
    """Its own timeouts stand still with it."""
    assert ask(engine, JSON, j=0) == 0
    pid = ready(engine).info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        with pytest.raises(DBAPIError, match="did not answer in time"):
            engine._calls.answer(JSON, JSON.arguments({"j": 1}))
        assert time.monotonic() - began_s < 10
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ask(engine, JSON, j=1) == 1


def test_connections_that_the_server_closed_are_noticed_before_they_are_used(engine: ControlEngine) -> None:
    assert ask(engine, JSON, j=1) == 1
    pid = ready(engine).info.backend_pid
    os.kill(pid, signal.SIGTERM)
    end_s = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end_s:
        time.sleep(0.01)
    # Not by a repeated attempt: that would say that the first one may have committed.
    assert engine._calls.answer(JSON, JSON.arguments({"j": 2})) == 2


def test_a_statement_that_was_forgotten_is_prepared_again(engine: ControlEngine) -> None:
    assert ask(engine, JSON, j=1) == 1
    ready(engine).execute("DEALLOCATE ALL")
    ready(engine).commit()
    assert ask(engine, JSON, j=2) == 2


def test_what_was_prepared_after_the_rest_was_forgotten_is_still_known(engine: ControlEngine) -> None:
    """Only the statement that the server misses is prepared again: another of the same connection may be there."""
    later = ServerFunction("upper", value=wire.TEXT)
    assert ask(engine, JSON, j=1) == 1
    ready(engine).execute("DEALLOCATE ALL")
    ready(engine).commit()
    assert ask(engine, later, value="a") == "A"
    assert ask(engine, JSON, j=2) == 2
    assert ask(engine, later, value="b") == "B"


def test_a_statement_that_was_prepared_without_our_knowing_is_used(engine: ControlEngine) -> None:
    """As when the answer to its preparation was an error that came too late to undo it."""
    assert ask(engine, JSON, j=1) == 1
    engine._calls._ready[-1].info.clear()
    assert ask(engine, JSON, j=2) == 2


def test_a_call_leaves_no_transaction_open_and_keeps_no_tenant(engine: ControlEngine) -> None:
    """The tenant that a function names is the call's alone: the next user of the connection begins with none."""
    entered = ServerFunction("lc_enter", tenant=wire.TEXT)
    assert ask(engine, entered, tenant="nobody-of-that-name") == "unknown"
    ((tenant, state),) = engine.rows(
        sa.text(
            "SELECT current_setting('luminescent.tenant', true), state FROM pg_stat_activity"
            " WHERE pid = pg_backend_pid()"
        )
    )
    assert tenant in (None, "")
    assert state == "active"


def test_many_threads_share_few_connections(engine: ControlEngine) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for count in range(50):
            value = [number, count, str(uuid.uuid4())]
            if ask(engine, JSON, j=value) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_call_to_a_server_that_takes_no_writes_is_made_again_on_a_new_connection(engine: ControlEngine) -> None:
    write = ServerFunction("calling.write")
    first = int(ask(engine, write))
    led_to = ready(engine)
    led_to.pgconn.exec_(b"SET default_transaction_read_only = on")
    assert int(ask(engine, write)) == first + 1
    assert led_to.closed
    assert ready(engine) is not led_to
