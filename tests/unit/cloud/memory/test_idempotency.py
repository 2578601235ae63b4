"""An idempotency key stands for one request of one tenant: repeating it stores nothing twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import IdempotencyConflictError
from src.memory.schemas import Memory, MemoryType
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker

KEY = {"idempotency_key": "request 17"}


async def test_the_same_key_and_memory_is_one_memory(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={"service"}):
        ids = [await runtime.memory.store(sample_memory("alice"), KEY) for _ in range(3)]
        assert [m.id for m in await runtime.memory.search("alice", {})] == ids[:1]
    assert len(set(ids)) == 1
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 1
    assert [(e["action"], e["reason"], e["resource_ids"]) for e in events[:3]] == [
        ("memory.store", None, ids[:1]),
        ("memory.store", "repeated", ids[:1]),
        ("memory.store", "repeated", ids[:1]),
    ]


async def test_a_repeated_batch_is_one_batch(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    batch = [sample_memory(user, content=f"note {n}") for n, user in enumerate(("alice", "bob", "alice"))]
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store_many(batch, KEY)
        assert await runtime.memory.store_many(batch, KEY) == first
        with pytest.raises(IdempotencyConflictError):
            await runtime.memory.store_many(batch[:2], KEY)
        with pytest.raises(IdempotencyConflictError):
            await runtime.memory.store_many(batch[::-1], KEY)
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 3


async def test_what_a_client_fills_in_anew_each_time_is_not_part_of_the_request(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    def built_again() -> Memory:
        return Memory(user_id="alice", content="c", memory_type=MemoryType.FACT, source="s", metadata={"b": 1, "a": 2})

    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store(built_again(), KEY)
        assert await runtime.memory.store(built_again(), KEY) == first


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "Prefers spaces"},
        {"user_id": "bob"},
        {"memory_type": MemoryType.FACT},
        {"confidence": 0.5},
        {"source": "import"},
        {"raw_source": "said so"},
        {"metadata": {"a": 1}},
        {"provenance": ["x"]},
        {"extraction_version": 2},
        {"expires_at": datetime(2900, 1, 1, tzinfo=UTC)},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_the_same_key_for_another_memory_is_a_conflict(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, changed: dict[str, object]
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), KEY)
        with pytest.raises(IdempotencyConflictError):
            await runtime.memory.store(sample_memory("alice").model_copy(update=changed), KEY)
        assert await runtime.memory.store(sample_memory("alice"), KEY) == first
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 1


async def test_the_same_key_in_another_tenant_is_another_key(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    other = f"{tenant_id}-2"
    runtime.tenants.create(other, plan="team")
    ids = set()
    for tenant, content in ((tenant_id, "one"), (other, "another")):
        with request_context(tenant_id=tenant, roles={"service"}):
            ids.add(await runtime.memory.store(sample_memory("alice", content=content), KEY))
    assert len(ids) == 2
    query = "SELECT key_tag FROM idempotency_keys WHERE tenant_id IN (:one, :other)"
    tags = onlooker.rows(query, one=tenant_id, other=other)
    assert len({bytes(tag) for (tag,) in tags}) == 2


async def test_keys_are_compared_exactly(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    keys = ("k", "K", "k ", "%", "k\0", "\ud800", "é", "e\u0301", "x" * 256)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = [await runtime.memory.store(sample_memory("alice"), {"idempotency_key": key}) for key in keys]
        again = [await runtime.memory.store(sample_memory("alice"), {"idempotency_key": key}) for key in keys]
    assert again == ids
    assert len(set(ids)) == onlooker.used(tenant_id) == len(keys)


async def test_a_repeated_request_gets_its_id_also_when_the_quota_has_filled_up(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 1})
    with request_context(tenant_id=tenant, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), KEY)
        assert await runtime.memory.store(sample_memory("alice"), KEY) == first


async def test_the_same_request_many_times_at_once_is_one_memory(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await asyncio.gather(*(runtime.memory.store(sample_memory("alice"), KEY) for _ in range(12)))
    assert len(set(ids)) == 1
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 1


async def test_a_repeated_request_brings_nothing_deleted_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), KEY)
        assert await runtime.memory.delete(first)
        assert await runtime.memory.store(sample_memory("alice"), KEY) == first
        assert await runtime.memory.get_by_id(first) is None
    assert onlooker.used(tenant_id) == 0


async def test_an_erased_persons_key_stands_for_nothing_any_more(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), KEY)
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        second = await runtime.memory.store(sample_memory("alice", content="new here"), KEY)
        assert [m.id for m in await runtime.memory.search("alice", {})] == [second]
    assert second != first
    assert onlooker.used(tenant_id) == 1
