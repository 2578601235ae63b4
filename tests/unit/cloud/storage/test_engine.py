"""Laws of the control-plane engines: bounded, translated, silent about values, and never above row-level security."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError

from cloud import CloudRuntime
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.durability import check_durability
from cloud.storage.engine import ControlEngine, Deadline, check_role
from cloud.storage.metadata import TENANT_TABLES, memories
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE, OWNER_ROLE, ROLE_DATABASES

SHORT = Deadline(total_s=2.0, statement_s=0.3, attempts=3)
# Plus the longest pause before an attempt, which the deadline is looked at after.
PATIENCE_S = SHORT.total_s + SHORT.statement_s + 1.5
Make = Callable[..., ControlEngine]


@pytest.fixture
def make(runtime: CloudRuntime) -> Iterator[Make]:
    """Builds engines on the run's control plane, closed afterwards."""
    made: list[ControlEngine] = []

    def build(role: str = APP_ROLE, **options: object) -> ControlEngine:
        url = runtime._installation.server.url(role, CONTROL_DATABASE)
        engine = ControlEngine(url, **({"deadline": SHORT, "pool_size": 1} | options))  # type: ignore[arg-type]
        made.append(engine)
        return engine

    yield build
    for engine in made:
        engine.close()


def raising(sqlstate: str) -> sa.TextClause:
    """A statement that fails in the server with this state."""
    return sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'said' USING ERRCODE = '{sqlstate}'; END $$")


# Bounds and attempts


def test_a_statement_that_never_ends_is_given_up_within_the_deadline(make: Make) -> None:
    began = time.monotonic()
    with pytest.raises(ProviderUnavailableError) as unavailable:
        make().rows(sa.text("SELECT pg_sleep(30)"))
    assert time.monotonic() - began < PATIENCE_S
    assert unavailable.value.retryable
    assert unavailable.value.component == "control plane"
    assert isinstance(unavailable.value.__cause__, OperationalError)


def test_a_lock_that_is_never_released_is_given_up_within_the_deadline(make: Make) -> None:
    holder, other = make(), make()
    began = time.monotonic()
    with holder.connection() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(424242)"))
        with pytest.raises(ProviderUnavailableError):
            other.call(sa.text("SELECT pg_advisory_lock(424242)"), {}, retry_parameter=None)
    assert time.monotonic() - began < PATIENCE_S


def test_a_server_that_is_not_there_is_given_up_within_the_deadline() -> None:
    url = sa.URL.create("postgresql+psycopg", username="x", database="x", query={"host": "/nonexistent"})
    recovered: list[float] = []
    engine = ControlEngine(url, deadline=SHORT, recover=recovered.append)
    began = time.monotonic()
    try:
        for call in (
            lambda: engine.rows(sa.text("SELECT 1")),
            lambda: engine.call(sa.text("SELECT 1"), {}, retry_parameter=None),
            lambda: engine.transaction(lambda connection: connection.execute(sa.text("SELECT 1"))),
        ):
            with pytest.raises(ProviderUnavailableError):
                call()
    finally:
        engine.close()
    assert time.monotonic() - began < 3 * PATIENCE_S
    assert len(recovered) == 3 * (SHORT.attempts - 1), "recovery is tried before each further attempt"
    assert all(0 <= left_s <= SHORT.total_s for left_s in recovered)


def test_a_pool_that_is_used_up_is_given_up_within_the_deadline(make: Make) -> None:
    engine = make()
    began = time.monotonic()
    with engine.connection(), engine.connection(), pytest.raises(ProviderUnavailableError):
        engine.rows(sa.text("SELECT 1"))
    assert time.monotonic() - began < PATIENCE_S
    assert engine.rows(sa.text("SELECT 1"))[0][0] == 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "25006", "55P03", "57P01", "53300", "53100", "57014"])
def test_what_may_pass_is_tried_again_as_a_whole(make: Make, sqlstate: str) -> None:
    attempts: list[int] = []

    def work(connection: sa.Connection) -> str:
        attempts.append(len(attempts))
        if len(attempts) < SHORT.attempts:
            connection.execute(raising(sqlstate))
        return str(connection.execute(sa.text("SELECT 'done'")).scalar_one())

    assert make().transaction(work) == "done"
    assert len(attempts) == SHORT.attempts
    with pytest.raises(ProviderUnavailableError):
        make().transaction(lambda connection: connection.execute(raising(sqlstate)))


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [("42P01", ProgrammingError), ("22P02", DataError), ("23505", IntegrityError), ("42501", ProgrammingError)],
)
def test_what_will_fail_again_is_not_tried_again(make: Make, sqlstate: str, error: type[DBAPIError]) -> None:
    attempts: list[int] = []

    def work(connection: sa.Connection) -> None:
        attempts.append(1)
        connection.execute(raising(sqlstate))

    with pytest.raises(error):
        make().transaction(work)
    assert len(attempts) == 1


