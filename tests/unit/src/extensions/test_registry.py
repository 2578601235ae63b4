"""The registry is one per process, and says what is registered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from src.extensions import (
    AuditLogger,
    ExtensionRegistry,
    GDPRService,
    MemoryProvider,
    TenantProvider,
    UsageTracker,
)
from src.memory.providers.local import LocalMemoryProvider


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    ExtensionRegistry.reset()
    yield
    ExtensionRegistry.reset()


class Everything:
    """Has the methods of the four protocols beside `MemoryProvider`."""

    def get_tenant_id(self, request_context): ...
    def get_tenant_filter(self, tenant_id): ...
    def validate_tenant_access(self, tenant_id, user_id, resource): ...
    def track(self, operation, tokens, metadata): ...
    def check_quota(self, tenant_id, operation): ...
    def get_usage_summary(self, tenant_id, start_date=None, end_date=None): ...
    def log_event(self, event_type, actor, resource, action, outcome, details=None): ...
    def log_security_event(self, event_type, severity, message, details=None): ...
    def log_gdpr_deletion(self, user_id, workspace_id, items_deleted, timestamp): ...
    def log_gdpr_export(self, user_id, workspace_id, total_items, timestamp): ...
    async def log(self, event): ...
    async def delete_user_data(self, user_id, workspace_id, *, confirmed=False, reason=None): ...
    async def export_user_data(self, user_id, workspace_id, directory): ...


PROTOCOLS = {
    "tenant_provider": TenantProvider,
    "usage_tracker": UsageTracker,
    "audit_logger": AuditLogger,
    "gdpr_service": GDPRService,
    "memory_provider": MemoryProvider,
}


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_protocols_tell_what_satisfies_them(name: str, protocol: type) -> None:
    fitting = LocalMemoryProvider() if name == "memory_provider" else Everything()
    other = Everything() if name == "memory_provider" else LocalMemoryProvider()
    assert isinstance(fitting, protocol)
    assert not isinstance(other, protocol)


def test_many_threads_get_one_registry() -> None:
    for _ in range(20):
        ExtensionRegistry.reset()
        barrier = Barrier(8)

        def get(barrier: Barrier = barrier) -> ExtensionRegistry:
            barrier.wait()
            return ExtensionRegistry.get()

        with ThreadPoolExecutor(8) as threads:
            registries = [future.result() for future in [threads.submit(get) for _ in range(8)]]
        assert len({id(registry) for registry in registries}) == 1


def test_reset_forgets_what_was_registered() -> None:
    before = ExtensionRegistry.get()
    before.memory_provider = LocalMemoryProvider()
    ExtensionRegistry.reset()
    assert ExtensionRegistry.get() is not before
    assert ExtensionRegistry.get().memory_provider is None


def test_nothing_is_registered_at_first() -> None:
    assert ExtensionRegistry.get().get_status() == dict.fromkeys(PROTOCOLS, False) | {"mode": "oss"}


@pytest.mark.parametrize(
    ("name", "predicate", "mode"),
    [
        ("tenant_provider", "is_multi_tenant", "cloud"),
        ("usage_tracker", "is_metered", "cloud"),
        ("audit_logger", "is_audited", "cloud"),
        ("gdpr_service", "has_gdpr_service", "oss"),
        ("memory_provider", "has_memory_provider", "oss"),
    ],
)
def test_status_names_exactly_what_is_registered(name: str, predicate: str, mode: str) -> None:
    registry = ExtensionRegistry.get()
    assert not getattr(registry, predicate)()
    setattr(registry, name, Everything())
    assert getattr(registry, predicate)()
    assert registry.get_status() == dict.fromkeys(PROTOCOLS, False) | {name: True, "mode": mode}
