"""The server did it and the connection broke before it could say so: the repeated attempt gives the same answer, once.

No process dies here: the reply of one server function is thrown away, or its connection given up while it still runs.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import (
    IdempotencyConflictError,
    LuminescentError,
    PermissionDeniedError,
    QuotaExceededError,
)
from cloud.kernel.ids import new_request_id
from cloud.storage.wire import ServerFunction
from tests.crash.program import memory

pytestmark = pytest.mark.crash

_numbers = itertools.count(1)


@pytest.fixture
def tenant_id(runtime: CloudRuntime) -> str:
    name = f"reply-{next(_numbers)}"
    runtime.tenants.create(name, plan="team", limits={"memories": 3})
    return name


class LostError(Exception):
    """Stands for the driver's error."""


Exchange = Callable[[sa.PoolProxiedConnection, ServerFunction, list[bytes | None]], object]


@contextmanager
def exchanging(runtime: CloudRuntime, instead: Callable[[Exchange], Exchange]) -> Iterator[None]:
    """While the block runs, calls of the request path go through another exchange, made of the real one."""
    calls = runtime._installation.engines.app._calls
    real = calls._exchanged
    calls._exchanged = instead(real)  # type: ignore[method-assign]
    try:
        yield
    finally:
        calls._exchanged = real  # type: ignore[method-assign]


@contextmanager
def lost_reply(runtime: CloudRuntime, function: str) -> Iterator[list[str]]:
    """The first call of a server function commits, and its caller hears of a broken connection instead."""
    calls: list[str] = []

    def losing(real: Exchange) -> Exchange:
        def exchange(pooled: sa.PoolProxiedConnection, called: ServerFunction, arguments: list[bytes | None]) -> object:
            answer = real(pooled, called, arguments)
            if called.name == function:
                calls.append(called.name)
                if len(calls) == 1:
                    raise OperationalError(called.name, {}, LostError())
            return answer

        return exchange

    with exchanging(runtime, losing):
        yield calls
    assert len(calls) == 2, "the reply was lost, and the call repeated"


def events_of(runtime: CloudRuntime, tenant_id: str, request_id: str) -> list[dict[str, Any]]:
    return [event for event in runtime.audit.events(tenant_id) if event["request_id"] == request_id]


@contextmanager
def one_operation(runtime: CloudRuntime, tenant_id: str) -> Iterator[list[dict[str, Any]]]:
    """What runs inside is one request, which leaves exactly one event; it is in the list afterwards."""
    found: list[dict[str, Any]] = []
    request_id = new_request_id()
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}, request_id=request_id):
        yield found
    found += events_of(runtime, tenant_id, request_id)
    assert len(found) == 1


def used(runtime: CloudRuntime, tenant_id: str) -> int:
    (row,) = runtime._installation.engines.maintenance.rows(
        sa.text("SELECT used FROM usage_counters WHERE tenant_id = :tenant AND meter = 'memories'"),
        {"tenant": tenant_id},
    )
    return int(row[0])


async def test_a_store_whose_reply_was_lost_is_stored_once(runtime: CloudRuntime, tenant_id: str) -> None:
    with one_operation(runtime, tenant_id) as events, lost_reply(runtime, "lc_store"):
        memory_id = await runtime.memory.store(memory("alice", "likes tea"), {})
    assert events[0]["resource_ids"] == [memory_id]
    assert used(runtime, tenant_id) == 1
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        assert [found.id for found in await runtime.memory.search("alice", {})] == [memory_id]


