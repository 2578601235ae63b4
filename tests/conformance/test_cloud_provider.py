"""The provider as the extension guide builds and registers it, and as the published package knows it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ConfigurationError
from cloud.memory import CloudMemoryProvider
from src.extensions import AuditLogger, ExtensionRegistry, GDPRService, TenantProvider, UsageTracker
from src.memory.protocols import MemoryProvider
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


class PublishedLogger:
    """A logger with the published methods and no more: it cannot commit with a write."""

    def log_event(
        self,
        event_type: str,
        actor: str,
        resource: str,
        action: str,
        outcome: str,
        details: dict[str, object] | None = None,
    ) -> None:
        raise AssertionError

    def log_security_event(
        self, event_type: str, severity: str, message: str, details: dict[str, object] | None = None
    ) -> None:
        raise AssertionError

    def log_gdpr_deletion(
        self, user_id: str, workspace_id: str, items_deleted: dict[str, int], timestamp: datetime
    ) -> None:
        raise AssertionError

    def log_gdpr_export(self, user_id: str, workspace_id: str, total_items: int, timestamp: datetime) -> None:
        raise AssertionError

    async def log(self, event: dict[str, object]) -> None:
        raise AssertionError


class PublishedTracker:
    """A tracker with the published methods and no more: it can only check first and count later."""

    def track(self, operation: str, tokens: int, metadata: dict[str, object]) -> None:
        raise AssertionError

    def check_quota(self, tenant_id: str, operation: str) -> tuple[bool, str | None]:
        return True, None

    def get_usage_summary(
        self, tenant_id: str, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, object]:
        return {}


@pytest.fixture
def onlooker(runtime: CloudRuntime) -> Onlooker:
    return Onlooker(runtime)


@pytest.fixture
def empty_registry(runtime: CloudRuntime) -> Iterator[ExtensionRegistry]:
    """The registry with nothing in it, for as long as the test runs."""
    registry = ExtensionRegistry.get()
    held = {field.name: getattr(registry, field.name) for field in fields(registry)}
    for name in held:
        setattr(registry, name, None)
    yield registry
    for name, extension in held.items():
        setattr(registry, name, extension)


async def works(runtime: CloudRuntime, memory: CloudMemoryProvider, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await memory.store(sample_memory("alice"), {})
        assert [m.id for m in await memory.retrieve("tabs?", "alice")] == [memory_id]
        assert await memory.delete(memory_id)
    memory.close()


async def test_it_is_built_positionally_as_the_guide_writes_it(runtime: CloudRuntime, tenant_id: str) -> None:
    memory = CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider, runtime.audit)
    await works(runtime, memory, tenant_id)


async def test_it_is_built_by_name_as_the_guide_registers_it(runtime: CloudRuntime, tenant_id: str) -> None:
    registry = ExtensionRegistry.get()
    tenants = registry.tenant_provider
    assert tenants is runtime.tenant_provider
    memory = CloudMemoryProvider(pixeltable_config=runtime.pixeltable_config, tenant_provider=tenants)
    assert memory.audit_logger is runtime.audit
    assert memory.usage_tracker is runtime.usage
    await works(runtime, memory, tenant_id)


async def test_it_is_built_by_all_three_names(runtime: CloudRuntime, tenant_id: str) -> None:
    memory = CloudMemoryProvider(
        pixeltable_config=runtime.pixeltable_config,
        tenant_provider=runtime.tenant_provider,
        audit_logger=runtime.audit,
    )
    await works(runtime, memory, tenant_id)


def test_without_a_logger_there_is_no_provider(runtime: CloudRuntime, empty_registry: ExtensionRegistry) -> None:
    empty_registry.usage_tracker = runtime.usage
    with pytest.raises(ConfigurationError, match="audit logger"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider)


def test_without_a_tracker_there_is_no_provider(runtime: CloudRuntime, empty_registry: ExtensionRegistry) -> None:
    empty_registry.audit_logger = runtime.audit
    with pytest.raises(ConfigurationError, match="usage tracker"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider)


def test_a_logger_that_cannot_commit_with_a_write_is_refused(
    runtime: CloudRuntime, empty_registry: ExtensionRegistry
) -> None:
    empty_registry.usage_tracker = runtime.usage
    foreign: AuditLogger = PublishedLogger()
    with pytest.raises(ConfigurationError, match="TransactionalAuditLogger"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider, foreign)
    empty_registry.audit_logger = foreign
    with pytest.raises(ConfigurationError, match="TransactionalAuditLogger"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider)


def test_a_tracker_that_cannot_decide_within_a_write_is_refused(
    runtime: CloudRuntime, empty_registry: ExtensionRegistry
) -> None:
    foreign: UsageTracker = PublishedTracker()
    with pytest.raises(ConfigurationError, match="TransactionalUsageTracker"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider, runtime.audit, foreign)
    empty_registry.usage_tracker = foreign
    with pytest.raises(ConfigurationError, match="TransactionalUsageTracker"):
        CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider, runtime.audit)


def test_the_extensions_are_registered_and_satisfy_their_protocols(runtime: CloudRuntime) -> None:
    registry = ExtensionRegistry.get()
    held: dict[str, tuple[object, type]] = {
        "tenant_provider": (runtime.tenant_provider, TenantProvider),
        "usage_tracker": (runtime.usage, UsageTracker),
        "audit_logger": (runtime.audit, AuditLogger),
        "gdpr_service": (runtime.gdpr, GDPRService),
        "memory_provider": (runtime.memory, MemoryProvider),
    }
    for name, (extension, protocol) in held.items():
        assert getattr(registry, name) is extension
        assert isinstance(extension, protocol)
    assert registry.get_status() == dict.fromkeys(held, True) | {"mode": "cloud"}


class TestWithThePublishedPackage:
    """`luminescent_cluster` is installed beside us in development."""

    def test_the_same_objects_are_registered_there(self, runtime: CloudRuntime) -> None:
        registry = importlib.import_module("luminescent_cluster.extensions").ExtensionRegistry.get()
        assert registry.tenant_provider is runtime.tenant_provider
        assert registry.usage_tracker is runtime.usage
        assert registry.audit_logger is runtime.audit
        assert registry.memory_provider is runtime.memory
        assert registry.get_status()["mode"] == "cloud"

    def test_they_satisfy_its_protocols(self, runtime: CloudRuntime) -> None:
        protocols = importlib.import_module("luminescent_cluster.extensions.protocols")
        assert isinstance(runtime.memory, protocols.MemoryProvider)
        for extension, protocol in (
            (runtime.tenant_provider, protocols.TenantProvider),
            (runtime.usage, protocols.UsageTracker),
            (runtime.audit, protocols.AuditLogger),
            (runtime.memory, protocols.MemoryProvider),
        ):
            promised = {name: member for name, member in vars(protocol).items() if inspect.isfunction(member)}
            methods = {name: member for name, member in promised.items() if not name.startswith("_")}
            assert methods
            for name, method in methods.items():
                parameters = list(inspect.signature(method).parameters.values())[1:]
                actual = inspect.signature(getattr(extension, name))
                arguments = {parameter.name: object() for parameter in parameters}
                assert actual.bind(**arguments).arguments == arguments, name
                assert actual.bind(*arguments.values()).arguments == arguments, name
                defaults = [actual.parameters[parameter.name].default for parameter in parameters]
                assert defaults == [parameter.default for parameter in parameters], name

    async def test_its_memories_are_stored_and_found(
        self, runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
    ) -> None:
        schemas = importlib.import_module("luminescent_cluster.memory.schemas")
        theirs = schemas.Memory(
            user_id="alice",
            content="Prefers tabs over spaces",
            memory_type=schemas.MemoryType.PREFERENCE,
            confidence=0.75,
            source="conversation",
            raw_source="always tabs",
            metadata={"scope": schemas.MemoryScope.PROJECT.value},
        )
        with request_context(tenant_id=tenant_id, roles={"service"}):
            memory_id = await runtime.memory.store(theirs, {})
            (many,) = await runtime.memory.store_many([theirs], {})
            found = await runtime.memory.get_by_id(memory_id)
            filtered = await runtime.memory.search("alice", {"memory_type": schemas.MemoryType.PREFERENCE})
        assert found is not None
        assert {m.id for m in filtered} == {memory_id, many}
        own_to_a_read = {"last_accessed_at"}
        expected: Mapping[str, object] = theirs.model_dump(mode="json", exclude=own_to_a_read)
        assert found.model_dump(mode="json", exclude={*own_to_a_read, "id"}) == expected
        assert onlooker.used(tenant_id) == 2
