"""What changes charge, record and leave behind; and what a writer that fell behind cannot do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    IdempotencyConflictError,
    MemoryNotFoundError,
    ProviderUnavailableError,
    QuotaExceededError,
    RevisionConflictError,
)
from cloud.memory.managed_ports import Updated, Whose
from cloud.memory.managed_postgres import PostgresManagedLedger
from cloud.tenancy.system import system_predicate
from src.memory.lifecycle import ChangeKind, StoredMemoryId
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


def stock(onlooker: Onlooker, tenant_id: str) -> dict[str, int]:
    """What the meters of stocks say, and what the ledger holds."""
    counted = onlooker.rows(
        "SELECT meter, sum(used) FROM usage_counters"
        " WHERE tenant_id = :tenant AND period = '1970-01-01' GROUP BY meter",
        tenant=tenant_id,
    )
    ((memories, size_bytes),) = onlooker.rows(
        "SELECT count(*), coalesce(sum(size_bytes), 0) FROM memories WHERE tenant_id = :tenant AND state = 'active'",
        tenant=tenant_id,
    )
    meters = {str(meter): int(used) for meter, used in counted}
    assert meters == {"memories": memories, "stored_bytes": size_bytes}
    ((people,),) = onlooker.rows(
        "SELECT coalesce(sum(memories), 0) FROM subjects WHERE tenant_id = :tenant", tenant=tenant_id
    )
    assert people == memories
    return meters


async def test_stocks_follow_every_change(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), {})
        small = stock(onlooker, tenant_id)
        await runtime.memory.update(first, {"content": "x" * 5_000})
        assert stock(onlooker, tenant_id)["stored_bytes"] > small["stored_bytes"] + 4_000
        await runtime.memory.supersede(first, sample_memory("alice"), {})
        assert stock(onlooker, tenant_id) == small
        second = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.delete(second)
        assert stock(onlooker, tenant_id) == small
        assert await runtime.memory.undelete(second)
        assert stock(onlooker, tenant_id)["memories"] == 2


async def test_undeleting_into_a_full_tenant_is_refused_and_changes_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"memories": 1})
    with request_context(tenant_id=tenant, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.delete(memory_id)
        other = await runtime.memory.store(sample_memory("alice"), {})
        with onlooker.new_events() as events, pytest.raises(QuotaExceededError) as full:
            await runtime.memory.undelete(memory_id)
        assert (full.value.meter, full.value.limit, full.value.used) == ("memories", 1, 1)
        assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [
            ("memory.undelete", "denied", "quota_exceeded")
        ]
        assert [m.id for m in await runtime.memory.search("alice", {})] == [other]
        assert stock(onlooker, tenant)["memories"] == 1
        # One that takes another's place needs no room.
        await runtime.memory.supersede(other, sample_memory("alice", content="Uses spaces"), {})
        assert stock(onlooker, tenant)["memories"] == 1


async def test_an_update_that_does_not_fit_changes_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    tenant = f"{tenant_id}-small"
    runtime.tenants.create(tenant, plan="team", limits={"stored_bytes": 2_000})
    with request_context(tenant_id=tenant, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        before = stock(onlooker, tenant)
        with pytest.raises(QuotaExceededError, match="stored_bytes"):
            await runtime.memory.update(memory_id, {"content": "x" * 5_000})
        found = await runtime.memory.get_by_id(memory_id)
        assert found is not None
        assert found.content == sample_memory("alice").content
        assert len(await runtime.memory.history(memory_id)) == 1
    assert stock(onlooker, tenant) == before


async def test_what_could_not_be_done_leaves_its_event(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        with onlooker.new_events() as events:
            with pytest.raises(RevisionConflictError):
                await runtime.memory.update(memory_id, {"content": "x"}, expected_revision=7)
            for absent in ("nonsense", "018f2b6e-7c1a-7def-8123-456789abcdef"):
                with pytest.raises(MemoryNotFoundError):
                    await runtime.memory.update(absent, {"content": "x"})
            with pytest.raises(MemoryNotFoundError):
                await runtime.memory.supersede(memory_id, sample_memory("nobody known"), {})
            assert await runtime.memory.undelete(memory_id) is False
            assert await runtime.memory.history("nonsense") == []
    absent_update = ("memory.update", "allowed", "not_found", {"updated": 0})
    assert [(e["action"], e["outcome"], e["reason"], e["counts"]) for e in events] == [
        ("memory.update", "denied", "revision_conflict", {}),
        absent_update,
        absent_update,
        ("memory.supersede", "allowed", "not_found", {"stored": 0, "superseded": 0}),
        ("memory.undelete", "allowed", "not_found", {"undeleted": 0}),
        ("memory.history", "allowed", "not_found", {"returned": 0}),
    ]
    assert events[0]["details"] == {"expected": 7, "current": 1}
    assert runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "nobody known", create=False) is None


async def test_history_names_actors_as_the_log_does(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"member"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.update(memory_id, {"content": "Uses spaces"})
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.delete(memory_id)
        await runtime.memory.undelete(memory_id)
        lines = await runtime.memory.history(memory_id)
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
    assert person is not None
    assert [(line.kind, line.revision) for line in lines] == [
        (ChangeKind.STORED, 1),
        (ChangeKind.UPDATED, 2),
        (ChangeKind.DELETED, 2),
        (ChangeKind.UNDELETED, 2),
    ]
    logged = [
        ":".join(part for part in (event["actor"]["kind"], event["actor"]["id"]) if part)
        for event in onlooker.events(log_id=tenant_id)
        if memory_id in event["resource_ids"] and event["action"] != "memory.history"
    ]
    assert [line.actor for line in lines] == logged
    assert logged[:2] == [f"subject:{person.subject_id}"] * 2


async def test_superseding_under_a_key_happens_once(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    key = {"idempotency_key": "request 17"}
    with request_context(tenant_id=tenant_id, roles={"service"}):
        one, other = await runtime.memory.store_many([sample_memory("alice")] * 2, {})
        new = await runtime.memory.supersede(one, sample_memory("alice", content="Uses spaces"), key)
        assert await runtime.memory.supersede(one, sample_memory("alice", content="Uses spaces"), key) == new
        with pytest.raises(IdempotencyConflictError):
            await runtime.memory.supersede(other, sample_memory("alice", content="Uses spaces"), key)
        with pytest.raises(IdempotencyConflictError):
            await runtime.memory.store(sample_memory("alice", content="Uses spaces"), key)
        assert {m.id for m in await runtime.memory.search("alice", {})} == {new, other}
    assert stock(onlooker, tenant_id)["memories"] == 2


async def test_a_repeated_attempt_gets_the_first_ones_answer(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    """The reply was lost, the transaction was not: nothing happens twice."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
    predicate, ledger = system_predicate(tenant_id, "test"), runtime.pixeltable_config.ledger
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
    assert isinstance(ledger, PostgresManagedLedger)
    assert person is not None
    row = replace(
        ledger.changes(predicate, person.subject_id, since=0).waiting[0]
        if ledger.changes(predicate, person.subject_id, since=0).waiting
        else runtime._installation.config.rows.named(predicate, _placement(onlooker, tenant_id), [memory_id])[0],
        revision=2,
    )
    whose = Whose(memory_id, restricted=False, own_subject_id=None)
    audit = runtime.audit.draft(predicate.scope, Action.MEMORY_UPDATE)
    first = ledger.update(predicate, whose, row, expected=None, audit=audit)
    invoke = ledger._engine.invoke
    try:
        # As the engine does it after an attempt whose end is unknown.
        ledger._engine.invoke = lambda function, parameters, **_: invoke(  # type: ignore[method-assign]
            function, {**parameters, "retry": True}, retry_parameter=None
        )
        again = ledger.update(predicate, whose, row, expected=None, audit=audit)
    finally:
        ledger._engine.invoke = invoke  # type: ignore[method-assign]
    assert isinstance(first, Updated)
    assert again == Updated(2, None)
    assert onlooker.rows("SELECT revision FROM memories WHERE memory_id::text = :id", id=memory_id) == [(2,)]


