"""The open core's provider: the same ranking in memory, and nothing kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from src.memory.providers.local import LocalMemoryProvider
from tests.bench.contender import LIMIT, OPERATIONS, SEARCH_LIMIT, Place
from tests.bench.contenders.ours import FILTER, memory
from tests.bench.data import Item


class Local:
    """`LocalMemoryProvider`: what an operation costs without a disk, a tenant or a log."""

    title: ClassVar[str] = "LocalMemoryProvider"
    persistent: ClassVar[bool] = False
    callers: ClassVar[Literal["tasks", "threads"]] = "tasks"
    operations: ClassVar[frozenset[str]] = frozenset(OPERATIONS) - {"retrieve_cold"}
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("luminescent-cloud", "wordllama")

    def set_up(self, place: Place) -> None:
        self._provider = LocalMemoryProvider()

    async def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        for person, items in people.items():
            await self._provider.store_many([memory(person, item) for item in items], {})

    async def settle(self) -> None:
        """It has no background."""

    async def store(self, person: str, item: Item) -> str:
        return await self._provider.store(memory(person, item), {})

    async def retrieve(self, person: str, query: str) -> int:
        return len(await self._provider.retrieve(query, person, limit=LIMIT))

    def cool(self) -> None:
        raise NotImplementedError("what it holds is all there is")

    async def search(self, person: str) -> int:
        return len(await self._provider.search(person, FILTER, limit=SEARCH_LIMIT))

    async def search_text(self, person: str, query: str) -> int:
        return len(await self._provider.search(person, FILTER | {"query": query}, limit=SEARCH_LIMIT))

    async def delete(self, person: str, memory_id: str) -> None:
        if not await self._provider.delete(memory_id):
            raise RuntimeError("nothing was deleted")

    def disk_bytes(self) -> int:
        return 0

    def helpers(self) -> Sequence[int]:
        return []

    def close(self) -> None:
        """Nothing is open."""
