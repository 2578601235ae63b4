"""Where a memory is does not show: in the hot tier, in intake, in Pixeltable, or in the local provider."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloud import CloudRuntime, request_context
from src.memory.embedding import WordLlamaEmbedder
from src.memory.protocols import MemoryProvider
from src.memory.providers.local import LocalMemoryProvider
from src.memory.schemas import Memory
from src.testing.samples import new_user, sample_memory
from src.testing.strategies import contents, filters, memories, storable_text

TENANT = "hot-and-cold"
_WORDS = ("tea", "green", "coffee", "deploys", "deploying", "fridays", "東京", "naïve", "42", "the")
_sentences = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=6).map(" ".join)
_queries = st.just("") | _sentences | storable_text
_sessions = st.sampled_from([{}, {"session": 1}, {"session": 1, "language": "de"}, {"conversation": "x"}])
_moments = st.sampled_from([datetime.min, datetime.max, datetime(2024, 5, 1), datetime(2024, 5, 1, 12, 0, 0, 1)])


@st.composite
def held(draw: st.DrawFn) -> list[Memory]:
    """Memories of one person; some alike, some made in the same moment."""
    drawn = draw(st.lists(memories(users=st.just("somebody")), min_size=1, max_size=7))
    return [
        memory.model_copy(
            update={
                "content": draw(_sentences | contents),
                "created_at": draw(
                    _moments.map(lambda moment: moment.replace(tzinfo=UTC)) | st.just(memory.created_at)
                ),
                "metadata": memory.metadata | draw(_sessions),
            }
        )
        for memory in drawn
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """A read."""

    query: str
    filters: dict[str, Any]
    limit: int


questions = st.builds(Question, _queries, st.just({}) | filters(), st.sampled_from([1, 2, 3, 1000]))

Answer = list[dict[str, Any]]


async def answers(provider: MemoryProvider, user: str, ids: list[str], asked: list[Question]) -> list[Answer]:
    """What a provider says to each question; memories are named by their place in `ids`."""
    said: list[Answer] = []
    for question in asked:
        for found in (
            await provider.retrieve(question.query, user, limit=question.limit),
            await provider.search(user, question.filters, limit=question.limit),
            await provider.search(user, {**question.filters, "query": question.query}, limit=question.limit),
        ):
            said.append([m.model_dump(exclude={"id", "last_accessed_at"}) | {"n": ids.index(str(m.id))} for m in found])
    by_id = [await provider.get_by_id(memory_id) for memory_id in ids]
    said.append([m.model_dump(exclude={"last_accessed_at", "id"}) if m else {} for m in by_id])
    return said


@pytest.fixture(scope="module")
def tenant(runtime: CloudRuntime) -> str:
    runtime.tenants.create(TENANT, plan="enterprise")
    return TENANT


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(held(), st.lists(questions, min_size=1, max_size=3), st.data())
@example(
    [sample_memory("somebody", content="a", created_at=datetime(1, 1, 1, tzinfo=UTC))], [Question("a", {}, 1)], None
)
async def test_every_way_to_a_memory_gives_the_same_answers(
    runtime: CloudRuntime, tenant: str, given_memories: list[Memory], asked: list[Question], data: st.DataObject | None
) -> None:
    user = new_user()
    wanted = [memory.model_copy(update={"user_id": user}) for memory in given_memories]
    cut = data.draw(st.integers(0, len(wanted))) if data else 0
    doomed = data.draw(st.lists(st.integers(0, len(wanted) - 1), unique=True, max_size=2)) if data else []
    local = LocalMemoryProvider(embedder=WordLlamaEmbedder())
    cloud, hot = runtime.memory, runtime.pixeltable_config.hot
    with request_context(tenant_id=tenant, roles={"service"}):
        local_ids, ids = [], []
        for memory in wanted[:cut]:
            local_ids.append(await local.store(memory, {}))
            ids.append(await cloud.store(memory, {}))
            # Held from the first one on, so that each further one advances a snapshot.
            await cloud.retrieve("", user)
        local_ids += await local.store_many(wanted[cut:], {})
        ids += await cloud.store_many(wanted[cut:], {})
        for place in doomed:
            assert await local.delete(local_ids[place])
            assert await cloud.delete(ids[place])
        expected = await answers(local, user, local_ids, asked)
        assert await answers(cloud, user, ids, asked) == expected
        hot.clear()
        assert await answers(cloud, user, ids, asked) == expected
        await runtime.drain()
        assert await answers(cloud, user, ids, asked) == expected
        hot.clear()
        assert await answers(cloud, user, ids, asked) == expected


async def test_what_is_stored_while_a_snapshot_is_held_is_found_next(runtime: CloudRuntime, tenant: str) -> None:
    user = new_user()
    with request_context(tenant_id=tenant, roles={"service"}):
        for number in range(8):
            memory_id = await runtime.memory.store(sample_memory(user, content=f"note {number}"), {})
            if number % 3 == 0:
                runtime.pixeltable_config.hot.clear()
            if number % 4 == 1:
                await runtime.drain()
            assert (await runtime.memory.search(user, {}, limit=1000))[0].id == memory_id
            assert len(await runtime.memory.retrieve("note", user, limit=1000)) == number + 1


async def test_the_hot_tier_counts_what_it_holds(runtime: CloudRuntime, tenant: str) -> None:
    user, hot = new_user(), runtime.pixeltable_config.hot
    with request_context(tenant_id=tenant, roles={"service"}):
        await runtime.memory.store(sample_memory(user), {})
        hot.clear()
        await runtime.memory.retrieve("", user)
        before = hot.size_bytes()
        for _ in range(5):
            memory_id = await runtime.memory.store(sample_memory(user, content="x" * 10_000), {})
            assert hot.size_bytes() > before
            assert await runtime.memory.delete(memory_id)
        await runtime.memory.retrieve("", user)
        assert hot.size_bytes() == before
