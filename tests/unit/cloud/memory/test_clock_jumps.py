"""A clock jumps by an hour, forward or back: a machine's, that of the database's host alone, or of a process's alone.

The database's clock decides what has expired and what is due; a process's own only chooses what is asked for, so one
that is wrong may find too little and never shows what is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory.managed_ports import Retention
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker
from tests.support.clocks import Clocks, clocks_of
from tests.support.ledgers import as_owner
from tests.unit.cloud.memory.test_purge import AT_ONCE, purger

HOUR: Final = timedelta(hours=1)
RIGHT: Final = timedelta(0)
HALF: Final = timedelta(minutes=30)

Jump = Callable[[Clocks, timedelta], None]
JUMPS: Final[dict[str, Jump]] = {
    "machine": lambda clocks, by: clocks.jump(database=by, process=by),
    "database": lambda clocks, by: clocks.jump(database=by),
    "process": lambda clocks, by: clocks.jump(process=by),
}
whoever = pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
either_way = pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])


@pytest.fixture
def clocks(runtime: CloudRuntime) -> Iterator[Clocks]:
    with clocks_of(runtime) as made:
        yield made


class Reader:
    """Everything that is shown of a person, by every way to it."""

    def __init__(self, clocks: Clocks, runtime: CloudRuntime, ids: list[str]) -> None:
        self._memory = clocks.memory
        self._hot = runtime.pixeltable_config.hot
        self._ids = ids

    async def shown(self, *, overcounted: int = 0, **filters: object) -> set[str]:
        """The same hot and cold, or it fails; `count` counts as many more."""
        hot = await self._once(filters, overcounted)
        self._hot.clear()
        assert await self._once(filters, overcounted) == hot
        return hot

    async def _once(self, filters: dict[str, object], overcounted: int) -> set[str]:
        found = {str(memory.id) for memory in await self._memory.search("alice", filters, limit=100)}
        assert {str(m.id) for m in (await self._memory.list("alice", filters=filters)).memories} == found
        assert await self._memory.count("alice", filters) == len(found) + overcounted
        if not filters:
            assert {str(m.id) for m in await self._memory.retrieve("tabs", "alice", limit=100)} == found
            assert {key for key in self._ids if await self._memory.get_by_id(key) is not None} == found
        return found


@whoever
@either_way
async def test_what_was_acknowledged_is_there_before_and_after_a_jump_and_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, clocks: Clocks, jump: Jump, by: timedelta
) -> None:
    ids: list[str] = []
    reader = Reader(clocks, runtime, ids)
    with request_context(tenant_id=tenant_id, roles={"service"}), onlooker.new_events() as events:
        for moved in (RIGHT, by, RIGHT):
            jump(clocks, moved)
            ids.append(await clocks.memory.store(sample_memory("alice", created_at=clocks.now()), {}))
            assert await clocks.memory.update(ids[0], {"metadata": {"n": len(ids)}}) == len(ids) + 1
            assert await reader.shown() == set(ids)
        await runtime.drain()
        assert await reader.shown() == set(ids)
    done = [event["action"] for event in events if event["log_id"] == tenant_id]
    assert (done.count("memory.store"), done.count("memory.update")) == (3, 3)
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 3
    assert {event["outcome"] for event in events} == {"allowed"}
    # Four looks of hot and cold, and an event for each read of each.
    reads = {"memory.search": 8, "memory.list": 8, "memory.count": 8, "memory.retrieve": 8, "memory.get": 18}
    assert {action: done.count(action) for action in reads} == reads


@whoever
@either_way
async def test_what_was_deleted_never_reappears_and_can_be_brought_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, clocks: Clocks, jump: Jump, by: timedelta
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        kept, before, during = [await clocks.memory.store(sample_memory("alice"), {}) for _ in range(3)]
        reader = Reader(clocks, runtime, [kept, before, during])
        assert await reader.shown() == {kept, before, during}
        with onlooker.new_events() as events:
            assert await clocks.memory.delete(before)
            jump(clocks, by)
            assert await clocks.memory.delete(during)
        assert [(e["action"], e["counts"]) for e in events] == [("memory.delete", {"deleted": 1})] * 2
        for moved in (by, RIGHT, -by):
            jump(clocks, moved)
            assert await reader.shown() == await reader.shown(include_invalid=True) == {kept}
        jump(clocks, RIGHT)
        with onlooker.new_events() as events:
            assert await clocks.memory.undelete(before)
            assert await clocks.memory.undelete(during)
        assert [(e["action"], e["counts"]) for e in events] == [("memory.undelete", {"undeleted": 1})] * 2
        assert await reader.shown() == {kept, before, during}
    assert onlooker.used(tenant_id) == 3


async def test_what_is_marked_as_expired_stays_so_when_the_clock_is_set_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, clocks: Clocks
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        lasting = await clocks.memory.store(sample_memory("alice"), {})
        passing = await clocks.memory.store(sample_memory("alice", expires_at=datetime.now(UTC) + HALF), {})
        reader = Reader(clocks, runtime, [lasting, passing])
        assert await reader.shown() == {lasting, passing}
        clocks.jump(database=HOUR, process=HOUR)
        assert await reader.shown() == {lasting}
        assert not await clocks.memory.delete(passing)
        # Until a worker has marked it, the present decides alone: its time is not over.
        clocks.jump(database=RIGHT, process=RIGHT)
        assert await reader.shown() == {lasting, passing}
        clocks.jump(database=HOUR, process=HOUR)
        # Other tests may have memories that expire within the hour.
        assert clocks.expire() >= 1
        clocks.jump(database=RIGHT, process=RIGHT)
        # What is counted is not asked of the ledger: it goes by the process's clock, which has not come that far again.
        assert await reader.shown(overcounted=1) == {lasting}
        # It is kept for its retention time all the same, and shown to whoever asks for what is over.
        assert await reader.shown(include_invalid=True) == {lasting, passing}
    assert onlooker.used(tenant_id) == 1
    assert onlooker.ledger(tenant_id, state="expired") == 1


async def test_the_databases_clock_decides_what_has_expired(
    runtime: CloudRuntime, tenant_id: str, clocks: Clocks
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        lasting = await clocks.memory.store(sample_memory("alice"), {})
        passing = await clocks.memory.store(sample_memory("alice", expires_at=datetime.now(UTC) + HALF), {})
        reader = Reader(clocks, runtime, [lasting, passing])
        for process in (-HOUR, RIGHT, HOUR):
            clocks.jump(database=HOUR, process=process)
            assert await clocks.memory.get_by_id(passing) is None
            assert {m.id for m in await clocks.memory.search("alice", {})} == {lasting}
            assert {m.id for m in await clocks.memory.retrieve("tabs", "alice")} == {lasting}
            assert not await clocks.memory.delete(passing)
        clocks.jump(database=RIGHT, process=HOUR)
        # A process that is ahead does not find what is still valid, and neither changes nor loses it.
        assert {m.id for m in await clocks.memory.search("alice", {})} == {lasting}
        found = await clocks.memory.get_by_id(passing)
        assert found is not None
        clocks.jump(process=RIGHT)
        assert await reader.shown() == {lasting, passing}


@whoever
async def test_a_jump_back_purges_nothing_early_and_brings_nothing_back(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, clocks: Clocks, jump: Jump
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        old, deleted, kept = [await clocks.memory.store(sample_memory("alice"), {}) for _ in range(3)]
        jump(clocks, HOUR)
        new = await clocks.memory.supersede(old, sample_memory("alice", content="Uses spaces"), {})
        assert await clocks.memory.delete(deleted)
        reader = Reader(clocks, runtime, [old, deleted, kept, new])
        for moved in (HOUR, RIGHT, -HOUR):
            jump(clocks, moved)
            assert purger(runtime, Retention(HALF, HALF, HALF)).run(tenant_id=tenant_id, wait_s=20) == {}
            assert await reader.shown(include_invalid=True) == {old, kept, new}
        jump(clocks, HOUR)
        with onlooker.new_events() as events:
            assert purger(runtime, AT_ONCE).run(tenant_id=tenant_id, wait_s=20) == {tenant_id: 2}
        assert [(e["action"], e["reason"]) for e in events] == [("memory.purge", "intent"), ("memory.purge", None)]
        assert [e["resource_ids"] for e in events] == [sorted([old, deleted])] * 2
        for moved in (RIGHT, -HOUR, HOUR):
            jump(clocks, moved)
            assert await reader.shown(include_invalid=True) == await reader.shown() == {kept, new}
            assert not await clocks.memory.undelete(deleted)
            assert await clocks.memory.history(deleted) == []
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 2


async def test_a_history_stays_in_order_when_the_clock_was_set_back_between_two_changes(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        for number in range(3):
            await runtime.memory.update(memory_id, {"metadata": {"n": number}})
        assert await runtime.memory.delete(memory_id)
        assert await runtime.memory.undelete(memory_id)
        as_owner(
            runtime,
            "UPDATE memory_changes SET changed_at = changed_at - interval '1 hour'"
            " WHERE memory_id = CAST(:id AS uuid) AND revision > 2",
            id=memory_id,
        )
        told = await runtime.memory.history(memory_id)
    assert [line.revision for line in told] == sorted(line.revision for line in told)
    assert [line.kind.value for line in told][:4] == ["stored", "updated", "updated", "updated"]
    assert told[-1].revision == 4
