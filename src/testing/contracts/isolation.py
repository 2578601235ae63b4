"""No person's memories are found as another's."""

from __future__ import annotations

from typing import Any

import pytest

from src.errors import InvalidFilterError
from src.memory.protocols import MemoryProvider
from src.testing.contracts.base import ProviderContract
from src.testing.samples import HOSTILE_USER_IDS, new_user, sample_memory


class IsolationContract(ProviderContract):
    """No person's memories are found as another's, whatever they call themselves."""

    async def test_users_cannot_find_each_others_memories(self, provider: MemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        await self.stored(provider, sample_memory(one, content="the secret of one"))
        theirs = await self.stored(provider, sample_memory(other, content="the secret of other"))
        with self.as_user(other):
            for found in (
                await provider.retrieve("the secret of one", other, limit=1000),
                await provider.search(other, {}, limit=1000),
                await provider.search(other, {"query": "the secret of one"}, limit=1000),
                await provider.search(other, {"$not": {"source": "nowhere"}, "include_invalid": True}, limit=1000),
            ):
                assert [(m.id, m.user_id) for m in found] == [(theirs, other)]

    async def test_hostile_user_ids_are_exact_and_never_patterns(self, provider: MemoryProvider) -> None:
        mine = {user: await self.stored(provider, sample_memory(user)) for user in HOSTILE_USER_IDS}
        for user, memory_id in mine.items():
            with self.as_user(user):
                retrieved = await provider.retrieve("tabs", user, limit=1000)
                searched = await provider.search(user, {}, limit=1000)
                assert {m.user_id for m in (*retrieved, *searched)} == {user}
                assert memory_id in {m.id for m in retrieved}
                assert not {m.id for m in (*retrieved, *searched)} & (set(mine.values()) - {memory_id})
                assert await provider.delete(memory_id) is True

    async def test_part_of_a_user_id_finds_nothing(self, provider: MemoryProvider) -> None:
        user = new_user()
        await self.stored(provider, sample_memory(user))
        for near in (user[:-1], user + "x", user.upper(), f" {user}", f"{user} ", f"%{user}", f"{user}%"):
            with self.as_user(near):
                assert await provider.retrieve("tabs", near) == []
                assert await provider.search(near, {}) == []

    @pytest.mark.parametrize("user_id", ["", "  ", "a\nb", "\0", "\ud800", "u" * 257, None, 5])
    async def test_reads_refuse_what_is_nobodys_id(self, provider: MemoryProvider, user_id: Any) -> None:
        with self.as_user(new_user()):
            with pytest.raises(InvalidFilterError, match="user_id"):
                await provider.retrieve("q", user_id)
            with pytest.raises(InvalidFilterError, match="user_id"):
                await provider.search(user_id, {})

    async def test_deleting_ones_memory_leaves_the_others(self, provider: MemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        mine = await self.stored(provider, sample_memory(one))
        theirs = await self.stored(provider, sample_memory(other))
        with self.as_user(one):
            assert await provider.delete(mine) is True
        assert [m.id for m in await self.everything(provider, other)] == [theirs]


class CallerIsolationContract(ProviderContract):
    """For providers that know who is calling (`as_user` is not empty): an id does not open what is another's."""

    async def test_anothers_memory_looks_absent(self, provider: MemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        memory_id = await self.stored(provider, sample_memory(one))
        with self.as_user(other):
            assert await provider.get_by_id(memory_id) is None
            assert await provider.delete(memory_id) is False
        with self.as_user(one):
            assert await provider.get_by_id(memory_id) is not None
