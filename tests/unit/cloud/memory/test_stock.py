"""The stock is what is stored and neither deleted, expired nor erased; a batch is stored whole or not at all."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import QuotaExceededError
from cloud.memory.materializer import Materializer
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


def materializer(runtime: CloudRuntime) -> Materializer:
    return runtime._installation.materializer()


async def until(moment: datetime) -> None:
    await asyncio.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()) + 0.01)


async def test_a_batch_of_several_people_is_stored_in_order(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    people = ("alice", "bob", "alice", "carol", "bob")
    batch = [sample_memory(user, content=f"note {n}") for n, user in enumerate(people)]
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await runtime.memory.store_many(batch, {})
    assert ids == sorted(ids)
    assert [(e["action"], e["resource_ids"], e["counts"]) for e in events] == [
        ("memory.store_many", ids, {"stored": 5})
    ]
    with request_context(tenant_id=tenant_id, roles={"service"}):
        for memory_id, given in zip(ids, batch, strict=True):
            found = await runtime.memory.get_by_id(memory_id)
            assert found is not None
            assert (found.user_id, found.content) == (given.user_id, given.content)
        assert {m.id for m in await runtime.memory.search("bob", {})} == {ids[1], ids[4]}
    assert onlooker.used(tenant_id) == 5


async def test_a_batch_that_does_not_fit_is_refused_as_a_whole(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 3})
    with request_context(tenant_id=tenant, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.store_many([sample_memory("alice")] * 3, {})
        assert (full.value.used, full.value.requested) == (1, 3)
        assert onlooker.ledger(tenant) == onlooker.used(tenant) == 1
        await runtime.memory.store_many([sample_memory("alice")] * 2, {})
    assert onlooker.used(tenant) == 3


async def test_a_new_key_gets_nothing_out_of_a_full_quota(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 1})
    with request_context(tenant_id=tenant, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "one"})
        with pytest.raises(QuotaExceededError):
            await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "two"})
    assert onlooker.ledger(tenant) == onlooker.used(tenant) == 1


async def test_deleting_gives_back_at_once(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 1})
    with request_context(tenant_id=tenant, roles={"service"}):
        for _ in range(5):
            memory_id = await runtime.memory.store(sample_memory("alice"), {})
            with pytest.raises(QuotaExceededError):
                await runtime.memory.store(sample_memory("bob"), {})
            assert await runtime.memory.delete(memory_id)
            assert not await runtime.memory.delete(memory_id)
            assert onlooker.used(tenant) == 0
    assert onlooker.ledger(tenant, state="deleted") == 5


async def test_many_at_once_are_admitted_exactly_to_the_limit(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 7})
    with request_context(tenant_id=tenant, roles={"service"}):
        calls = (runtime.memory.store(sample_memory(f"user {n % 3}"), {}) for n in range(20))
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, str) for answer in answers) == 7
    assert sum(isinstance(answer, QuotaExceededError) for answer in answers) == 13
    assert onlooker.ledger(tenant) == onlooker.used(tenant) == 7


async def expiring(runtime: CloudRuntime, tenant_id: str) -> tuple[str, str, datetime]:
    """A memory that stays, one that expires at once almost, and when."""
    expires_at = datetime.now(UTC) + timedelta(seconds=0.6)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        staying = await runtime.memory.store(sample_memory("alice", content="stays for good"), {})
        leaving = await runtime.memory.store(sample_memory("alice", content="leaves soon", expires_at=expires_at), {})
        assert {m.id for m in await runtime.memory.retrieve("leaves", "alice")} == {staying, leaving}
    return staying, leaving, expires_at


async def only(runtime: CloudRuntime, staying: str, leaving: str) -> None:
    assert await runtime.memory.get_by_id(leaving) is None
    for found in (
        await runtime.memory.retrieve("leaves soon", "alice"),
        await runtime.memory.search("alice", {}),
        await runtime.memory.search("alice", {"query": "leaves soon"}),
    ):
        assert [m.id for m in found] == [staying]
    assert await runtime.memory.search("alice", {"expires_at": {"$exists": True}}) == []
    both = await runtime.memory.search("alice", {"include_invalid": True, "query": "leaves soon"})
    assert [m.id for m in both] == [leaving, staying]
    assert {m.id for m in await runtime.memory.search("alice", {"include_invalid": True})} == {staying, leaving}
    assert await runtime.memory.delete(leaving) is False


async def test_what_has_expired_is_gone_hot_and_cold_and_its_stock_is_given_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    staying, leaving, expires_at = await expiring(runtime, tenant_id)
    await until(expires_at)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await only(runtime, staying, leaving)
        await runtime.drain()
        runtime.pixeltable_config.hot.clear()
        await only(runtime, staying, leaving)
        # The worker of the run may have been first; what matters is what holds afterwards.
        materializer(runtime).expire()
        assert onlooker.used(tenant_id) == onlooker.ledger(tenant_id, state="active") == 1
        assert onlooker.ledger(tenant_id, state="expired") == 1
        for _ in range(2):
            await only(runtime, staying, leaving)
            runtime.pixeltable_config.hot.clear()
        materializer(runtime).expire()
    assert onlooker.used(tenant_id) == 1


async def test_nothing_expires_before_its_time(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        soon = datetime.now(UTC) + timedelta(hours=1)
        memory_id = await runtime.memory.store(sample_memory("alice", expires_at=soon), {})
        materializer(runtime).expire()
        assert await runtime.memory.get_by_id(memory_id) is not None
    assert onlooker.used(tenant_id) == 1


async def test_erasing_a_person_gives_back_exactly_what_was_in_stock(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    staying, _, expires_at = await expiring(runtime, tenant_id)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("bob")] * 2, {})
        await runtime.memory.delete(staying)
        await runtime.memory.store(sample_memory("alice"), {})
    await until(expires_at)
    materializer(runtime).expire()
    assert onlooker.used(tenant_id) == 3
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    assert onlooker.used(tenant_id) == onlooker.ledger(tenant_id) == 2


async def test_a_deleted_memory_is_gone_hot_and_cold(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        kept, gone = await runtime.memory.store_many([sample_memory("alice")] * 2, {})
        assert len(await runtime.memory.retrieve("tabs", "alice")) == 2
        assert await runtime.memory.delete(gone)
        for _ in range(2):
            assert await runtime.memory.get_by_id(gone) is None
            assert [m.id for m in await runtime.memory.search("alice", {"include_invalid": True})] == [kept]
            assert [m.id for m in await runtime.memory.retrieve("tabs", "alice")] == [kept]
            await runtime.drain()
            runtime.pixeltable_config.hot.clear()


async def test_the_worker_expires_without_being_asked(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.memory.materializer._EXPIRY_EVERY_S", 0.05)
    _, _, expires_at = await expiring(runtime, tenant_id)
    await until(expires_at)
    stop = threading.Event()
    worker = threading.Thread(target=materializer(runtime).run, args=(stop,))
    worker.start()
    try:
        give_up_at = time.monotonic() + 10
        while onlooker.used(tenant_id) != 1:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.02)
    finally:
        stop.set()
        worker.join()
