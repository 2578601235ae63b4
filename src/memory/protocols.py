"""The protocols of a memory provider: what an agent needs of its memory, and what whoever looks after it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from src.memory.lifecycle import MemoryChange, MemoryPage
from src.memory.schemas import Memory

MEMORY_PROVIDER_VERSION = "1.0.0"
"""Semantic version of `MemoryProvider`: major for changed signatures, minor for additions, patch for words."""

MANAGED_MEMORY_PROVIDER_VERSION = "1.0.0"
"""The same for `ManagedMemoryProvider`."""


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


@runtime_checkable
class ManagedMemoryProvider(MemoryProvider, Protocol):
    """A provider whose memories can be changed, listed and followed through their lives.

    Beside the contract of `MemoryProvider`:

    - What a call changed is what every way of reading shows as soon as it returns; the old text finds nothing any more.
    - A memory that the caller may not see is absent for these methods too: `MemoryNotFoundError` from those that must
      have one (`update`, `supersede`), `False` or nothing from the others.
    - A superseded memory is found as an expired one is: with `include_invalid` alone.
    - `store` with `report_duplicates` in its context returns a `StoredMemoryId`.
    """

    async def update(self, memory_id: str, changes: Mapping[str, Any], *, expected_revision: int | None = None) -> int:
        """Give fields of a memory new values; what is not named stays as it is.

        Args:
            memory_id: The memory.
            changes: Values by name of a field of `Memory`, except `id`, `user_id` and `last_accessed_at`.
            expected_revision: Change it only if it still has this revision, as a call before returned or `history`
                shows it; whatever it has if `None`.

        Returns:
            Its new revision. A memory begins with 1.

        Raises:
            InvalidMemoryError: A name is no field's, a field cannot be changed, or a value cannot be stored.
            MemoryNotFoundError: There is none to be seen by the caller.
            RevisionConflictError: It has another revision; nothing was changed.
        """
        ...

    async def supersede(self, memory_id: str, memory: Memory, context: dict[str, Any]) -> str:
        """Store a memory that takes the place of another one of the same person, both or nothing.

        Args:
            memory_id: The memory that is no longer true.
            memory: What is true now. Its `id` is ignored.
            context: As for `store`.

        Returns:
            The new memory's id.

        Raises:
            InvalidMemoryError: A field cannot be stored; the error names it.
            MemoryNotFoundError: There is none of this person to be seen by the caller.
        """
        ...

    async def undelete(self, memory_id: str) -> bool:
        """Bring a deleted memory back, as it was; for as long as the provider keeps deleted ones.

        Args:
            memory_id: The memory.

        Returns:
            Whether it was brought back: `False` if it is not deleted, has expired meanwhile, was kept long enough, or
            is not to be seen by the caller.
        """
        ...

    async def history(self, memory_id: str) -> list[MemoryChange]:
        """Who changed a memory when, oldest first; a deleted, superseded or expired one's too, while it is kept.

        Args:
            memory_id: The memory.

        Returns:
            Its changes, of which the first is `STORED`; empty if there is none to be seen by the caller. No line holds
            content.
        """
        ...

    async def list(
        self, user_id: str, *, filters: dict[str, Any] | None = None, limit: int = 100, cursor: str | None = None
    ) -> MemoryPage:
        """A page of the person's memories that satisfy the filter, newest first and by id within one moment.

        Walking all pages shows each memory that satisfies it throughout exactly once, whatever is written meanwhile,
        unless its `created_at` is changed.

        Args:
            user_id: Whose memories to go through.
            filters: As for `search`, without `query`; `None` for all.
            limit: How many to a page at most, 1 to 1,000.
            cursor: `next_cursor` of the page before, asked for with the same person and filter; `None` to begin.

        Raises:
            InvalidFilterError: The filter, the user id, the limit or the cursor cannot be understood.
        """
        ...

    async def count(self, user_id: str, filters: dict[str, Any] | None = None) -> int:
        """How many memories of the person satisfy the filter.

        Args:
            user_id: Whose memories to count.
            filters: As for `list`.

        Raises:
            InvalidFilterError: The filter or the user id cannot be understood.
        """
        ...
