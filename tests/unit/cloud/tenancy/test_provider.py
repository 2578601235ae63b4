"""Laws of the tenant provider: it fails closed, and what a foreign one says is checked before a query runs."""

from __future__ import annotations

from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import AuthenticationError, TenantIsolationError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.memory.provider import CloudMemoryProvider
from src.extensions import TenantProvider


def test_the_filter_names_exactly_one_tenant(runtime: CloudRuntime) -> None:
    assert runtime.tenant_provider.get_tenant_filter("acme") == {"tenant_id": {"$eq": "acme"}}
    assert isinstance(runtime.tenant_provider, TenantProvider)


@pytest.mark.parametrize("tenant_id", ["", None, "*", "_system", "ACME", "a,b", {"$ne": ""}, ["acme"]])
def test_there_is_no_filter_that_means_more(runtime: CloudRuntime, tenant_id: Any) -> None:
    with pytest.raises(TenantIsolationError):
        runtime.tenant_provider.get_tenant_filter(tenant_id)


def test_the_tenant_of_a_request_is_what_establishes_it_or_nobody(runtime: CloudRuntime) -> None:
    provider = runtime.tenant_provider
    assert provider.get_tenant_id({}) is None
    assert provider.get_tenant_id({"user_id": "alice"}) is None
    assert provider.get_tenant_id({"tenant_id": "acme"}) == "acme"
    with pytest.raises(AuthenticationError):
        provider.get_tenant_id({"x-tenant-id": "acme"})
    with request_context(tenant_id="acme", roles={"service"}):
        assert provider.get_tenant_id({}) == "acme"
        assert provider.get_tenant_id({"x-tenant-id": "acme"}) == "acme"
        with pytest.raises(TenantIsolationError):
            provider.get_tenant_id({"x-tenant-id": "globex"})


def test_access_is_granted_only_where_it_is_established(runtime: CloudRuntime) -> None:
    allowed = runtime.tenant_provider.validate_tenant_access
    assert not allowed("acme", "alice", "memories")
    with request_context(tenant_id="acme", user_id="alice", roles={"member"}):
        assert allowed("acme", "alice", "memories")
        assert allowed("acme", "alice", "memories:write")
        assert not allowed("acme", "bob", "memories")
        assert not allowed("globex", "alice", "memories")
        for resource in ("erasure", "export", "usage", "audit", "settings", "", "memories "):
            assert not allowed("acme", "alice", resource)
    with request_context(tenant_id="acme", user_id="dana", roles={"tenant_admin"}):
        for resource in ("memories", "erasure", "export", "usage", "audit"):
            assert allowed("acme", "alice", resource)
    with request_context(tenant_id="acme", user_id="dana", roles={"root"}):
        assert not allowed("acme", "dana", "memories")


class Foreign:
    """A tenant provider of somebody else, with a filter as the test has it."""

    def __init__(self, tenant_id: str | None, tenant_filter: Any) -> None:
        self._tenant_id = tenant_id
        self._filter = tenant_filter

    def get_tenant_id(self, request_context: dict[str, Any]) -> str | None:
        return self._tenant_id

    def get_tenant_filter(self, tenant_id: str) -> dict[str, Any]:
        return self._filter  # type: ignore[no-any-return]

    def validate_tenant_access(self, tenant_id: str, user_id: str, resource: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("tenant_filter", "reason"),
    [
        ({}, "empty"),
        (None, "empty"),
        ({"user_id": {"$eq": "alice"}}, "missing_tenant"),
        ({"tenant_id": {"$eq": "globex"}}, "foreign_tenant"),
        ({"tenant_id": {"$ne": ""}}, "malformed"),
    ],
)
async def test_a_filter_that_is_not_the_callers_own_stops_the_query_and_is_a_security_event(
    runtime: CloudRuntime, tenant_id: str, tenant_filter: Any, reason: str
) -> None:
    provider = CloudMemoryProvider(
        runtime.pixeltable_config, Foreign(tenant_id, tenant_filter), runtime.audit, runtime.usage
    )
    try:
        with request_context(tenant_id=tenant_id, roles={"service"}), pytest.raises(TenantIsolationError):
            await provider.search("alice", {})
    finally:
        provider.close()
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    assert (event["category"], event["outcome"]) == ("security", "denied")
    assert event["reason"] == f"tenant_isolation:{reason}"
    assert event["details"] == {"severity": "critical"}


@pytest.mark.parametrize("named", [None, "globex"])
async def test_a_foreign_provider_cannot_move_a_caller_to_another_tenant(
    runtime: CloudRuntime, tenant_id: str, named: str | None
) -> None:
    foreign = Foreign(named, {"tenant_id": {"$eq": named}})
    provider = CloudMemoryProvider(runtime.pixeltable_config, foreign, runtime.audit, runtime.usage)
    try:
        with (
            request_context(tenant_id=tenant_id, roles={"service"}),
            pytest.raises((AuthenticationError, TenantIsolationError)),
        ):
            await provider.search("alice", {})
    finally:
        provider.close()
    event = list(runtime.audit._store.events(SYSTEM_LOG, since=None, until=None))[-1]
    assert (event["category"], event["outcome"]) == ("security", "denied")
