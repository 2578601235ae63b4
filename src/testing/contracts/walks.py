"""What `list` and `count` of a `ManagedMemoryProvider` promise: each memory once, in order, also while others write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from src.errors import InvalidFilterError
from src.memory.protocols import ManagedMemoryProvider
from src.testing.contracts.base import ProviderContract
from src.testing.samples import (
    INVALID_FILTERS,
    InvalidFilter,
    new_user,
    sample_memory,
)

_DAY_ONE = datetime(2024, 5, 1, 12, tzinfo=UTC)


class WalkContract(ProviderContract):
    """Pages and counts show what they promise."""

    async def walked(
        self, provider: ManagedMemoryProvider, user: str, filters: dict[str, Any] | None = None, limit: int = 2
    ) -> list[str | None]:
        """The ids of all pages, in order."""
        ids: list[str | None] = []
        cursor = None
        with self.as_user(user):
            while True:
                page = await provider.list(user, filters=filters, limit=limit, cursor=cursor)
                assert len(page.memories) <= limit
                ids += [memory.id for memory in page.memories]
                cursor = page.next_cursor
                if cursor is None:
                    return ids

    async def test_walking_shows_each_memory_once_newest_first(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        days = [3, 1, 2, 3, 3, 1, 2]
        for day in days:
            await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(days=day)))
        expected = [memory.id for memory in await self.everything(provider, user)]
        for limit in (1, 2, 3, 7, 100):
            assert await self.walked(provider, user, limit=limit) == expected
        with self.as_user(user):
            assert await provider.count(user) == len(days)
            assert (await provider.list(user, limit=7)).next_cursor is None

    async def test_walking_within_a_filter_shows_what_satisfies_it(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        for number in range(9):
            await self.stored(provider, sample_memory(user, source="even" if number % 2 == 0 else "odd"))
        filters = {"source": {"$in": ["even", "nowhere"]}, "confidence": {"$gte": 0.5}}
        assert len(await self.walked(provider, user, filters)) == 5
        with self.as_user(user):
            assert await provider.count(user, filters) == 5
            # The order of what a filter says does not matter, not even between pages.
            page = await provider.list(user, filters=filters, limit=3)
            again = {"confidence": {"$gte": 0.5}, "source": {"$in": ["nowhere", "even"]}}
            assert len((await provider.list(user, filters=again, limit=3, cursor=page.next_cursor)).memories) == 2

    async def test_a_walk_is_complete_while_others_write(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        held = [
            await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(minutes=n)))
            for n in range(12)
        ]
        seen: list[str | None] = []
        cursor, doomed = None, {held[0], held[11]}
        for number in range(100):
            with self.as_user(user):
                page = await provider.list(user, limit=2, cursor=cursor)
                seen += [memory.id for memory in page.memories]
                cursor = page.next_cursor
                if cursor is None:
                    break
                # One before, one among, and one behind the place; one of those seen, and one of those to come.
                for at in (-number, number, 1000 + number):
                    await provider.store(sample_memory(user, created_at=_DAY_ONE + timedelta(minutes=at)), {})
                if number == 1:
                    for memory_id in doomed:
                        assert await provider.delete(memory_id)
                await provider.update(held[5], {"content": f"changed for the {number}th time"})
        assert len(set(seen)) == len(seen)
        assert set(held) - doomed <= set(seen)

    @pytest.mark.parametrize(
        "damage", ["truncated", "extended", "changed", "recoded", "empty", "number", "long", "nul"]
    )
    async def test_a_cursor_that_was_not_made_here_is_refused(
        self, provider: ManagedMemoryProvider, damage: str
    ) -> None:
        user = new_user()
        for _ in range(3):
            await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            cursor = (await provider.list(user, limit=1)).next_cursor
            assert cursor is not None
            flipped = "A" if cursor[20] != "A" else "B"
            damaged: dict[str, Any] = {
                "truncated": cursor[:-1],
                "extended": cursor + "A",
                "changed": cursor[:20] + flipped + cursor[21:],
                "recoded": cursor + "=",
                "empty": "",
                "number": 5,
                "long": cursor * 10_000,
                "nul": "\0" * len(cursor),
            }
            with pytest.raises(InvalidFilterError) as refused:
                await provider.list(user, limit=1, cursor=damaged[damage])
        assert refused.value.place == "cursor"

    async def test_a_cursor_of_another_walk_is_refused(self, provider: ManagedMemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        for user in (one, other):
            for _ in range(3):
                await self.stored(provider, sample_memory(user))
        with self.as_user(one):
            cursor = (await provider.list(one, limit=1)).next_cursor
            assert cursor is not None
            assert one not in cursor
            for filters in ({"source": "conversation"}, {"include_invalid": True}):
                with pytest.raises(InvalidFilterError, match="cursor"):
                    await provider.list(one, filters=filters, limit=1, cursor=cursor)
        for stranger in (other, new_user("nobody")):
            with self.as_user(stranger), pytest.raises(InvalidFilterError, match="cursor"):
                await provider.list(stranger, limit=1, cursor=cursor)

    @pytest.mark.parametrize("case", INVALID_FILTERS, ids=lambda case: case.label)
    async def test_walks_and_counts_refuse_invalid_filters(
        self, provider: ManagedMemoryProvider, case: InvalidFilter
    ) -> None:
        user = new_user()
        with self.as_user(user):
            with pytest.raises(InvalidFilterError) as listed:
                await provider.list(user, filters=case.filters)
            with pytest.raises(InvalidFilterError) as counted:
                await provider.count(user, case.filters)
        assert listed.value.place == counted.value.place == case.place

    async def test_walks_and_counts_do_not_rank(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        with self.as_user(user):
            with pytest.raises(InvalidFilterError, match="query"):
                await provider.list(user, filters={"query": "tea"})
            with pytest.raises(InvalidFilterError, match="query"):
                await provider.count(user, {"query": "tea"})
            for limit in (0, 1001, True):
                with pytest.raises(InvalidFilterError, match="limit"):
                    await provider.list(user, limit=limit)
