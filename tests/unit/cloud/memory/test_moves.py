"""Laws of moving a tenant: nothing is lost, missed or left behind, whoever reads, writes or erases meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, OperationInProgressError, UnknownTenantError
from cloud.memory.model import Changes
from cloud.memory.placement_store import placements_of
from cloud.memory.snapshots import SnapshotLoader
from cloud.tenancy.model import pooled_placement
from cloud.tenancy.placements import MoveState, own_placement
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


async def stored(runtime: CloudRuntime, tenant_id: str, user_id: str, count: int) -> list[str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memories = [sample_memory(user_id, content=f"{user_id} remembers number {n}") for n in range(count)]
        return await runtime.memory.store_many(memories, {})


async def found(runtime: CloudRuntime, tenant_id: str, user_id: str) -> set[str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return {str(memory.id) for memory in await runtime.memory.search(user_id, {}, 1000)}


def counts(runtime: CloudRuntime, tenant_id: str) -> dict[str, int]:
    """Rows of the tenant in each table it may be in."""
    engine = runtime._installation.engines.maintenance
    rows, predicate = runtime.pixeltable_config.rows, system_predicate(tenant_id, "test")
    return {name: rows.count_tenant(predicate, name) for name in placements_of(engine, tenant_id)}


def events(runtime: CloudRuntime, tenant_id: str, action: str) -> list[tuple[Any, Any]]:
    return [(e["outcome"], e["reason"]) for e in runtime.audit.events(tenant_id) if e["action"] == action]


def stopping_at(name: str) -> tuple[threading.Event, threading.Event]:
    """Arms a place: the first event is set when it is reached, the second lets whoever waits there go on."""
    reached, go = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go.wait(60)

    failpoints.arm(name, wait)
    return reached, go


async def test_a_moved_tenant_is_whole_in_its_new_table_and_gone_from_the_old_one(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    ids = set(await stored(runtime, tenant_id, "alice", 30) + await stored(runtime, tenant_id, "bob", 3))
    await runtime.drain()
    pool, own = pooled_placement(tenant_id), own_placement(tenant_id)
    told: list[tuple[int, int]] = []
    move = runtime.tenants.move(tenant_id, to="own", progress=lambda done, total: told.append((done, total)))
    assert (move.source, move.target, move.state, move.copied) == (pool, own, MoveState.DONE, 33)
    assert told[-1] == (33, 33)
    assert counts(runtime, tenant_id) == {own: 33, pool: 0}
    runtime.pixeltable_config.hot.clear()
    assert await found(runtime, tenant_id, "alice") | await found(runtime, tenant_id, "bob") == ids
    assert [t.placement for t in runtime.tenants.list() if t.tenant_id == tenant_id] == [own]
    back = runtime.tenants.move(tenant_id, to="pooled")
    assert (back.source, back.target, back.copied) == (own, pool, 33)
    assert counts(runtime, tenant_id) == {own: 0, pool: 33}
    assert events(runtime, tenant_id, "tenant.move") == [("allowed", None)] * 2
    assert events(runtime, tenant_id, "tenant.move.step") == [("allowed", "intent")] * 2


async def test_moving_a_tenant_to_where_it_is_changes_nothing_and_is_recorded(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await stored(runtime, tenant_id, "alice", 2)
    move = runtime.tenants.move(tenant_id, to=pooled_placement(tenant_id))
    assert (move.source, move.state) == (move.target, MoveState.DONE)
    assert events(runtime, tenant_id, "tenant.move") == [("allowed", "unchanged")]


def test_a_tenant_may_begin_in_a_table_of_its_own(runtime: CloudRuntime) -> None:
    made = runtime.tenants.create("own-from-the-start", placement="own")
    assert made.placement == own_placement("own-from-the-start")
    assert runtime.tenants.create("own-from-the-start", placement="own").placement == made.placement
    with pytest.raises(ConfigurationError, match="move it"):
        runtime.tenants.create("own-from-the-start", placement="pooled")


@pytest.mark.parametrize("to", ["", "pool_16", "pool_1", "POOL_01", own_placement("another"), "memories"])
def test_a_name_that_is_no_table_of_the_tenants_is_refused_and_recorded(
    runtime: CloudRuntime, tenant_id: str, to: str
) -> None:
    with pytest.raises(ConfigurationError, match="placement"):
        runtime.tenants.move(tenant_id, to=to)
    assert events(runtime, tenant_id, "tenant.move") == [("failed", "configuration")]


def test_an_unknown_tenant_is_not_moved(runtime: CloudRuntime) -> None:
    for name in ("nobody-here", "No Tenant"):
        with pytest.raises(UnknownTenantError):
            runtime.tenants.move(name, to="own")


async def test_what_is_written_and_deleted_during_a_move_is_kept_and_gone(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    ids = set(await stored(runtime, tenant_id, "alice", 40))
    await runtime.drain()
    moving = asyncio.create_task(asyncio.to_thread(runtime.tenants.move, tenant_id, to="own"))
    turn = 0
    while not moving.done() or turn < 5:
        turn += 1
        ids |= set(await stored(runtime, tenant_id, "alice", 2))
        gone = min(ids)
        with request_context(tenant_id=tenant_id, roles={"service"}):
            assert await runtime.memory.delete(gone)
        ids.discard(gone)
        runtime.pixeltable_config.hot.clear()
        assert await found(runtime, tenant_id, "alice") == ids
    await moving
    await runtime.drain()
    runtime.pixeltable_config.hot.clear()
    assert await found(runtime, tenant_id, "alice") == ids
    assert counts(runtime, tenant_id)[pooled_placement(tenant_id)] == 0


async def test_a_reader_that_was_told_the_old_table_finds_everything_once_it_is_empty(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    ids = set(await stored(runtime, tenant_id, "alice", 20))
    await runtime.drain()
    config = runtime.pixeltable_config
    looked: list[str] = []

    class MovedAfterTheFirstLook:
        """The ledger; the tenant moves between the first look into it and the look into Pixeltable."""

        def changes(self, *arguments: Any, **named: Any) -> Changes:
            seen = config.ledger.changes(*arguments, **named)
            looked.append(seen.placement)
            if len(looked) == 1:
                runtime.tenants.move(tenant_id, to="own")
            return seen

    person = config.keyring.resolve_subject(tenant_id, "alice", create=False)
    assert person is not None
    config.hot.clear()
    loader = SnapshotLoader(MovedAfterTheFirstLook(), config.rows, config.models, config.hot)  # type: ignore[arg-type]
    snapshot = loader.at_least(system_predicate(tenant_id, "test"), person, None)
    assert set(snapshot.memories) == ids
    assert looked == [pooled_placement(tenant_id), own_placement(tenant_id)]


@pytest.mark.parametrize("place", ["move.begun", "move.copied", "move.switched", "move.cleaned"])
async def test_an_erasure_during_a_move_leaves_nothing_in_either_table(
    runtime: CloudRuntime, tenant_id: str, place: str
) -> None:
    await stored(runtime, tenant_id, "alice", 10)
    kept = set(await stored(runtime, tenant_id, "bob", 10))
    await runtime.drain()
    reached, go = stopping_at(place)
    moving = asyncio.create_task(asyncio.to_thread(runtime.tenants.move, tenant_id, to="own"))
    assert await asyncio.to_thread(reached.wait, 60)
    erasure = await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    go.set()
    await moving
    assert erasure.memories == 10
    assert sum(counts(runtime, tenant_id).values()) == 10
    runtime.pixeltable_config.hot.clear()
    assert await found(runtime, tenant_id, "alice") == set()
    assert await found(runtime, tenant_id, "bob") == kept


async def test_of_two_moves_at_once_one_is_refused(runtime: CloudRuntime, tenant_id: str) -> None:
    await stored(runtime, tenant_id, "alice", 5)
    await runtime.drain()
    reached, go = stopping_at("move.copied")
    moving = asyncio.create_task(asyncio.to_thread(runtime.tenants.move, tenant_id, to="own"))
    assert await asyncio.to_thread(reached.wait, 60)
    others = {pooled_placement(tenant_id), "pool_00", "pool_01"}
    for to, said in (("own", "another process"), *((other, "on its way") for other in others)):
        with pytest.raises(OperationInProgressError, match=said):
            runtime.tenants.move(tenant_id, to=to)
    go.set()
    assert (await moving).state is MoveState.DONE
    assert ("failed", "in_progress") in events(runtime, tenant_id, "tenant.move")
    assert events(runtime, tenant_id, "tenant.move").count(("allowed", None)) == 1
