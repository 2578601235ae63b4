"""`CloudMemoryProvider`: the published protocol over tenants, quotas, audit and sealed storage."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    ConfigurationError,
    InvalidMemoryError,
)
from cloud.memory.config import PixeltableConfig
from cloud.memory.reading import MemoryReader
from cloud.memory.snapshots import SnapshotLoader
from cloud.memory.writing import MemoryWriter, UsageGate
from cloud.tenancy.admission import Admissions, Admitted
from src.extensions import AuditLogger, ExtensionRegistry, TenantProvider, UsageTracker
from src.memory.filters import parse_filters
from src.memory.schemas import Memory
from src.memory.validation import accept, check_limit, check_query, check_user_id

_T = TypeVar("_T")

_THREADS: Final = 16
_MAX_BATCH: Final = 10_000
_KEY_CHARACTERS: Final = 256


class CloudMemoryProvider:
    """`MemoryProvider` that keeps each tenant's memories apart, sealed, counted and audited.

    Args:
        pixeltable_config: An opened installation.
        tenant_provider: Names the caller's tenant and its filter; every query carries the filter.
        audit_logger: Records every operation; from the registry when left out.
        usage_tracker: Decides quotas; from the registry when left out.

    Raises:
        ConfigurationError: There is no logger or tracker, or it cannot take part in a write's transaction.
    """

    def __init__(
        self,
        pixeltable_config: PixeltableConfig,
        tenant_provider: TenantProvider,
        audit_logger: AuditLogger | None = None,
        usage_tracker: UsageTracker | None = None,
    ) -> None:
        registry = ExtensionRegistry.get()
        audit = _transactional_logger(audit_logger if audit_logger is not None else registry.audit_logger)
        usage = _transactional_tracker(usage_tracker if usage_tracker is not None else registry.usage_tracker)
        self.tenant_provider = tenant_provider
        self.audit_logger = audit
        self.usage_tracker = usage
        self._clock = pixeltable_config.clock
        self._admissions = Admissions(tenant_provider, pixeltable_config.identities, audit)
        loader = SnapshotLoader(
            pixeltable_config.ledger, pixeltable_config.rows, pixeltable_config.vectorizer, pixeltable_config.hot
        )
        self._writer = MemoryWriter(pixeltable_config, loader, audit, usage)
        self._reader = MemoryReader(pixeltable_config, loader)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="luminescent-memory")

    async def store(self, memory: Memory, context: Mapping[str, object]) -> str:
        """Accept one memory: durable, counted and recorded when this returns, and found by every process.

        Args:
            memory: The memory; objects of the open core's published `Memory` are accepted too.
            context: May name `tenant_id`, `user_id`, `authorization`, `x-tenant-id` and `idempotency_key`.

        Returns:
            The memory's id, a UUIDv7.

        Raises:
            InvalidMemoryError: A field is out of range; names it.
            QuotaExceededError: The tenant's quota is used up.
            IdempotencyConflictError: The idempotency key stood for another memory before.
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not decided in time; repeat it with an idempotency key.
        """
        return (await self._run(lambda: self._store(Action.MEMORY_STORE, (memory,), context)))[0]

    async def store_many(self, memories: Sequence[Memory], context: Mapping[str, object]) -> list[str]:
        """Accept all memories, at most 10,000, or none; otherwise as `store`.

        Returns:
            Their ids, in the order given.
        """
        return list(await self._run(lambda: self._store(Action.MEMORY_STORE_MANY, memories, context)))

    async def retrieve(self, query: str, user_id: str, limit: int = 5) -> list[Memory]:
        """The memories of `user_id` that fit `query` best, best first.

        Args:
            query: Text to compare with.
            user_id: Whose memories.
            limit: 1–1,000.

        Raises:
            InvalidFilterError: The query or the limit is out of range, or the user id is none.
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not answered in time.
        """

        def work() -> list[Memory]:
            admitted = self._admitted(Action.MEMORY_RETRIEVE, {}, user_id)
            arguments = self._checked(
                admitted, lambda: (check_query(query), check_user_id(user_id), check_limit(limit))
            )
            return self._checked(admitted, lambda: self._reader.retrieve(admitted, *arguments))

        return await self._run(work)

    async def get_by_id(self, memory_id: str) -> Memory | None:
        """One memory, or `None`: an absent one, another tenant's and one the caller may not know look the same.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not answered in time.
        """

        def work() -> Memory | None:
            admitted = self._admitted(Action.MEMORY_GET, {}, None)
            return self._checked(
                admitted, lambda: self._reader.get(admitted, memory_id, self._writer.own_subject(admitted))
            )

        return await self._run(work)

    async def delete(self, memory_id: str) -> bool:
        """Delete one memory: gone for every process when this returns, and its stock is given back.

        Returns:
            Whether there was one to delete for this caller.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not decided in time.
        """

        def work() -> bool:
            admitted = self._admitted(Action.MEMORY_DELETE, {}, None)
            return self._checked(admitted, lambda: self._writer.delete(admitted, memory_id))

        return await self._run(work)

    async def search(self, user_id: str, filters: Mapping[str, object], limit: int = 10) -> list[Memory]:
        """The memories of `user_id` that pass `filters`: newest first, or ranked where the filters have a `query`.

        Args:
            user_id: Whose memories.
            filters: The grammar of `src.memory.filters`; the tenant is not a field of it.
            limit: 1–1,000.

        Raises:
            InvalidFilterError: A field, operator or operand is unknown, the limit is out of range, or the user id is
                none; names the place.
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not answered in time.
        """

        def work() -> list[Memory]:
            admitted = self._admitted(Action.MEMORY_SEARCH, {}, user_id)
            user, request, most = self._checked(
                admitted, lambda: (check_user_id(user_id), parse_filters(filters), check_limit(limit))
            )
            return self._checked(admitted, lambda: self._reader.search(admitted, user, request, most))

        return await self._run(work)

    def close(self) -> None:
        """Let the threads end once their calls have."""
        self._threads.shutdown(wait=True)

    def _store(self, action: Action, memories: object, context: Mapping[str, object]) -> tuple[str, ...]:
        given = tuple(memories) if isinstance(memories, Iterable) else None
        named = {user_id for memory in given or () if isinstance(user_id := getattr(memory, "user_id", None), str)}
        admitted = self._admitted(action, context, next(iter(named)) if len(named) == 1 else None)
        if admitted.only_own and len(named) > 1:
            admitted = self._admitted(action, context, next(u for u in named if u != admitted.scope.principal.user_id))
        accepted, key = self._checked(admitted, lambda: (self._accepted(given), _idempotency_key(context)))
        return self._checked(admitted, lambda: self._writer.store(admitted, accepted, idempotency_key=key))

    def _accepted(self, memories: Sequence[object] | None) -> list[Memory]:
        if memories is None:
            raise InvalidMemoryError(field="memories", reason="must be a sequence of memories")
        if len(memories) > _MAX_BATCH:
            raise InvalidMemoryError(field="memories", reason=f"holds more than {_MAX_BATCH} memories")
        now = self._clock()
        return [accept(memory, now) for memory in memories]

    def _admitted(self, action: Action, context: Mapping[str, object], user_id: object) -> Admitted:
        return self._admissions.admit(action, context, user_id=user_id if isinstance(user_id, str) else None)

    def _checked(self, admitted: Admitted, check: Callable[[], _T]) -> _T:
        """What `check` returns; an invalid request or a part that fails is recorded before its error is raised."""
        with recorded_failure(self.audit_logger, admitted.draft, admitted.scope.tenant_id):
            return check()

    async def _run(self, work: Callable[[], _T]) -> _T:
        # The caller's context travels along: who is calling is decided on the thread.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, telemetry.observed, work)


def _transactional_logger(logger: object) -> TransactionalAuditLogger:
    if isinstance(logger, TransactionalAuditLogger):
        return logger
    raise ConfigurationError(
        "the memory provider needs an audit logger that commits with its writes (TransactionalAuditLogger):"
        " pass one, or register the cloud extensions first"
    )


def _transactional_tracker(tracker: object) -> UsageGate:
    if isinstance(tracker, UsageGate):
        return tracker
    raise ConfigurationError(
        "the memory provider needs a usage tracker that decides with its writes (TransactionalUsageTracker):"
        " pass one, or register the cloud extensions first"
    )


def _idempotency_key(context: Mapping[str, object]) -> str | None:
    key = context.get("idempotency_key") if context else None
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= _KEY_CHARACTERS:
        raise InvalidMemoryError(field="idempotency_key", reason=f"must be a text of 1 to {_KEY_CHARACTERS} characters")
    return key
