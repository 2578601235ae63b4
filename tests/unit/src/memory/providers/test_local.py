"""What the local provider does beyond the contract."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from src.errors import LuminescentError
from src.memory.embedding import HashingEmbedder
from src.memory.providers.local import DELETED_RETENTION, LocalMemoryProvider, ProviderFullError
from src.memory.schemas import Memory
from src.testing.samples import sample_memory

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that stands still until moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(clock: Clock) -> LocalMemoryProvider:
    return LocalMemoryProvider(embedder=HashingEmbedder(), clock=clock, max_memories_per_user=3)


async def test_reads_note_when_they_happened(provider: LocalMemoryProvider, clock: Clock) -> None:
    memory_id = await provider.store(sample_memory(last_accessed_at=START), {})
    for read in (
        lambda: provider.get_by_id(memory_id),
        lambda: provider.retrieve("tabs", "alice"),
        lambda: provider.search("alice", {}),
    ):
        clock.now += timedelta(hours=1)
        await read()
        found = await provider.get_by_id(memory_id)
        assert found is not None
        assert found.last_accessed_at == clock.now


async def test_what_is_not_returned_was_not_read(provider: LocalMemoryProvider, clock: Clock) -> None:
    await provider.store(sample_memory(last_accessed_at=START), {})
    clock.now += timedelta(hours=1)
    await provider.search("alice", {"source": "nowhere"})
    clock.now += timedelta(hours=1)
    held = provider._people["alice"].valid.values()
    assert [kept.memory.last_accessed_at for kept in held] == [START]


async def test_a_full_provider_refuses_and_deleting_or_expiring_makes_room(
    provider: LocalMemoryProvider, clock: Clock
) -> None:
    ids = await provider.store_many([sample_memory() for _ in range(2)], {})
    await provider.store(sample_memory(expires_at=START + timedelta(hours=1)), {})
    with pytest.raises(ProviderFullError) as refused:
        await provider.store(sample_memory(), {})
    assert refused.value.limit == 3
    assert isinstance(refused.value, LuminescentError)
    await provider.store(sample_memory("bob"), {})
    clock.now += timedelta(hours=1)
    await provider.store(sample_memory(), {})
    assert await provider.delete(ids[0])
    await provider.store(sample_memory(), {})


async def test_a_batch_that_does_not_fit_stores_nothing(provider: LocalMemoryProvider) -> None:
    with pytest.raises(ProviderFullError):
        await provider.store_many([sample_memory("bob"), *(sample_memory() for _ in range(4))], {})
    assert await provider.search("alice", {}) == []
    assert await provider.search("bob", {}) == []


async def test_deleting_an_expired_memory_removes_it_for_good(provider: LocalMemoryProvider, clock: Clock) -> None:
    memory_id = await provider.store(sample_memory(expires_at=START + timedelta(hours=1)), {})
    clock.now += timedelta(hours=1)
    assert await provider.delete(memory_id) is False
    assert await provider.search("alice", {"include_invalid": True}) == []


async def test_nothing_of_a_person_stays_once_the_last_deletion_is_past_undoing(
    provider: LocalMemoryProvider, clock: Clock
) -> None:
    memory_id = await provider.store(sample_memory(), {})
    assert await provider.delete(memory_id)
    clock.now += DELETED_RETENTION - timedelta(seconds=1)
    assert await provider.undelete(memory_id)
    assert await provider.delete(memory_id)
    clock.now += DELETED_RETENTION
    assert await provider.search("somebody else", {}) == []
    assert provider._people == {}
    assert provider._owner_of == {}
    assert await provider.undelete(memory_id) is False
    assert await provider.history(memory_id) == []


async def test_undeleting_into_a_full_provider_is_refused(provider: LocalMemoryProvider) -> None:
    memory_id = await provider.store(sample_memory(), {})
    assert await provider.delete(memory_id)
    await provider.store_many([sample_memory()] * 3, {})
    with pytest.raises(ProviderFullError):
        await provider.undelete(memory_id)
    assert await provider.get_by_id(memory_id) is None


async def test_expired_memories_do_not_change_how_others_rank(clock: Clock) -> None:
    with_expired = LocalMemoryProvider(embedder=HashingEmbedder(), clock=clock)
    without = LocalMemoryProvider(embedder=HashingEmbedder(), clock=clock)
    contents = ["editor vim", "editor coffee morning", "coffee", "friday deploy coffee"]
    for provider in (with_expired, without):
        await provider.store_many([sample_memory(content=c, created_at=START) for c in contents], {})
    soon = START + timedelta(hours=1)
    await with_expired.store_many([sample_memory(content="editor", expires_at=soon) for _ in range(9)], {})
    clock.now = soon
    ranked = [[m.content for m in await p.retrieve("editor coffee", "alice")] for p in (with_expired, without)]
    assert ranked[0] == ranked[1]


def test_threads_store_and_delete_without_loss(switching: None) -> None:
    provider = LocalMemoryProvider(embedder=HashingEmbedder())

    def life(number: int) -> str:
        async def run() -> str:
            kept, dropped = await provider.store_many([sample_memory(content=f"note {number}")] * 2, {})
            assert await provider.delete(dropped)
            assert await provider.retrieve("note", "alice", limit=1)
            return kept

        return asyncio.run(run())

    with ThreadPoolExecutor(8) as threads:
        kept = sorted(threads.map(life, range(100)))
    found = asyncio.run(provider.search("alice", {}, limit=1000))
    retrieved = asyncio.run(provider.retrieve("note", "alice", limit=1000))
    assert sorted(str(memory.id) for memory in found) == kept
    assert sorted(str(memory.id) for memory in retrieved) == kept


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads alternate as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class LocalProviderAgainstADict(RuleBasedStateMachine):
    """The provider against a dict, with time passing."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.provider = LocalMemoryProvider(embedder=HashingEmbedder(8), clock=self.clock)
        self.held: dict[str, Memory] = {}
        self.gone: list[str] = []

    @rule(user=st.sampled_from("ab"), lives_h=st.none() | st.integers(1, 3), made_h=st.integers(-3, 3))
    def store(self, user: str, lives_h: int | None, made_h: int) -> None:
        memory = sample_memory(
            user,
            content=f"note {len(self.held)}",
            created_at=START + timedelta(hours=made_h),
            expires_at=None if lives_h is None else self.clock.now + timedelta(hours=lives_h),
        )
        self.held[asyncio.run(self.provider.store(memory, {}))] = memory

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        memory_id = data.draw(st.sampled_from(sorted(self.held)))
        assert asyncio.run(self.provider.delete(memory_id)) is True
        del self.held[memory_id]
        self.gone.append(memory_id)

    @rule()
    def time_passes(self) -> None:
        self.clock.now += timedelta(hours=1)
        for memory_id, memory in list(self.held.items()):
            if memory.expires_at is not None and memory.expires_at <= self.clock.now:
                del self.held[memory_id]
                self.gone.append(memory_id)

    @invariant()
    def finds_exactly_what_is_held(self) -> None:
        for user in "ab":
            theirs = {memory_id: m for memory_id, m in self.held.items() if m.user_id == user}
            newest = sorted(sorted(theirs), key=lambda memory_id: theirs[memory_id].created_at, reverse=True)
            searched = asyncio.run(self.provider.search(user, {}, limit=1000))
            retrieved = asyncio.run(self.provider.retrieve("note", user, limit=1000))
            assert [m.id for m in searched] == newest
            assert sorted(str(m.id) for m in retrieved) == sorted(theirs)
        for memory_id in self.gone:
            assert asyncio.run(self.provider.get_by_id(memory_id)) is None


TestAgainstADict = LocalProviderAgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
