"""A purge removes what was kept long enough, records it, and leaves every reader right."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.kernel.access import Action
from cloud.kernel.errors import PermissionDeniedError, UnknownTenantError
from cloud.memory.managed_ports import Retention
from cloud.memory.managed_postgres import PostgresPurgeLedger
from cloud.memory.materializer import placement_lock
from cloud.memory.purge import MemoryPurge, Purger
from cloud.startup.working import work
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker

AT_ONCE = Retention(timedelta(0), timedelta(0), timedelta(0))


def purger(runtime: CloudRuntime, retention: Retention = AT_ONCE) -> Purger:
    engine = runtime._installation.engines.maintenance
    rows = runtime.pixeltable_config.rows
    return Purger(PostgresPurgeLedger(engine), rows, engine, lambda t: system_predicate(t, "purge"), retention)


async def superseded_and_deleted(runtime: CloudRuntime, tenant_id: str) -> tuple[str, str, str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        old, deleted = await runtime.memory.store_many([sample_memory("alice")] * 2, {})
        new = await runtime.memory.supersede(old, sample_memory("alice", content="Uses spaces"), {})
        await runtime.memory.delete(deleted)
    return old, deleted, new


async def test_what_was_not_kept_long_enough_stays(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    old, deleted, new = await superseded_and_deleted(runtime, tenant_id)
    day = timedelta(days=1)
    assert purger(runtime, Retention(day, day, day)).run(tenant_id=tenant_id) == {}
    assert purger(runtime, Retention(day, day, timedelta(0))).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 1}
    kept = onlooker.rows("SELECT memory_id::text FROM memories WHERE tenant_id = :tenant", tenant=tenant_id)
    assert {row[0] for row in kept} == {deleted, new}
    with request_context(tenant_id=tenant_id, roles={"service"}):
        assert await runtime.memory.history(old) == []
        assert await runtime.memory.undelete(deleted)


async def test_who_has_not_read_since_before_a_deletion_does_not_see_it_after_the_purge(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    hot = runtime.pixeltable_config.hot
    with request_context(tenant_id=tenant_id, roles={"service"}):
        deleted, kept = await runtime.memory.store_many([sample_memory("alice")] * 2, {})
        await runtime.memory.retrieve("tabs", "alice")
        person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
        assert person is not None
        before = hot.get(tenant_id, person.subject_id)
        assert before is not None
        await runtime.memory.delete(deleted)
        # As a process that has not heard of it.
        hot.clear()
        hot.put(before)
        assert purger(runtime).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 1}
        assert [memory.id for memory in await runtime.memory.retrieve("tabs", "alice", limit=1)] == [kept]
        assert await runtime.memory.count("alice") == 1


@pytest.mark.parametrize("drained", [True, False])
async def test_what_was_purged_is_in_no_plane_and_in_no_readers_snapshot(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, drained: bool
) -> None:
    old, deleted, new = await superseded_and_deleted(runtime, tenant_id)
    if drained:
        await runtime.drain()
    everything = {"include_invalid": True}
    with request_context(tenant_id=tenant_id, roles={"service"}):
        assert [m.id for m in await runtime.memory.search("alice", everything)] == [new, old]
        with onlooker.new_events() as events:
            assert purger(runtime).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 2}
        # The snapshot that is hot showed the old one; what is gone from the ledger could not tell it.
        assert [m.id for m in await runtime.memory.search("alice", everything, limit=1)] == [new]
        assert await runtime.memory.count("alice", everything) == 1
    await runtime.drain()
    ((placement,),) = onlooker.rows("SELECT placement FROM tenants WHERE tenant_id = :tenant", tenant=tenant_id)
    rows = runtime.pixeltable_config.rows.named(system_predicate(tenant_id, "test"), placement, [old, deleted, new])
    assert [row.memory_id for row in rows] == [new]
    assert onlooker.rows("SELECT 1 FROM memory_changes WHERE tenant_id = :tenant", tenant=tenant_id) == []
    assert onlooker.used(tenant_id) == 1
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
    assert person is not None
    purge = "memory.purge"
    assert [(e["action"], e["actor"]["id"], e["reason"], e["subject_ids"]) for e in events] == [
        (purge, "purge", "intent", [person.subject_id]),
        (purge, "purge", None, [person.subject_id]),
    ]
    assert [e["resource_ids"] for e in events] == [sorted([old, deleted])] * 2
    assert events[0]["counts"] == {"deleted": 1, "expired": 0, "superseded": 1}
    assert events[1]["counts"]["purged"] == 2


async def test_a_memory_that_is_marked_cannot_be_brought_back(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    _, deleted, _ = await superseded_and_deleted(runtime, tenant_id)
    predicate = system_predicate(tenant_id, "purge")
    ledger = PostgresPurgeLedger(runtime._installation.engines.maintenance)
    draft = runtime.audit.draft(predicate.scope, Action.MEMORY_PURGE)
    marked = ledger.begin(predicate, AT_ONCE, batch=500, audit=draft)
    assert deleted in marked
    with request_context(tenant_id=tenant_id, roles={"service"}):
        assert await runtime.memory.undelete(deleted) is False
        assert await runtime.memory.history(deleted) == []
    # An access request in between tells of what is left.
    bundle = await runtime.gdpr.export_user_data("alice", tenant_id, tmp_path / "alice")
    assert bundle.counts["memories"] == 1
    assert purger(runtime, Retention()).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 2}


async def test_a_busy_placement_is_left_for_another_time(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    await superseded_and_deleted(runtime, tenant_id)
    ((placement,),) = onlooker.rows("SELECT placement FROM tenants WHERE tenant_id = :tenant", tenant=tenant_id)
    with placement_lock(runtime._installation.engines.worker, placement, wait_s=20) as held:
        assert held
        assert purger(runtime).run(tenant_id=tenant_id) == {}
    assert purger(runtime).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 2}


async def test_a_person_who_is_being_erased_is_left_to_the_erasure(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    await superseded_and_deleted(runtime, tenant_id)
    engine = runtime._installation.engines.maintenance
    freeze = sa.text("UPDATE subjects SET state = :state WHERE tenant_id = :tenant")
    engine.transaction(lambda c: c.execute(freeze, {"state": "frozen", "tenant": tenant_id}))
    assert purger(runtime).run(tenant_id=tenant_id) == {}
    engine.transaction(lambda c: c.execute(freeze, {"state": "active", "tenant": tenant_id}))
    assert purger(runtime).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 2}


async def test_an_expired_memory_is_purged_by_its_time(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice", expires_at=soon), {})
        await runtime.memory.update(memory_id, {"metadata": {"n": 1}})
    materializer = runtime._installation.materializer()
    while onlooker.ledger(tenant_id, state="expired") == 0:
        materializer.expire()
    assert purger(runtime).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 1}
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 0


async def test_a_worker_purges_unasked(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    """By the wiring of a real worker, whose retention is over at once."""
    old, deleted, new = await superseded_and_deleted(runtime, tenant_id)
    await runtime.drain()
    names = ("deleted_retention_days", "expired_retention_days", "superseded_retention_days")
    settings = runtime._installation.settings.model_copy(update=dict.fromkeys(names, 0.0))
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(replace(runtime._installation, settings=settings), stop))
    with onlooker.new_events() as events:
        worker.start()
        try:
            # What other tests have left is due as well, and may come first.
            end_s = time.monotonic() + 300
            while onlooker.ledger(tenant_id) > 1 and time.monotonic() < end_s:
                await asyncio.sleep(0.05)
        finally:
            stop.set()
            worker.join()
    kept = onlooker.rows("SELECT memory_id::text FROM memories WHERE tenant_id = :tenant", tenant=tenant_id)
    assert [row[0] for row in kept] == [new]
    mine = [event for event in events if event["log_id"] == tenant_id]
    assert [(e["action"], e["actor"]["kind"], e["reason"]) for e in mine] == [
        ("memory.purge", "system", "intent"),
        ("memory.purge", "system", None),
    ]
    assert [e["resource_ids"] for e in mine] == [sorted([old, deleted])] * 2


async def test_an_operators_word_is_recorded_beside_what_it_did(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    await superseded_and_deleted(runtime, tenant_id)
    service = MemoryPurge(purger(runtime), runtime.memory_purge._admissions, runtime.audit)
    with onlooker.new_events() as events:
        assert service.purge(tenant_id).by_tenant == {tenant_id: 2}
        assert service.purge(tenant_id).total == 0
    assert [(e["reason"], e["category"], e["actor"]["kind"]) for e in events] == [
        ("intent", "administration", "local-operator"),
        (None, "administration", "local-operator"),
        ("requested", "administration", "local-operator"),
        ("requested", "administration", "local-operator"),
    ]
    assert [e["counts"] for e in events[2:]] == [{"purged": 2, "tenants": 1}, {"purged": 0, "tenants": 0}]


def test_only_an_operator_purges(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    for role in ("service", "member", "tenant_admin", "auditor"):
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=tenant_id, user_id="alice", roles={role}),
            pytest.raises(PermissionDeniedError),
        ):
            runtime.memory_purge.purge(tenant_id)
        assert [(e["action"], e["outcome"]) for e in events] == [("memory.purge", "denied")]
    with pytest.raises(UnknownTenantError):
        runtime.memory_purge.purge("no-such-tenant")