def _placement(onlooker: Onlooker, tenant_id: str) -> str:
    ((placement,),) = onlooker.rows("SELECT placement FROM tenants WHERE tenant_id = :tenant", tenant=tenant_id)
    return str(placement)


async def test_a_materializer_that_fell_behind_cannot_put_an_old_revision_over_a_newer_one(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.drain()
        await runtime.memory.update(memory_id, {"content": "second"})
        await runtime.drain()
        predicate, rows = system_predicate(tenant_id, "test"), runtime.pixeltable_config.rows
        placement = _placement(onlooker, tenant_id)
        (second,) = rows.named(predicate, placement, [memory_id])
        await runtime.memory.update(memory_id, {"content": "third"})
        await runtime.drain()
        with pytest.raises(ProviderUnavailableError):
            rows.write(placement, [], [second])
        (row,) = rows.named(predicate, placement, [memory_id])
        assert row.revision == 3
        runtime.pixeltable_config.hot.clear()
        (found,) = await runtime.memory.search("alice", {})
        assert found.content == "third"


async def test_hot_and_cold_answer_alike_after_changes(runtime: CloudRuntime, tenant_id: str) -> None:
    contents = [f"note {n} about {topic}" for n, topic in enumerate(["tea", "tabs", "trains", "tea", "tabs"])]
    hot = runtime.pixeltable_config.hot
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await runtime.memory.store_many([sample_memory("alice", content=c) for c in contents], {})

        async def answers() -> list[list[tuple[str | None, str]]]:
            found = [
                await runtime.memory.retrieve("tea", "alice", limit=10),
                await runtime.memory.search("alice", {"query": "tabs", "include_invalid": True}),
                [*(await runtime.memory.list("alice", filters={"include_invalid": True})).memories],
            ]
            return [[(memory.id, memory.content) for memory in memories] for memories in found]

        async def change() -> None:
            await runtime.memory.update(ids[0], {"content": "note about tabs", "confidence": 0.5})
            await runtime.memory.supersede(ids[1], sample_memory("alice", content="tea instead of tabs"), {})
            await runtime.memory.delete(ids[2])
            await runtime.memory.update(ids[3], {"metadata": {"session": "s"}})

        await answers()
        await change()
        person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
        assert person is not None
        for undelete in (False, True):
            if undelete:
                assert await runtime.memory.undelete(ids[2])
            warm = await answers()
            held = hot.get(tenant_id, person.subject_id)
            assert held is not None
            for drained in (False, True):
                if drained:
                    await runtime.drain()
                hot.clear()
                assert await answers() == warm
                cold = hot.get(tenant_id, person.subject_id)
                assert cold is not None
                # What is accounted for does not drift with every change.
                assert cold.size_bytes == held.size_bytes


async def test_of_two_equal_memories_stored_at_once_one_is_told_of_the_other(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await asyncio.gather(
            *(runtime.memory.store(sample_memory("alice"), {"report_duplicates": True}) for _ in range(2))
        )
    told = {str(i): [d.memory_id for d in i.duplicates or ()] for i in ids if isinstance(i, StoredMemoryId)}
    assert any(told[str(one)] == [str(other)] for one, other in (ids, ids[::-1]))


async def test_a_walk_survives_another_process_and_ends_with_the_person(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice", content=f"note {n}") for n in range(4)], {})
        page = await runtime.memory.list("alice", limit=2)
        runtime.pixeltable_config.hot.clear()
        again = await runtime.memory.list("alice", limit=2, cursor=page.next_cursor)
        assert not {m.id for m in page.memories} & {m.id for m in again.memories}
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
        with pytest.raises(ValueError, match="cursor"):
            await runtime.memory.list("alice", limit=2, cursor=page.next_cursor)


async def test_after_the_retention_time_nothing_comes_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.delete(memory_id)
    predicate, ledger = system_predicate(tenant_id, "test"), runtime.pixeltable_config.ledger
    whose = Whose(memory_id, restricted=False, own_subject_id=None)
    audit = runtime.audit.draft(predicate.scope, Action.MEMORY_UNDELETE)
    answer = ledger.undelete(predicate, whose, retention=timedelta(0), audit=audit)
    assert type(answer).__name__ == "Absent"
    assert stock(onlooker, tenant_id)["memories"] == 0