class Sending:
    """Stands for the way to the server: fails as it is told to, attempt by attempt, and then answers."""

    def __init__(self, *failures: DBAPIError) -> None:
        self._failures = list(failures)
        self.said: list[object] = []

    def __call__(self, bound: Mapping[str, object]) -> object:
        self.said.append(bound.get("again"))
        if self._failures:
            raise self._failures.pop(0)
        return "seen"


LOST = OperationalError("call", {}, psycopg.OperationalError())
THERE_ALREADY = IntegrityError("call", {}, psycopg.errors.UniqueViolation())


@pytest.mark.parametrize("retry_parameter", ["again", None])
def test_what_the_attempt_before_was_still_committing_is_looked_for_again(
    make: Make, retry_parameter: str | None
) -> None:
    sending = Sending(LOST, THERE_ALREADY)
    assert make()._repeated(sending, {}, retry_parameter) == "seen"
    assert sending.said == ([False, True, True] if retry_parameter else [None] * 3)
    with pytest.raises(ProviderUnavailableError) as unavailable:
        make()._repeated(Sending(LOST, THERE_ALREADY, THERE_ALREADY), {}, retry_parameter)
    assert unavailable.value.__cause__ is THERE_ALREADY


def test_what_is_there_before_the_first_attempt_is_no_trace_of_it(make: Make) -> None:
    sending = Sending(THERE_ALREADY)
    with pytest.raises(IntegrityError):
        make()._repeated(sending, {}, "again")
    assert sending.said == [False]


def test_real_conflicts_of_two_transactions_end_with_both_done(make: Make) -> None:
    """Each reads what the other writes: under SERIALIZABLE one of them must be run again."""
    one, two = make(OWNER_ROLE), make(OWNER_ROLE)
    setup = make(OWNER_ROLE)
    setup.transaction(lambda c: c.execute(sa.text("CREATE TABLE conflict (side int, n int)")))
    runs: list[str] = []

    def flip(name: str, mine: int, other: Callable[[], object]) -> Callable[[sa.Connection], None]:
        def work(connection: sa.Connection) -> None:
            runs.append(name)
            connection.execute(sa.text("SELECT count(*) FROM conflict")).scalar()
            other()
            connection.execute(sa.text("INSERT INTO conflict VALUES (:side, 1)"), {"side": mine})

        return work

    once: list[int] = []

    def meanwhile() -> None:
        if not once:
            once.append(1)
            two.transaction(flip("two", 2, lambda: None), isolation="SERIALIZABLE")

    try:
        one.transaction(flip("one", 1, meanwhile), isolation="SERIALIZABLE")
        assert runs == ["one", "two", "one"]
        assert setup.rows(sa.text("SELECT side, n FROM conflict ORDER BY side")) == [(1, 1), (2, 1)]
    finally:
        setup.transaction(lambda c: c.execute(sa.text("DROP TABLE conflict")))


def test_a_transaction_that_fails_leaves_nothing(make: Make) -> None:
    engine = make(OWNER_ROLE)

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE half (n int)"))
        raise KeyError("not of the database")

    with pytest.raises(KeyError):
        engine.transaction(work)
    assert engine.rows(sa.text("SELECT to_regclass('half')"))[0][0] is None


def test_only_further_attempts_say_that_an_earlier_one_may_have_committed(make: Make) -> None:
    engine = make()
    said: list[object] = []

    @sa.event.listens_for(engine._engine, "before_execute")
    def note(
        connection: sa.Connection, statement: object, several: object, parameters: dict[str, object], options: object
    ) -> None:
        if "again" in parameters:
            said.append(parameters["again"])

    statement = sa.text("SELECT CASE WHEN :again THEN 'seen' ELSE pg_sleep(30)::text END")
    assert engine.call(statement, {}, retry_parameter="again") == "seen"
    assert said == [False, True]


def test_a_connection_that_died_is_replaced(make: Make) -> None:
    engine, killer = make(OWNER_ROLE), make(OWNER_ROLE)
    pid = engine.rows(sa.text("SELECT pg_backend_pid()"))[0][0]
    killer.rows(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    assert engine.rows(sa.text("SELECT pg_backend_pid()"))[0][0] != pid


def test_a_connection_to_a_server_that_takes_no_writes_is_replaced(make: Make) -> None:
    """As after a failover, when what lies in the pool leads to a server that follows another one by now."""
    engine = make(OWNER_ROLE, pool_size=2)
    follow = sa.text("SET default_transaction_read_only = on")
    with engine.connection() as one, engine.connection() as other:
        one.execute(follow)
        other.execute(follow)
    tried: list[int] = []

    def work(connection: sa.Connection) -> None:
        tried.append(int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()))
        connection.execute(sa.text("CREATE TABLE written (n int)"))

    engine.transaction(work)
    try:
        assert len(set(tried)) == 2, "the second attempt connects anew, also where another connection lay ready"
    finally:
        engine.transaction(lambda connection: connection.execute(sa.text("DROP TABLE written")))


# Silence


