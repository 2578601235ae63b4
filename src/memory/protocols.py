"""The protocol of a memory provider: everything an agent needs of its memory."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from src.memory.schemas import Memory

MEMORY_PROVIDER_VERSION = "1.0.0"
"""Semantic version of `MemoryProvider`: major for changed signatures, minor for additions, patch for words."""


@runtime_checkable
class MemoryProvider(Protocol):
    """Keeps memories of people and finds them again; no call ever shows one person's memories as another's.

    The contract of every provider, which `src.testing` checks:

    - What `store` returned an id for is found at once, by every way of reading, until it is deleted or expires.
    - A memory that was deleted, or whose `expires_at` has come, is absent: the same answer as one that never was.
    - User ids are compared exactly. They are never patterns, prefixes or parts of a query.
    - What is returned are copies with their `id` set; changing one changes nothing that is stored.
    - A refused call has no effect.
    """

    async def store(self, memory: Memory, context: dict[str, Any]) -> str:
        """Store a copy of a memory; when this returns, it can be found.

        Args:
            memory: What to remember. Its `id` is ignored.
            context: Who is asking and how, as far as the provider wants to know; may be empty.

        Returns:
            The new memory's id.

        Raises:
            InvalidMemoryError: A field cannot be stored; the error names it.
        """
        ...

    async def retrieve(self, query: str, user_id: str, limit: int = 5) -> list[Memory]:
        """The person's memories that fit the query best, best first.

        Args:
            query: Text in natural language, at most 64 KiB; may be empty, then the newest come first.
            user_id: Whose memories to look through.
            limit: How many to return at most, 1 to 1,000.

        Returns:
            As many as there are, up to `limit`; also those that fit little, after those that fit well.

        Raises:
            InvalidFilterError: The query, the user id or the limit cannot be understood.
        """
        ...

    async def get_by_id(self, memory_id: str) -> Memory | None:
        """The memory with this id, or `None` if there is none to be seen by the caller.

        Args:
            memory_id: An id that `store` returned; anything else is the id of no memory.

        Returns:
            A copy, or `None`.
        """
        ...

    async def delete(self, memory_id: str) -> bool:
        """Delete the memory with this id; when this returns, it cannot be found.

        Args:
            memory_id: An id that `store` returned; anything else is the id of no memory.

        Returns:
            Whether there was such a memory, to be seen by the caller, before this call.
        """
        ...

    async def search(self, user_id: str, filters: dict[str, Any], limit: int = 10) -> list[Memory]:
        """The person's memories that satisfy the filter, and no others.

        Args:
            user_id: Whose memories to look through.
            filters: A filter in the grammar of `src.memory.filters`; an empty one is satisfied by all.
            limit: How many to return at most, 1 to 1,000.

        Returns:
            With `query` in the filter, best fit first; without, newest first and by id within one moment.

        Raises:
            InvalidFilterError: The filter, the user id or the limit cannot be understood.
        """
        ...
