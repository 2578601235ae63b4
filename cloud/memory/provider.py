"""`CloudMemoryProvider`: the published protocol over tenants, quotas, audit and sealed storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, InvalidMemoryError
from cloud.memory.calls import Calls, idempotency_key
from cloud.memory.config import PixeltableConfig
from cloud.memory.duplicates import DuplicateFinder
from cloud.memory.managed import ManagedMemories
from cloud.memory.managing import MemoryManager
from cloud.memory.reading import MemoryReader
from cloud.memory.snapshots import SnapshotLoader
from cloud.memory.writing import MemoryWriter, UsageGate
from cloud.tenancy.admission import Admissions, Admitted
from src.extensions import AuditLogger, ExtensionRegistry, TenantProvider, UsageTracker
from src.memory.filters import parse_filters
from src.memory.schemas import Memory
from src.memory.validation import accept, check_limit, check_query, check_user_id, wants_duplicates

_MAX_BATCH: Final = 10_000


class CloudMemoryProvider(ManagedMemories):
    """`ManagedMemoryProvider` that keeps each tenant's memories apart, sealed, counted and audited.

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
        self._calls = Calls(Admissions(tenant_provider, pixeltable_config.identities, audit), audit)
        loader = SnapshotLoader(
            pixeltable_config.ledger, pixeltable_config.rows, pixeltable_config.models, pixeltable_config.hot
        )
        self._writer = MemoryWriter(pixeltable_config, loader, audit, usage)
        self._reader = MemoryReader(pixeltable_config, loader)
        self._manager = MemoryManager(pixeltable_config, loader, self._writer, self._reader, audit)
        self._duplicates = DuplicateFinder(pixeltable_config, loader)

    async def store(self, memory: Memory, context: Mapping[str, object]) -> str:
        """Accept one memory: durable, counted and recorded when this returns, and found by every process.

        Args:
            memory: The memory; objects of the open core's published `Memory` are accepted too.
            context: May name `tenant_id`, `user_id`, `authorization`, `x-tenant-id`, `idempotency_key` and
                `report_duplicates`.

        Returns:
            The memory's id, a UUIDv7; with `report_duplicates` a `StoredMemoryId`.

        Raises:
            InvalidMemoryError: A field is out of range; names it.
            QuotaExceededError: The tenant's quota is used up.
            IdempotencyConflictError: The idempotency key stood for another memory before.
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not decided in time; repeat it with an idempotency key.
        """

        def work() -> str:
            admitted, accepted, ids = self._store(Action.MEMORY_STORE, (memory,), context)
            return self._duplicates.told(admitted, accepted[0], ids[0]) if wants_duplicates(context) else ids[0]

        return await self._calls.run(work)

    async def store_many(self, memories: Sequence[Memory], context: Mapping[str, object]) -> list[str]:
        """Accept all memories, at most 10,000, or none; otherwise as `store`.

        Returns:
            Their ids, in the order given.
        """
        return list((await self._calls.run(lambda: self._store(Action.MEMORY_STORE_MANY, memories, context)))[2])

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
            admitted = self._calls.admitted(Action.MEMORY_RETRIEVE, {}, user_id)
            arguments = self._calls.checked(
                admitted, lambda: (check_query(query), check_user_id(user_id), check_limit(limit))
            )
            return self._calls.checked(admitted, lambda: self._reader.retrieve(admitted, *arguments))

        return await self._calls.run(work)

    async def get_by_id(self, memory_id: str) -> Memory | None:
        """One memory, or `None`: an absent one, another tenant's and one the caller may not know look the same.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not answered in time.
        """

        def work() -> Memory | None:
            admitted = self._calls.admitted(Action.MEMORY_GET, {}, None)
            return self._calls.checked(
                admitted, lambda: self._reader.get(admitted, memory_id, self._writer.own_subject(admitted))
            )

        return await self._calls.run(work)

    async def delete(self, memory_id: str) -> bool:
        """Delete one memory: gone for every process when this returns, and its stock is given back.

        Returns:
            Whether there was one to delete for this caller.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not do this.
            ProviderUnavailableError: Not decided in time.
        """

        def work() -> bool:
            admitted = self._calls.admitted(Action.MEMORY_DELETE, {}, None)
            return self._calls.checked(admitted, lambda: self._writer.delete(admitted, memory_id))

        return await self._calls.run(work)

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
            admitted = self._calls.admitted(Action.MEMORY_SEARCH, {}, user_id)
            user, request, most = self._calls.checked(
                admitted, lambda: (check_user_id(user_id), parse_filters(filters), check_limit(limit))
            )
            return self._calls.checked(admitted, lambda: self._reader.search(admitted, user, request, most))

        return await self._calls.run(work)

    def close(self) -> None:
        """Let the threads end once their calls have."""
        self._calls.close()

    def _store(
        self, action: Action, memories: object, context: Mapping[str, object]
    ) -> tuple[Admitted, Sequence[Memory], tuple[str, ...]]:
        """The operation, what was stored, and the ids."""
        given = tuple(memories) if isinstance(memories, Iterable) else None
        named = {user_id for memory in given or () if isinstance(user_id := getattr(memory, "user_id", None), str)}
        admitted = self._calls.admitted(action, context, next(iter(named)) if len(named) == 1 else None)
        if admitted.only_own and len(named) > 1:
            other = next(user_id for user_id in named if user_id != admitted.scope.principal.user_id)
            admitted = self._calls.admitted(action, context, other)
        accepted, key, _ = self._calls.checked(
            admitted, lambda: (self._accepted(given), idempotency_key(context), wants_duplicates(context))
        )
        ids = self._calls.checked(admitted, lambda: self._writer.store(admitted, accepted, idempotency_key=key))
        return admitted, accepted, ids

    def _accepted(self, memories: Sequence[object] | None) -> list[Memory]:
        if memories is None:
            raise InvalidMemoryError(field="memories", reason="must be a sequence of memories")
        if len(memories) > _MAX_BATCH:
            raise InvalidMemoryError(field="memories", reason=f"holds more than {_MAX_BATCH} memories")
        now = self._clock()
        return [accept(memory, now) for memory in memories]


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
