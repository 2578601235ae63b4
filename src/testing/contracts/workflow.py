"""Layer 3: whole lives of memories."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from src.errors import InvalidMemoryError
from src.memory.protocols import MemoryProvider
from src.memory.schemas import Memory
from src.testing.contracts.base import ProviderContract
from src.testing.samples import new_user, sample_memory


class WorkflowContract(ProviderContract):
    """Layer 3: whole lives of memories."""

    async def test_complete_crud_workflow(self, provider: MemoryProvider) -> None:
        user = new_user()
        with self.as_user(user):
            memory_id = await provider.store(sample_memory(user), {})
            found = await provider.get_by_id(memory_id)
            assert found is not None
            assert found.content == sample_memory(user).content
            assert [m.id for m in await provider.retrieve("tabs or spaces?", user)] == [memory_id]
            assert [m.id for m in await provider.search(user, {"memory_type": "preference"})] == [memory_id]

            assert await provider.delete(memory_id) is True
            assert await provider.get_by_id(memory_id) is None
            assert await provider.retrieve("tabs or spaces?", user) == []
            assert await provider.search(user, {"include_invalid": True}) == []
            assert await provider.delete(memory_id) is False

    async def test_same_content_again_after_deletion_is_a_new_memory(self, provider: MemoryProvider) -> None:
        user = new_user()
        first = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            assert await provider.delete(first)
        second = await self.stored(provider, sample_memory(user))
        assert first != second
        assert [m.id for m in await self.everything(provider, user)] == [second]

    async def test_concurrent_writes_are_all_found_once(self, provider: MemoryProvider) -> None:
        user = new_user()
        with self.as_user(user):
            ids = await asyncio.gather(
                *(provider.store(sample_memory(user, content=f"note {n}"), {}) for n in range(20))
            )
            assert len(set(ids)) == 20
            deleted = await asyncio.gather(*(provider.delete(memory_id) for memory_id in ids[:10]))
        assert deleted == [True] * 10
        assert {m.id: m.content for m in await self.everything(provider, user)} == {
            memory_id: f"note {n}" for n, memory_id in enumerate(ids) if n >= 10
        }

    async def test_a_memory_deleted_twice_at_once_is_deleted_once(self, provider: MemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            answers = await asyncio.gather(*(provider.delete(memory_id) for _ in range(5)))
        assert sorted(answers) == [False] * 4 + [True]


class BatchProvider(MemoryProvider, Protocol):
    """A provider that also stores several memories at once."""

    async def store_many(self, memories: Sequence[Memory], context: dict[str, Any]) -> list[str]:
        """Store all of the memories, or none; the ids are in their order."""
        ...


class BatchContract(ProviderContract):
    """For providers with `store_many`."""

    async def test_ids_are_in_the_order_of_the_memories(self, provider: BatchProvider) -> None:
        user = new_user()
        with self.as_user(user):
            ids = await provider.store_many([sample_memory(user, content=f"note {n}") for n in range(7)], {})
            found = [await provider.get_by_id(memory_id) for memory_id in ids]
        assert [m.content for m in found if m is not None] == [f"note {n}" for n in range(7)]

    async def test_one_invalid_memory_refuses_all(self, provider: BatchProvider) -> None:
        user = new_user()
        with pytest.raises(InvalidMemoryError) as refused, self.as_user(user):
            await provider.store_many([sample_memory(user), sample_memory(user, content="")], {})
        assert refused.value.field == "content"
        assert await self.everything(provider, user) == []

    async def test_nothing_to_store_is_no_fault(self, provider: BatchProvider) -> None:
        with self.as_user(new_user()):
            assert await provider.store_many([], {}) == []
