"""What every contract class stands on."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime

from src.memory.protocols import MemoryProvider
from src.memory.schemas import Memory


class ProviderContract:
    """What the contracts need of the subclass: a fixture `provider`, and where it matters these hooks."""

    def as_user(self, user_id: str) -> AbstractContextManager[object]:
        """Act on behalf of this person while the context lasts; a provider without callers needs nothing."""
        return nullcontext()

    def now(self) -> datetime:
        """The provider's present."""
        return datetime.now(UTC)

    async def wait_until(self, moment: datetime) -> None:
        """Return when the provider's present is past `moment`."""
        await asyncio.sleep(max(0.0, (moment - self.now()).total_seconds()) + 0.01)

    async def stored(self, provider: MemoryProvider, memory: Memory) -> str:
        """Store on behalf of the memory's own person."""
        with self.as_user(memory.user_id):
            return await provider.store(memory, {})

    async def everything(self, provider: MemoryProvider, user_id: str) -> list[Memory]:
        """All that can be found of the person."""
        with self.as_user(user_id):
            return await provider.search(user_id, {}, limit=1000)