async def test_a_refusal_whose_reply_was_lost_is_the_same_refusal(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        await runtime.memory.store_many([memory("alice", "one"), memory("alice", "two")], {"idempotency_key": "k"})
    full = [memory("alice", "three"), memory("alice", "four")]
    with one_operation(runtime, tenant_id) as events, lost_reply(runtime, "lc_store"):
        with pytest.raises(QuotaExceededError) as refused:
            await runtime.memory.store_many(full, {"idempotency_key": "other"})
        assert (refused.value.limit, refused.value.used) == (3, 2)
    assert events[0]["outcome"] == "denied"
    with (
        one_operation(runtime, tenant_id) as events,
        lost_reply(runtime, "lc_store"),
        pytest.raises(IdempotencyConflictError),
    ):
        await runtime.memory.store(memory("alice", "other"), {"idempotency_key": "k"})
    assert events[0]["outcome"] == "denied"
    assert used(runtime, tenant_id) == 2


async def test_a_delete_whose_reply_was_lost_is_deleted_once(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        kept, gone = await runtime.memory.store_many([memory("alice", "one"), memory("alice", "two")], {})
    for expected in (True, False):
        with one_operation(runtime, tenant_id) as events, lost_reply(runtime, "lc_delete"):
            assert await runtime.memory.delete(gone) is expected
        assert events[0]["outcome"] == "allowed"
        assert used(runtime, tenant_id) == 1
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        assert [found.id for found in await runtime.memory.search("alice", {})] == [kept]


async def test_a_read_whose_reply_was_lost_is_recorded_once(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        memory_id = await runtime.memory.store(memory("alice", "likes tea"), {})
        await runtime.memory.retrieve("tea", "alice")
    with one_operation(runtime, tenant_id) as events, lost_reply(runtime, "lc_read"):
        assert [found.id for found in await runtime.memory.retrieve("tea", "alice")] == [memory_id]
    assert events[0]["resource_ids"] == [memory_id]


@pytest.mark.parametrize("operation", ["store", "delete", "retrieve"])
async def test_a_suspended_tenant_is_refused_the_same_way_and_recorded_once(
    runtime: CloudRuntime, tenant_id: str, operation: str
) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        memory_id = await runtime.memory.store(memory("alice", "likes tea"), {})
        await runtime.memory.retrieve("tea", "alice")
    runtime.tenants.suspend(tenant_id)
    provider = runtime.memory
    function, call = {
        "store": ("lc_store", lambda: provider.store(memory("alice", "more"), {})),
        "delete": ("lc_delete", lambda: provider.delete(memory_id)),
        "retrieve": ("lc_read", lambda: provider.retrieve("tea", "alice")),
    }[operation]
    with (
        one_operation(runtime, tenant_id) as events,
        lost_reply(runtime, function),
        pytest.raises(PermissionDeniedError),
    ):
        await call()
    assert events[0]["outcome"] == "denied"
    assert used(runtime, tenant_id) == 1


@contextmanager
def given_up_while_running(runtime: CloudRuntime, function: str) -> Iterator[list[BaseException]]:
    """The first call of a server function goes on at the server, waiting for a lock; its caller has lost it."""
    shadows: list[threading.Thread] = []
    troubles: list[BaseException] = []

    def shadow(real: Exchange, called: ServerFunction, arguments: list[bytes | None]) -> None:
        pooled = runtime._installation.engines.app._engine.pool.connect()
        try:
            real(pooled, called, arguments)
        except Exception as exc:  # noqa: BLE001 - looked at by the test
            troubles.append(exc)
        finally:
            pooled.close()

    def overtaken(real: Exchange) -> Exchange:
        def exchange(pooled: sa.PoolProxiedConnection, called: ServerFunction, arguments: list[bytes | None]) -> object:
            if called.name == function and not shadows:
                shadows.append(threading.Thread(target=shadow, args=(real, called, arguments)))
                shadows[0].start()
                wait_until_waiting(runtime, function, 1)
                raise OperationalError(called.name, {}, LostError())
            return real(pooled, called, arguments)

        return exchange

    try:
        with exchanging(runtime, overtaken):
            yield troubles
    finally:
        for thread in shadows:
            thread.join()


def wait_until_waiting(runtime: CloudRuntime, function: str, count: int) -> None:
    """Return once `count` calls of the function wait for a lock."""
    query = sa.text(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.pid <> "
        "pg_backend_pid() AND a.query LIKE :function"
    )
    give_up_at = time.monotonic() + 2.0
    engine = runtime._installation.engines.app
    while engine.rows(query, {"function": f"%{function}%"})[0][0] < count:
        assert time.monotonic() < give_up_at, "it does not wait"
        time.sleep(0.01)


@contextmanager
def held_counter(runtime: CloudRuntime, tenant_id: str) -> Iterator[sa.Connection]:
    """Another writer of the tenant holds its lock until it commits."""
    with runtime._installation.engines.maintenance._engine.begin() as connection:
        connection.execute(
            sa.text("SELECT used FROM usage_counters WHERE tenant_id = :tenant AND meter = 'memories' FOR UPDATE"),
            {"tenant": tenant_id},
        )
        yield connection


@pytest.mark.parametrize("operation", ["store", "delete"])
async def test_an_attempt_that_still_runs_is_waited_for_by_the_next(
    runtime: CloudRuntime, tenant_id: str, operation: str
) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        memory_id = await runtime.memory.store(memory("alice", "likes tea"), {})
    function = f"lc_{operation}"
    answers: list[object] = []
    with one_operation(runtime, tenant_id) as events, given_up_while_running(runtime, function) as troubles:
        with held_counter(runtime, tenant_id):
            if operation == "store":
                task = asyncio.create_task(runtime.memory.store(memory("alice", "likes trains"), {}))
            else:
                task = asyncio.create_task(runtime.memory.delete(memory_id))
            await asyncio.to_thread(wait_until_waiting, runtime, function, 2)
        try:
            answers.append(await task)
        except LuminescentError as error:
            answers.append(error)
    assert troubles == []
    if operation == "store":
        assert events[0]["resource_ids"] == answers
        assert used(runtime, tenant_id) == 2
    else:
        assert answers == [True]
        assert used(runtime, tenant_id) == 0


@contextmanager
def given_up_while_committing(runtime: CloudRuntime, function: str) -> Iterator[None]:
    """The first call of a server function has done all but commit, and does so once the next one waits for it."""
    committing: list[threading.Thread] = []

    def commit(pooled: sa.PoolProxiedConnection) -> None:
        try:
            wait_until_waiting(runtime, function, 1)
        finally:
            session(pooled).exec_(b"COMMIT")
            pooled.close()

    def stalled(real: Exchange) -> Exchange:
        def exchange(pooled: sa.PoolProxiedConnection, called: ServerFunction, arguments: list[bytes | None]) -> object:
            if called.name != function or committing:
                return real(pooled, called, arguments)
            other = runtime._installation.engines.app._engine.pool.connect()
            session(other).exec_(b"BEGIN")
            real(other, called, arguments)
            committing.append(threading.Thread(target=commit, args=(other,)))
            committing[0].start()
            raise OperationalError(called.name, {}, LostError())

        return exchange

    try:
        with exchanging(runtime, stalled):
            yield
    finally:
        for thread in committing:
            thread.join()


def session(pooled: sa.PoolProxiedConnection) -> Any:
    """The connection below the driver's own transactions."""
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection.pgconn


async def test_a_read_that_still_commits_is_answered_and_recorded_once(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        memory_id = await runtime.memory.store(memory("alice", "likes tea"), {})
        await runtime.memory.retrieve("tea", "alice")
    with one_operation(runtime, tenant_id) as events, given_up_while_committing(runtime, "lc_read"):
        assert [found.id for found in await runtime.memory.retrieve("tea", "alice")] == [memory_id]
    assert events[0]["resource_ids"] == [memory_id]


def test_a_record_that_still_commits_is_recorded_once(runtime: CloudRuntime, tenant_id: str) -> None:
    def recorded() -> list[str]:
        return [str(event["action"]) for event in runtime.audit._store.events(tenant_id, since=None, until=None)]

    before = recorded()
    with given_up_while_committing(runtime, "lc_record"):
        runtime.audit.log_security_event("probe", "low", "somebody looked", {"tenant_id": tenant_id})
    assert recorded() == [*before, "security.event"]
