"""The hot tier: bounded in bytes, one load at a time per person, never older than it was, gone at once when dropped."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ProviderUnavailableError
from cloud.keys.envelope import Envelope, decode_envelope, encode_envelope
from cloud.memory.hot import HotTier, Written
from cloud.memory.model import HotMemory, SealedRow, SubjectSnapshot
from src.memory import ranking
from src.memory.ranking import IndexSnapshot
from src.testing.samples import new_user, sample_memory

TENANT = "tenant"
WITHIN_S = 30.0
HOT_MEMORY_BYTES = 2 * 1024


def snapshot(subject_id: str, generation: int = 1, size_bytes: int = 100) -> SubjectSnapshot:
    return SubjectSnapshot(TENANT, subject_id, generation, {}, IndexSnapshot.empty(4), size_bytes)


def written(subject_id: str, generation: int, rows: int = 1) -> Written:
    row = SealedRow("m", TENANT, subject_id, 1, 0, "fact", 1.0, datetime.now(UTC), None, b"sealed")
    return Written(TENANT, subject_id, generation, (row,) * rows)


def generations(tier: HotTier, subject_id: str) -> list[int]:
    return [one.generation for one in tier.written(TENANT, subject_id)[1]]


# Bounds


def test_who_was_read_longest_ago_leaves_first_and_the_bound_holds() -> None:
    tier = HotTier(capacity_bytes=300)
    for name in ("a", "b", "c"):
        tier.put(snapshot(name))
    assert tier.get(TENANT, "a")
    tier.put(snapshot("d"))
    assert tier.get(TENANT, "b") is None
    assert [name for name in "acd" if tier.get(TENANT, name)] == ["a", "c", "d"]
    assert tier.size_bytes() == 300


def test_one_person_larger_than_the_bound_is_held_alone() -> None:
    tier = HotTier(capacity_bytes=300)
    tier.put(snapshot("a"))
    tier.put(snapshot("b", size_bytes=1000))
    assert tier.get(TENANT, "a") is None
    assert tier.get(TENANT, "b")


def test_an_older_snapshot_takes_no_newer_ones_place() -> None:
    tier = HotTier(capacity_bytes=1000)
    tier.put(snapshot("a", 5))
    tier.put(snapshot("a", 4))
    held = tier.get(TENANT, "a")
    assert held
    assert held.generation == 5


# What was written and nobody has read


def test_what_was_written_is_there_up_to_the_first_gap() -> None:
    tier = HotTier(capacity_bytes=100_000)
    tier.put(snapshot("a", 1))
    for generation in (3, 2, 5):  # Writers of one process may answer in another order than they committed.
        tier.note(written("a", generation))
    assert generations(tier, "a") == [2, 3]
    tier.put(snapshot("a", 4))
    assert generations(tier, "a") == [5]
    tier.put(snapshot("a", 6))
    assert generations(tier, "a") == []
    assert tier.size_bytes() == 100


def test_beside_nothing_nothing_is_kept() -> None:
    tier = HotTier(capacity_bytes=100_000)
    tier.note(written("a", 2))
    tier.put(snapshot("a", 1))
    assert generations(tier, "a") == []
    assert tier.size_bytes() == 100


@pytest.mark.parametrize(
    "last",
    [written("a", 130), Written(TENANT, "a", 130, removed=("m",)), Written(TENANT, "a", 130, superseded=("m",))],
)
def test_who_is_only_written_to_and_much_is_not_hot(last: Written) -> None:
    """The next reader loads, which takes no longer than to open all that."""
    tier = HotTier(capacity_bytes=1_000_000)
    tier.put(snapshot("a", 1))
    for generation in range(2, 130):
        tier.note(written("a", generation))
    assert len(generations(tier, "a")) == 128
    tier.note(last)
    assert tier.get(TENANT, "a") is None
    assert tier.size_bytes() == 0


@pytest.mark.parametrize("way", ["drop", "drop_tenant", "clear", "evicted"])
def test_who_is_dropped_is_gone_with_what_was_written(way: str) -> None:
    tier = HotTier(capacity_bytes=10_000)
    tier.put(snapshot("a", 1))
    tier.note(written("a", 2))
    match way:
        case "drop":
            tier.drop(TENANT, "a")
        case "drop_tenant":
            tier.drop_tenant(TENANT)
        case "clear":
            tier.clear()
        case _:
            tier.put(snapshot("b", size_bytes=10_000))
            tier.drop(TENANT, "b")
    assert tier.get(TENANT, "a") is None
    assert tier.size_bytes() == 0
    tier.put(snapshot("a", 1))
    assert generations(tier, "a") == []


# Turns


def test_one_person_is_loaded_once_at_a_time_and_few_at_a_time_in_all() -> None:
    tier = HotTier(capacity_bytes=1000)
    loading: list[str] = []
    most: list[tuple[int, int]] = []
    lock = threading.Lock()

    def load(name: str) -> None:
        with tier.loading(TENANT, name):
            with lock:
                loading.append(name)
                most.append((len(loading), loading.count(name)))
            threading.Event().wait(0.005)
            with lock:
                loading.remove(name)

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(load, ["a", "b", "c", "d"] * 12))
    assert max(alike for _, alike in most) == 1
    assert max(together for together, _ in most) == 2
    assert not tier._turns, "nothing is left of a turn that is over"


def test_whose_turn_does_not_come_is_told_so() -> None:
    tier = HotTier(capacity_bytes=1000, load_wait_s=0.05)
    with tier.loading(TENANT, "a"), ThreadPoolExecutor(1) as threads:

        def wait() -> None:
            with tier.loading(TENANT, "a"):
                pass

        with pytest.raises(ProviderUnavailableError):
            threads.submit(wait).result()


# Within the provider


class Loads:
    """Looks of the provider into Pixeltable, which can be held up for one person."""

    def __init__(self, rows: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.subjects: list[str] = []
        self.rows = 0
        self.held_up: set[str] = set()
        self.go_on = threading.Event()
        real = rows.newer

        def newer(self_: Any, predicate: Any, placement: str, subject_id: str, **rest: Any) -> Any:
            self.subjects.append(subject_id)
            if subject_id in self.held_up:
                assert self.go_on.wait(WITHIN_S)
            found = real(self_, predicate, placement, subject_id, **rest)
            self.rows += len(found)
            return found

        monkeypatch.setattr(rows, "newer", newer)


@pytest.fixture
def loads(runtime: CloudRuntime, monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(type(runtime.pixeltable_config.rows), monkeypatch)


async def filled(runtime: CloudRuntime, people: Sequence[str], memories: int = 3) -> None:
    """People whose memories are in Pixeltable and not in this process."""
    for person in people:
        await runtime.memory.store_many([sample_memory(person, content=f"note {n}") for n in range(memories)], {})
    await runtime.drain()
    runtime.pixeltable_config.hot.clear()


async def test_a_load_does_not_read_what_was_deleted(runtime: CloudRuntime, tenant_id: str, loads: Loads) -> None:
    person = new_user()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await filled(runtime, [person], memories=4)
        for memory in (await runtime.memory.search(person, {}, limit=10))[:3]:
            assert await runtime.memory.delete(str(memory.id))
        runtime.pixeltable_config.hot.clear()
        loads.rows = 0
        assert len(await runtime.memory.retrieve("note", person)) == 1
    assert loads.rows == 1


async def test_many_readers_of_a_cold_person_cause_one_load(
    runtime: CloudRuntime, tenant_id: str, loads: Loads
) -> None:
    person = new_user()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await filled(runtime, [person])
        found = await asyncio.gather(*(runtime.memory.retrieve("note", person) for _ in range(16)))
    assert [len(memories) for memories in found] == [3] * 16
    assert len(loads.subjects) == 1


async def test_a_load_that_takes_long_delays_nobody_else(runtime: CloudRuntime, tenant_id: str, loads: Loads) -> None:
    slow, warm, cold = (new_user() for _ in range(3))
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await filled(runtime, [slow, warm, cold])
        await runtime.memory.retrieve("note", warm)
        subject = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, slow, create=False)
        assert subject
        loads.held_up.add(subject.subject_id)
        waiting = asyncio.create_task(runtime.memory.retrieve("note", slow))
        try:
            for person in (warm, cold):
                assert len(await asyncio.wait_for(runtime.memory.retrieve("note", person), WITHIN_S)) == 3
            assert not waiting.done()
        finally:
            loads.go_on.set()
        assert len(await waiting) == 3


async def test_what_a_process_writes_is_found_without_a_load(
    runtime: CloudRuntime, tenant_id: str, loads: Loads
) -> None:
    person = new_user()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await filled(runtime, [person])
        await runtime.memory.retrieve("note", person)
        loads.subjects.clear()
        ids = [await runtime.memory.store(sample_memory(person, content=f"more {n}"), {}) for n in range(40)]
        assert await runtime.memory.delete(ids.pop(7))
        assert await runtime.memory.update(ids[3], {"content": "other"}) == 2
        found = await runtime.memory.search(person, {}, limit=100)
    assert [memory.id for memory in found if memory.content.startswith(("more", "other"))] == ids[::-1]
    assert next(memory.content for memory in found if memory.id == ids[3]) == "other"
    assert loads.subjects == []


def test_threads_with_event_loops_of_their_own_read_and_write_one_person(runtime: CloudRuntime, tenant_id: str) -> None:
    person, each, loops = new_user(), 12, 4

    async def work(number: int) -> None:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            for count in range(each):
                memory_id = await runtime.memory.store(sample_memory(person, content=f"loop {number} {count}"), {})
                mine = [m for m in await runtime.memory.search(person, {}, limit=1000) if m.id == memory_id]
                assert len(mine) == 1, "what was stored is read at once"
                if count % 3 == 0:
                    assert await runtime.memory.delete(memory_id)
                    assert memory_id not in {m.id for m in await runtime.memory.retrieve("loop", person, limit=1000)}

    with ThreadPoolExecutor(loops) as threads:
        list(threads.map(lambda number: asyncio.run(work(number)), range(loops)))

    async def rest() -> int:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            return len(await runtime.memory.search(person, {}, limit=1000))

    assert asyncio.run(rest()) == loops * (each - each // 3)


async def test_a_hot_memory_of_100_characters_takes_at_most_2_kib(runtime: CloudRuntime, tenant_id: str) -> None:
    people, count = [new_user(), new_user()], 1_000
    hot = runtime.pixeltable_config.hot
    words = [f"word{number}" for number in range(500)]

    def content(number: int) -> str:
        return " ".join(words[(number * 7 + place * 31) % 500] for place in range(14))[:100].ljust(100, "x")

    with request_context(tenant_id=tenant_id, roles={"service"}):
        for person in people:
            batch = [sample_memory(person, content=content(number)) for number in range(count)]
            await runtime.memory.store_many(batch, {})
        await runtime.drain()
        hot.clear()
        await runtime.memory.retrieve("word1 word2", people[0])  # Models, statements and caches are not the tier's.
        gc.collect()
        tracemalloc.start()
        try:
            before, counted = tracemalloc.get_traced_memory()[0], hot.size_bytes()
            await runtime.memory.retrieve("word1 word2", people[1])
            gc.collect()
            taken = (tracemalloc.get_traced_memory()[0] - before) / count
        finally:
            tracemalloc.stop()
        counted = hot.size_bytes() - counted
    assert taken <= HOT_MEMORY_BYTES
    assert 0.7 * taken <= counted / count <= 1.5 * taken, f"{taken:.0f} bytes taken, {counted / count:.0f} counted"


@pytest.mark.parametrize("where", ["content", "metadata", "provenance"])
def test_what_a_memory_holds_is_counted_however_deep(where: str) -> None:
    deep = {f"key {number}": [number / 3, f"text {number}", {"more": [None, "ü" * 20]}] for number in range(500)}
    given = {"content": "ö" * 60_000} if where == "content" else {"content": "short", where: deep}
    encoded = encode_envelope(Envelope(user_id="u", source="s", **given))  # type: ignore[arg-type]
    gc.collect()
    tracemalloc.start()
    try:
        envelope = decode_envelope(encoded)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    counted = HotMemory("m", 1, "fact", 1.0, datetime.now(UTC), None, envelope).size_bytes()
    assert 0.7 * taken <= counted <= 1.5 * taken, f"{taken} bytes taken, {counted} counted"


async def test_many_readers_after_a_write_prepare_the_ranking_once(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, made = new_user(), []
    real = ranking._View.of

    def of(*given: Any) -> Any:
        made.append(threading.current_thread().name)
        return real(*given)

    with request_context(tenant_id=tenant_id, roles={"service"}):
        await filled(runtime, [person], memories=200)
        await runtime.memory.retrieve("note", person)
        await runtime.memory.store(sample_memory(person, content="one more note"), {})
        monkeypatch.setattr(ranking._View, "of", of)
        await asyncio.gather(*(runtime.memory.retrieve("note", person) for _ in range(16)))
    assert len(made) == 1
