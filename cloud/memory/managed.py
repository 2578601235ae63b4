"""The provider's methods beyond the published five: changing, following and going through memories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.memory.calls import Calls, idempotency_key
from cloud.memory.managing import MemoryManager
from src.memory.filters import parse_walk
from src.memory.lifecycle import MemoryChange, MemoryPage
from src.memory.schemas import Memory
from src.memory.validation import accept, accept_changes, check_limit, check_revision, check_user_id

# Within the class, `list` is one of its methods.
_Changes: TypeAlias = list[MemoryChange]


class ManagedMemories:
    """What `CloudMemoryProvider` adds to `MemoryProvider`, under the same guarantees.

    Each method raises `AuthenticationError`, `PermissionDeniedError` or `TenantIsolationError` if the caller may not
    do this, and `ProviderUnavailableError` if it was not decided in time.
    """

    _calls: Calls
    _manager: MemoryManager
    _clock: Clock

    async def update(self, memory_id: str, changes: Mapping[str, Any], *, expected_revision: int | None = None) -> int:
        """Give fields of a memory new values: re-sealed, re-embedded, and read by every process when this returns.

        Args:
            memory_id: The memory.
            changes: Values by name of a field of `Memory`, except `id`, `user_id` and `last_accessed_at`.
            expected_revision: Change it only if it still has this revision.

        Returns:
            Its new revision.

        Raises:
            InvalidMemoryError: A name is no field's, a field cannot be changed, or a value is out of range.
            MemoryNotFoundError: There is none for this caller.
            RevisionConflictError: It has another revision.
            QuotaExceededError: The new one does not fit; nothing was changed.
        """

        def work() -> int:
            admitted = self._calls.admitted(Action.MEMORY_UPDATE, {}, None)
            accepted, expected = self._calls.checked(
                admitted, lambda: (accept_changes(changes, self._clock()), check_revision(expected_revision))
            )
            return self._calls.checked(admitted, lambda: self._manager.update(admitted, memory_id, accepted, expected))

        return await self._calls.run(work)

    async def supersede(self, memory_id: str, memory: Memory, context: Mapping[str, object]) -> str:
        """Store a memory in the place of another one of the same person, in one transaction.

        Args:
            memory_id: The memory that is no longer true; from now on found with `include_invalid` alone.
            memory: What is true now.
            context: As for `store`; `idempotency_key` counts.

        Returns:
            The new memory's id.

        Raises:
            InvalidMemoryError: A field is out of range; names it.
            MemoryNotFoundError: There is none of this person for this caller.
            QuotaExceededError: The new one does not fit; nothing was changed.
            IdempotencyConflictError: The key stood for another request before.
        """

        def work() -> str:
            admitted = self._calls.admitted(Action.MEMORY_SUPERSEDE, context, getattr(memory, "user_id", None))
            accepted, key = self._calls.checked(
                admitted, lambda: (accept(memory, self._clock()), idempotency_key(context))
            )
            return self._calls.checked(
                admitted, lambda: self._manager.supersede(admitted, memory_id, accepted, idempotency_key=key)
            )

        return await self._calls.run(work)

    async def undelete(self, memory_id: str) -> bool:
        """Bring a deleted memory back within the retention time, and charge its stock again.

        Returns:
            Whether there was one to bring back for this caller.

        Raises:
            QuotaExceededError: It does not fit any more; it stays deleted.
        """

        def work() -> bool:
            admitted = self._calls.admitted(Action.MEMORY_UNDELETE, {}, None)
            return self._calls.checked(admitted, lambda: self._manager.undelete(admitted, memory_id))

        return await self._calls.run(work)

    async def history(self, memory_id: str) -> _Changes:
        """Who changed a memory when, oldest first, for as long as it is kept; no content.

        Returns:
            Its changes, each with the actor's kind and id as the audit log names them; empty if there is none for this
            caller.
        """

        def work() -> _Changes:
            admitted = self._calls.admitted(Action.MEMORY_HISTORY, {}, None)
            return self._calls.checked(admitted, lambda: self._manager.history(admitted, memory_id))

        return await self._calls.run(work)

    async def list(
        self,
        user_id: str,
        *,
        filters: Mapping[str, object] | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> MemoryPage:
        """A page of the person's memories that pass the filter, newest first and by id within one moment.

        Args:
            user_id: Whose memories.
            filters: The grammar of `src.memory.filters` without `query`; `None` for all.
            limit: 1–1,000.
            cursor: `next_cursor` of the page before, of the same person and filter.

        Raises:
            InvalidFilterError: The filter, the limit, the user id or the cursor is none.
        """

        def work() -> MemoryPage:
            admitted = self._calls.admitted(Action.MEMORY_LIST, {}, user_id)
            user, request, most = self._calls.checked(
                admitted, lambda: (check_user_id(user_id), parse_walk(filters), check_limit(limit))
            )
            return self._calls.checked(
                admitted, lambda: self._manager.page(admitted, user, request, limit=most, cursor=cursor)
            )

        return await self._calls.run(work)

    async def count(self, user_id: str, filters: Mapping[str, object] | None = None) -> int:
        """How many memories of the person pass the filter.

        Args:
            user_id: Whose memories.
            filters: As for `list`.

        Raises:
            InvalidFilterError: The filter or the user id is none.
        """

        def work() -> int:
            admitted = self._calls.admitted(Action.MEMORY_COUNT, {}, user_id)
            user, request = self._calls.checked(admitted, lambda: (check_user_id(user_id), parse_walk(filters)))
            return self._calls.checked(admitted, lambda: self._manager.count(admitted, user, request))

        return await self._calls.run(work)
