"""Layer 2: what each method of a provider promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from src.errors import InvalidFilterError, InvalidMemoryError
from src.memory.protocols import MemoryProvider
from src.memory.schemas import Memory, MemoryType
from src.testing.contracts.base import ProviderContract
from src.testing.samples import (
    INVALID_FILTERS,
    INVALID_MEMORIES,
    MALFORMED_IDS,
    SOON,
    InvalidFilter,
    InvalidSample,
    new_user,
    sample_memory,
)

_DAY_ONE = datetime(2024, 5, 1, 12, tzinfo=UTC)


class BehaviourContract(ProviderContract):
    """Layer 2: each method does what the protocol promises, and refuses what it must."""

    async def test_store_returns_a_new_id_each_time(self, provider: MemoryProvider) -> None:
        user = new_user()
        first, second = [await self.stored(provider, sample_memory(user)) for _ in range(2)]
        assert isinstance(first, str)
        assert first
        assert first != second

    async def test_what_was_stored_comes_back_in_full(self, provider: MemoryProvider) -> None:
        user = new_user()
        memory = Memory(
            user_id=user,
            content="Deploys on Fridays 🚀, says «никогда»\nand means it",
            memory_type=MemoryType.DECISION,
            confidence=0.25,
            source="adr",
            raw_source="  the original words\t",
            extraction_version=7,
            created_at=_DAY_ONE,
            expires_at=self.now() + timedelta(days=365),
            metadata={"nested": {"list": [1, 2.5, True, None, "x"]}, "ключ": "значение"},
            provenance={"chain": ["a", "b"]},
        )
        memory_id = await self.stored(provider, memory)
        with self.as_user(user):
            found = await provider.get_by_id(memory_id)
        assert found is not None
        assert found.id == memory_id
        unread = {"id", "last_accessed_at"}
        assert found.model_dump(exclude=unread) == memory.model_dump(exclude=unread)

    async def test_everything_returned_carries_its_id(self, provider: MemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            retrieved = await provider.retrieve("tabs", user)
            searched = await provider.search(user, {"query": "tabs"})
        assert [m.id for m in retrieved] == [m.id for m in searched] == [memory_id]

    async def test_store_ignores_the_id_of_its_input(self, provider: MemoryProvider) -> None:
        user = new_user()
        first = await self.stored(provider, sample_memory(user))
        second = await self.stored(provider, sample_memory(user, id=first))
        assert first != second
        assert {m.id for m in await self.everything(provider, user)} == {first, second}

    async def test_changing_what_was_given_or_returned_changes_nothing_stored(self, provider: MemoryProvider) -> None:
        user = new_user()
        memory = sample_memory(user, metadata={"tags": ["a"]})
        memory_id = await self.stored(provider, memory)
        memory.metadata["tags"].append("from outside")
        with self.as_user(user):
            for _ in range(2):
                returned = await provider.get_by_id(memory_id)
                assert returned is not None
                assert returned.metadata == {"tags": ["a"]}
                returned.metadata["tags"].append("from outside")
                returned.content = "changed"
            assert [m.content for m in await provider.retrieve("tabs", user)] == [memory.content]

    async def test_any_object_with_the_fields_of_a_memory_is_accepted(self, provider: MemoryProvider) -> None:
        user = new_user()
        foreign: Any = SimpleNamespace(**sample_memory(user).model_dump(exclude={"id"}))
        assert [m.id for m in await self.everything(provider, user)] == []
        memory_id = await self.stored(provider, foreign)
        assert [m.id for m in await self.everything(provider, user)] == [memory_id]

    async def test_times_come_back_aware_and_in_utc(self, provider: MemoryProvider) -> None:
        user = new_user()
        naive = await self.stored(provider, sample_memory(user, created_at=_DAY_ONE.replace(tzinfo=None)))
        with self.as_user(user):
            found = await provider.get_by_id(naive)
        assert found is not None
        assert found.created_at == _DAY_ONE
        assert found.created_at.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("moment", [datetime.min, datetime.max], ids=["year 1", "year 9999"])
    async def test_extreme_times_are_stored(self, provider: MemoryProvider, moment: datetime) -> None:
        user = new_user()
        await self.stored(provider, sample_memory(user, created_at=moment))
        assert [m.created_at for m in await self.everything(provider, user)] == [moment.replace(tzinfo=UTC)]

    @pytest.mark.parametrize("sample", INVALID_MEMORIES, ids=lambda sample: sample.label)
    async def test_invalid_memory_is_refused_by_field(self, provider: MemoryProvider, sample: InvalidSample) -> None:
        user = new_user()
        with pytest.raises(InvalidMemoryError) as refused, self.as_user(user):
            await provider.store(sample_memory(user).model_copy(update={sample.field: sample.value}), {})
        assert refused.value.field == sample.field
        assert await self.everything(provider, user) == []

    @pytest.mark.parametrize("case", INVALID_FILTERS, ids=lambda case: case.label)
    async def test_invalid_filter_is_refused_by_place(self, provider: MemoryProvider, case: InvalidFilter) -> None:
        user = new_user()
        await self.stored(provider, sample_memory(user))
        with pytest.raises(InvalidFilterError) as refused, self.as_user(user):
            await provider.search(user, case.filters)
        assert refused.value.place == case.place

    @pytest.mark.parametrize("limit", [0, -1, 1001, 2.0, True, "5", None])
    async def test_invalid_limit_is_refused(self, provider: MemoryProvider, limit: Any) -> None:
        user = new_user()
        with pytest.raises(InvalidFilterError, match="limit"), self.as_user(user):
            await provider.retrieve("q", user, limit=limit)
        with pytest.raises(InvalidFilterError, match="limit"), self.as_user(user):
            await provider.search(user, {}, limit=limit)

    @pytest.mark.parametrize("query", ["a\0b", "\ud800", "q" * (64 * 1024 + 1), 5, None])
    async def test_invalid_query_is_refused(self, provider: MemoryProvider, query: Any) -> None:
        user = new_user()
        with pytest.raises(InvalidFilterError, match="query"), self.as_user(user):
            await provider.retrieve(query, user)

    @pytest.mark.parametrize("memory_id", MALFORMED_IDS, ids=lambda memory_id: repr(memory_id[:40]))
    async def test_unknown_and_malformed_ids_are_absent(self, provider: MemoryProvider, memory_id: str) -> None:
        user = new_user()
        await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            assert await provider.get_by_id(memory_id) is None
            assert await provider.delete(memory_id) is False
        assert len(await self.everything(provider, user)) == 1

    async def test_limit_bounds_what_is_returned(self, provider: MemoryProvider) -> None:
        user = new_user()
        for number in range(12):
            await self.stored(provider, sample_memory(user, content=f"note {number}"))
        with self.as_user(user):
            assert len(await provider.retrieve("note", user)) == 5
            assert len(await provider.search(user, {})) == 10
            assert len(await provider.retrieve("note", user, limit=1)) == 1
            assert len(await provider.retrieve("note", user, limit=1000)) == 12
            assert len(await provider.search(user, {"query": "note"}, limit=3)) == 3

    async def test_retrieve_puts_the_relevant_memory_first(self, provider: MemoryProvider) -> None:
        user = new_user()
        contents = {
            "editor": "Uses Neovim as the editor for all Python work",
            "coffee": "Drinks oat milk coffee in the morning",
            "deploy": "Deploys to production from the release branch",
            "python": "Prefers pytest over unittest",
            "日本": "彼女は東京で働いている",
        }
        ids = {key: await self.stored(provider, sample_memory(user, content=text)) for key, text in contents.items()}
        with self.as_user(user):
            for query, key in {
                "which editor?": "editor",
                "deployment to production": "deploy",
                "morning coffee": "coffee",
                "東京": "日本",
            }.items():
                found = await provider.retrieve(query, user, limit=5)
                assert found[0].id == ids[key]
                assert len(found) == 5

    async def test_without_a_query_the_newest_come_first(self, provider: MemoryProvider) -> None:
        user = new_user()
        days = [3, 1, 2]
        ids = [await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(days=d))) for d in days]
        same_moment = await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(days=3)))
        expected = [*sorted([ids[0], same_moment]), ids[2], ids[1]]
        assert [m.id for m in await self.everything(provider, user)] == expected
        with self.as_user(user):
            assert [m.id for m in await provider.retrieve("", user)] == expected

    async def test_search_returns_what_satisfies_the_filter(self, provider: MemoryProvider) -> None:
        user = new_user()
        low = sample_memory(user, content="low", confidence=0.2, metadata={"n": 1, "deep": {"x": "y"}})
        high = sample_memory(
            user,
            content="high",
            memory_type=MemoryType.FACT,
            confidence=0.9,
            source="adr",
            created_at=_DAY_ONE,
            metadata={"n": "1", "flag": True},
        )
        for memory in (low, high):
            await self.stored(provider, memory)
        cases: list[tuple[dict[str, Any], set[str]]] = [
            ({}, {"low", "high"}),
            ({"memory_type": "fact"}, {"high"}),
            ({"memory_type": MemoryType.PREFERENCE}, {"low"}),
            ({"memory_type": {"$nin": ["fact", "decision"]}}, {"low"}),
            ({"source": {"$ne": "adr"}}, {"low"}),
            ({"min_confidence": 0.5}, {"high"}),
            ({"confidence": {"$gte": 0.2, "$lt": 0.9}}, {"low"}),
            ({"created_at": {"$lte": "2024-05-01T14:00:00+02:00"}}, {"high"}),
            ({"created_at": {"$gt": _DAY_ONE}}, {"low"}),
            ({"expires_at": {"$exists": False}}, {"low", "high"}),
            ({"expires_at": {"$lt": datetime.max}}, set()),
            ({"metadata.n": 1}, {"low"}),
            ({"metadata.n": "1"}, {"high"}),
            ({"metadata.flag": 1}, set()),
            ({"metadata.flag": True}, {"high"}),
            ({"metadata.flag": {"$ne": True}}, {"low"}),
            ({"metadata.deep.x": {"$in": ["y", None]}}, {"low"}),
            ({"metadata.deep": {"$exists": True}}, {"low"}),
            ({"$or": [{"source": "adr"}, {"metadata.n": 1}]}, {"low", "high"}),
            ({"$and": [{"source": "adr"}, {"metadata.n": 1}]}, set()),
            ({"$not": {"source": "adr"}}, {"low"}),
            ({"source": "adr", "query": "low"}, {"high"}),
            ({"source": "%"}, set()),
            ({"source": "ad_"}, set()),
        ]
        with self.as_user(user):
            for filters, expected in cases:
                found = [m.content for m in await provider.search(user, filters)]
                assert sorted(found) == sorted(expected), filters

    async def test_search_with_a_query_ranks_within_the_filter(self, provider: MemoryProvider) -> None:
        user = new_user()
        for content, source in (
            ("coffee with oat milk", "chat"),
            ("coffee machine broken", "ticket"),
            ("lunch at noon", "chat"),
        ):
            await self.stored(provider, sample_memory(user, content=content, source=source))
        with self.as_user(user):
            found = await provider.search(user, {"source": "chat", "query": "coffee"})
        assert [m.content for m in found] == ["coffee with oat milk", "lunch at noon"]

    async def test_expired_memory_is_absent_everywhere(self, provider: MemoryProvider) -> None:
        user = new_user()
        staying = await self.stored(provider, sample_memory(user))
        expires_at = self.now() + SOON
        memory_id = await self.stored(provider, sample_memory(user, content="for a moment", expires_at=expires_at))
        with self.as_user(user):
            before = await provider.get_by_id(memory_id)
            assert before is not None
            assert before.expires_at == expires_at
            await self.wait_until(expires_at)
            assert await provider.get_by_id(memory_id) is None
            assert [m.id for m in await provider.retrieve("for a moment", user)] == [staying]
            assert [m.id for m in await provider.search(user, {})] == [staying]
            assert [m.id for m in await provider.search(user, {"query": "for a moment"})] == [staying]
            assert await provider.delete(memory_id) is False

    async def test_include_invalid_shows_what_has_expired(self, provider: MemoryProvider) -> None:
        user = new_user()
        expires_at = self.now() + SOON
        expired = await self.stored(provider, sample_memory(user, content="for a moment", expires_at=expires_at))
        await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            await self.wait_until(expires_at)
            for filters in ({"include_invalid": True}, {"include_invalid": True, "query": "for a moment"}):
                found = [m.id for m in await provider.search(user, filters)]
                assert len(found) == 2
                assert expired in found
