"""The local provider never shows one person's memories as another's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.memory.embedding import HashingEmbedder
from src.memory.providers.local import LocalMemoryProvider
from src.memory.schemas import Memory
from src.testing.contracts import IsolationContract
from src.testing.strategies import filters, memories, user_ids


class TestMemoryIsolation(IsolationContract):
    """Zero leakage between people."""

    @pytest.fixture
    def provider(self) -> LocalMemoryProvider:
        return LocalMemoryProvider()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(memories(), min_size=1, max_size=6), user_ids, filters(), st.text(max_size=20))
    async def test_no_read_returns_anothers_memory(
        self, held: list[Memory], asking: str, wanted: dict[str, object], query: str
    ) -> None:
        provider = LocalMemoryProvider(embedder=HashingEmbedder())
        for memory in held:
            await provider.store(memory, {})
        for user in {asking, *(memory.user_id for memory in held)}:
            own = sorted(memory.content for memory in held if memory.user_id == user)
            searched = await provider.search(user, wanted, limit=1000)
            retrieved = await provider.retrieve(query.replace("\0", ""), user, limit=1000)
            assert all(memory.user_id == user for memory in searched)
            assert sorted(memory.content for memory in retrieved) == own