def test_no_error_shows_a_parameter(make: Make) -> None:
    engine = make()
    statement = sa.select(sa.cast(sa.bindparam("secret"), sa.Text) == sa.text("nothing_of_that_name"))
    with pytest.raises(DBAPIError) as error:
        engine.rows(statement, {"secret": "alice@example.com"})
    assert "alice" not in str(error.value)
    assert "alice" not in repr(error.value)


def test_no_text_of_an_engine_shows_its_password(runtime: CloudRuntime) -> None:
    url = runtime._installation.server.url(APP_ROLE, CONTROL_DATABASE)
    assert url.password
    for engine in (runtime._installation.engines.app, runtime._installation.engines):
        assert str(url.password) not in repr(engine)
    assert str(url.password) not in repr(runtime._installation.engines.app._engine)


# Start-up checks


def test_the_roles_that_serve_pass_the_check(runtime: CloudRuntime) -> None:
    engines = runtime._installation.engines
    for engine in (engines.app, engines.worker, engines.keys, engines.maintenance):
        check_role(engine)


def test_a_role_that_owns_the_tables_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="owns tenant tables"):
        check_role(make(OWNER_ROLE))


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
def test_a_role_above_row_level_security_is_refused(runtime: CloudRuntime, make: Make, attribute: str) -> None:
    role = "luminescent_backup"  # the one that no engine of this process uses
    assert role in ROLE_DATABASES
    with runtime._installation.server._server.cluster.connect("postgres") as admin:
        admin.execute(f"ALTER ROLE {role} {attribute}".encode())
        try:
            with pytest.raises(ConfigurationError, match="bypasses row-level security"):
                check_role(make(role))
        finally:
            admin.execute(f"ALTER ROLE {role} NO{attribute}".encode())
    check_role(make(role))


def test_a_role_that_is_a_member_of_the_owner_is_refused(runtime: CloudRuntime, make: Make) -> None:
    with runtime._installation.server._server.cluster.connect("postgres") as admin:
        admin.execute(f"GRANT {OWNER_ROLE} TO luminescent_backup".encode())
        try:
            with pytest.raises(ConfigurationError, match="owns tenant tables"):
                check_role(make("luminescent_backup"))
        finally:
            admin.execute(f"REVOKE {OWNER_ROLE} FROM luminescent_backup".encode())


class Answering:
    """An engine whose catalog says that one table is open."""

    def __init__(self, table: str) -> None:
        self._table = table

    def rows(self, statement: object, parameters: dict[str, list[str]]) -> list[tuple[object, ...]]:
        assert set(parameters["names"]) == {table.name for table in TENANT_TABLES}
        return [("luminescent_app", False, False, [], [self._table])]


def test_a_tenant_table_without_row_level_security_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memories"):
        check_role(Answering("memories"))  # type: ignore[arg-type]


def test_the_check_sees_a_table_whose_row_level_security_is_off(runtime: CloudRuntime, make: Make) -> None:
    owner = sa.create_engine(runtime._installation.server.url(OWNER_ROLE, CONTROL_DATABASE), poolclass=sa.NullPool)
    with owner.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE {memories.name} DISABLE ROW LEVEL SECURITY"))
    try:
        with pytest.raises(ConfigurationError, match="without row-level security: memories"):
            check_role(make())
    finally:
        with owner.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE {memories.name} ENABLE ROW LEVEL SECURITY"))
        owner.dispose()
    check_role(make())


@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
def test_a_connection_that_could_lose_an_acknowledged_write_is_refused(make: Make, value: str) -> None:
    with make().connection() as connection:
        check_durability(connection)
        connection.execute(sa.text(f"SET synchronous_commit = {value}"))
        with pytest.raises(ConfigurationError, match="synchronous_commit"):
            check_durability(connection)
        connection.execute(sa.text("SET synchronous_commit = on"))


def test_a_role_of_its_own_weaker_setting_is_seen(runtime: CloudRuntime, make: Make) -> None:
    with runtime._installation.server._server.cluster.connect("postgres") as admin:
        admin.execute(b"ALTER ROLE luminescent_backup SET synchronous_commit = off")
        try:
            with (
                make("luminescent_backup").connection() as connection,
                pytest.raises(ConfigurationError, match="synchronous_commit"),
            ):
                check_durability(connection)
        finally:
            admin.execute(b"ALTER ROLE luminescent_backup RESET synchronous_commit")


def test_the_ends_of_time_are_read_whatever_time_zone_is_the_default(runtime: CloudRuntime) -> None:
    url = runtime._installation.server.url(APP_ROLE, CONTROL_DATABASE)
    for zone, moment in (("Asia/Tokyo", datetime.max), ("America/Lima", datetime.min)):
        engine = ControlEngine(url.update_query_dict({"options": f"-c TimeZone={zone}"}), pool_size=1)
        try:
            ((read,),) = engine.rows(sa.text(f"SELECT '{moment.isoformat()}+00'::timestamptz"))
        finally:
            engine.close()
        assert read == moment.replace(tzinfo=UTC)
