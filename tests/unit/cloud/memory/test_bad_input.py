"""Bad input, row by row: the error and the place it names, nothing stored, no quota used, exactly one event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import AuthenticationError, IdempotencyConflictError, QuotaExceededError
from cloud.memory import CloudMemoryProvider
from src.errors import InvalidFilterError, InvalidMemoryError, LuminescentError
from src.testing.samples import (
    HOSTILE_USER_IDS,
    INVALID_FILTERS,
    INVALID_MEMORIES,
    InvalidFilter,
    InvalidSample,
    sample_memory,
)
from tests.isolation.probes import Event, Onlooker

USER = "a person of this test"


async def refused(
    runtime: CloudRuntime,
    onlooker: Onlooker,
    tenant_id: str,
    call: Callable[[CloudMemoryProvider], Awaitable[object]],
    error: type[LuminescentError],
) -> tuple[LuminescentError, Event]:
    """The error of a call that must leave one event and nothing else."""
    before = onlooker.counts(), onlooker.used(tenant_id), runtime.pixeltable_config.keyring.subjects(tenant_id)
    with (
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, roles={"service"}),
        pytest.raises(error) as raised,
    ):
        await call(runtime.memory)
    after = onlooker.counts(), onlooker.used(tenant_id), runtime.pixeltable_config.keyring.subjects(tenant_id)
    assert after == before
    (event,) = events
    assert event["log_id"] == tenant_id
    assert event["outcome"] in {"failed", "denied"}
    assert event["reason"].startswith(raised.value.code)
    assert event["resource_ids"] == []
    return raised.value, event


@pytest.mark.parametrize("sample", INVALID_MEMORIES, ids=lambda sample: sample.label)
@pytest.mark.parametrize("operation", ["store", "store_many"])
async def test_an_invalid_memory_leaves_one_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, sample: InvalidSample, operation: str
) -> None:
    bad = sample_memory(USER).model_copy(update={sample.field: sample.value})
    calls: dict[str, Callable[[CloudMemoryProvider], Awaitable[object]]] = {
        "store": lambda memory: memory.store(bad, {}),
        "store_many": lambda memory: memory.store_many([sample_memory(USER), bad, sample_memory(USER)], {}),
    }
    error, event = await refused(runtime, onlooker, tenant_id, calls[operation], InvalidMemoryError)
    assert isinstance(error, InvalidMemoryError)
    assert error.field == sample.field
    assert (event["action"], event["outcome"]) == (f"memory.{operation}", "failed")


@pytest.mark.parametrize("case", INVALID_FILTERS, ids=lambda case: case.label)
async def test_an_invalid_filter_leaves_one_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, case: InvalidFilter
) -> None:
    error, event = await refused(
        runtime, onlooker, tenant_id, lambda memory: memory.search(USER, case.filters), InvalidFilterError
    )
    assert isinstance(error, InvalidFilterError)
    assert error.place == case.place
    assert (event["action"], event["outcome"]) == ("memory.search", "failed")


READS: dict[str, tuple[str, Callable[[CloudMemoryProvider, Any], Awaitable[object]], list[object]]] = {
    "retrieve by limit": (
        "limit",
        lambda memory, value: memory.retrieve("q", USER, limit=value),
        [0, -1, 1001, 10**30, 1.0, True, "5", None],
    ),
    "search by limit": (
        "limit",
        lambda memory, value: memory.search(USER, {}, limit=value),
        [0, -1, 1001, 10**30, 1.0, True, "5", None],
    ),
    "retrieve by user id": (
        "user_id",
        lambda memory, value: memory.retrieve("q", value),
        ["", " ", "u" * 257, "a\nb", "\0", "\u0085", "\ud800", None, 5, b"alice"],
    ),
    "search by user id": (
        "user_id",
        lambda memory, value: memory.search(value, {}),
        ["", " ", "u" * 257, "a\nb", "\0", "\u0085", "\ud800", None, 5, b"alice"],
    ),
    "retrieve by query": (
        "query",
        lambda memory, value: memory.retrieve(value, USER),
        ["a\0", "\udc00", "q" * (64 * 1024 + 1), None, 5, b"q"],
    ),
    "search by filters": (
        "filters",
        lambda memory, value: memory.search(USER, value),
        [None, [], "source", 5, [("source", "x")]],
    ),
}


@pytest.mark.parametrize(
    ("read", "value"), [(read, value) for read, (_, _, values) in READS.items() for value in values], ids=repr
)
async def test_an_invalid_argument_of_a_read_leaves_one_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, read: str, value: object
) -> None:
    place, call, _ = READS[read]
    error, _ = await refused(runtime, onlooker, tenant_id, lambda memory: call(memory, value), InvalidFilterError)
    assert isinstance(error, InvalidFilterError)
    assert error.place == place


@pytest.mark.parametrize("name", ["user_id", "content", "memory_type", "metadata", "expires_at"])
async def test_an_object_without_a_field_is_no_memory(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, name: str
) -> None:
    values = sample_memory(USER).model_dump(exclude={"id", name})
    incomplete: Any = SimpleNamespace(**values)
    error, _ = await refused(
        runtime, onlooker, tenant_id, lambda memory: memory.store(incomplete, {}), InvalidMemoryError
    )
    assert isinstance(error, InvalidMemoryError)
    assert error.field == name


@pytest.mark.parametrize("value", [None, 5, "text", {}, []], ids=repr)
async def test_what_is_no_memory_at_all_is_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, value: Any
) -> None:
    await refused(runtime, onlooker, tenant_id, lambda memory: memory.store(value, {}), InvalidMemoryError)


@pytest.mark.parametrize("value", [None, 5, sample_memory(USER)], ids=["nothing", "number", "one memory"])
async def test_store_many_of_what_is_no_sequence_is_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, value: Any
) -> None:
    await refused(runtime, onlooker, tenant_id, lambda memory: memory.store_many(value, {}), InvalidMemoryError)


async def test_more_memories_than_a_batch_takes_are_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    many = [sample_memory(USER)] * 10_001
    error, _ = await refused(
        runtime, onlooker, tenant_id, lambda memory: memory.store_many(many, {}), InvalidMemoryError
    )
    assert isinstance(error, InvalidMemoryError)
    assert error.field == "memories"


@pytest.mark.parametrize("key", ["", "k" * 257, 5, b"key", ["key"]], ids=lambda key: repr(key)[:20])
async def test_an_invalid_idempotency_key_is_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, key: object
) -> None:
    error, _ = await refused(
        runtime,
        onlooker,
        tenant_id,
        lambda memory: memory.store(sample_memory(USER), {"idempotency_key": key}),
        InvalidMemoryError,
    )
    assert isinstance(error, InvalidMemoryError)
    assert error.field == "idempotency_key"


@pytest.mark.parametrize("context", [5, "acme", [], [("tenant_id", "acme")]], ids=repr)
async def test_a_context_that_is_no_mapping_is_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, context: Any
) -> None:
    with (
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, roles={"service"}),
        pytest.raises(AuthenticationError, match="context"),
    ):
        await runtime.memory.store(sample_memory(USER), context)
    assert [(e["log_id"], e["reason"]) for e in events] == [("_system", "authentication:malformed_context")]
    assert onlooker.ledger(tenant_id) == 0


async def test_no_context_is_an_empty_one(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    nothing: Any = None
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory(USER), nothing)
    assert onlooker.ledger(tenant_id) == 1


async def test_a_conflicting_idempotency_key_leaves_one_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory(USER), {"idempotency_key": "once"})
    _, event = await refused(
        runtime,
        onlooker,
        tenant_id,
        lambda memory: memory.store(sample_memory(USER, content="something else"), {"idempotency_key": "once"}),
        IdempotencyConflictError,
    )
    assert event["outcome"] == "denied"


@pytest.mark.parametrize("count", [2, 3])
async def test_a_full_quota_leaves_one_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, count: int
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 2})
    with request_context(tenant_id=tenant, roles={"service"}):
        await runtime.memory.store(sample_memory(USER), {})
    error, event = await refused(
        runtime,
        onlooker,
        tenant,
        lambda memory: memory.store_many([sample_memory(USER)] * count, {}),
        QuotaExceededError,
    )
    assert isinstance(error, QuotaExceededError)
    assert (error.meter, error.limit, error.used, error.requested, error.resets_at) == ("memories", 2, 1, count, None)
    assert event["outcome"] == "denied"
    assert event["counts"] == {"requested": count, "used": 1, "limit": 2}


async def test_naive_datetimes_are_utc(runtime: CloudRuntime, tenant_id: str) -> None:
    moment = datetime(2024, 5, 1, 12)
    soon = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    elsewhere = datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    with request_context(tenant_id=tenant_id, roles={"service"}):
        for created_at in (moment, elsewhere):
            memory_id = await runtime.memory.store(sample_memory(USER, created_at=created_at, expires_at=soon), {})
            found = await runtime.memory.get_by_id(memory_id)
            assert found is not None
            assert found.created_at == moment.replace(tzinfo=UTC)
            assert found.expires_at == soon.replace(tzinfo=UTC)
        past = soon - timedelta(hours=2)
        with pytest.raises(InvalidMemoryError, match="expires_at"):
            await runtime.memory.store(sample_memory(USER, expires_at=past), {})
        assert len(await runtime.memory.search(USER, {"created_at": moment})) == 2


async def test_strange_user_ids_are_people_like_any_other(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await runtime.memory.store_many([sample_memory(user) for user in HOSTILE_USER_IDS], {})
        await runtime.drain()
        runtime.pixeltable_config.hot.clear()
        for user, memory_id in zip(HOSTILE_USER_IDS, ids, strict=True):
            assert [(m.id, m.user_id) for m in await runtime.memory.search(user, {})] == [(memory_id, user)]
    assert onlooker.used(tenant_id) == len(HOSTILE_USER_IDS)
