"""Who may call what: every operation against every kind of caller that it must not serve."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import cloud
from cloud import CloudRuntime, request_context
from cloud.kernel.errors import AuthenticationError, LuminescentError, PermissionDeniedError, TenantIsolationError
from cloud.memory import CloudMemoryProvider
from cloud.memory.config import PixeltableConfig
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.provider import CloudTenantProvider
from src.testing.samples import new_user, sample_memory
from tests.isolation.operations import GDPR_OPERATIONS, OPERATIONS, PROVIDER_OPERATIONS, Operation, Stage, staged
from tests.isolation.probes import Event, Onlooker

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
each_provider_operation = pytest.mark.parametrize("operation", PROVIDER_OPERATIONS, ids=lambda one: one.label)


async def refused(
    runtime: CloudRuntime, onlooker: Onlooker, operation: Operation, stage: Stage, error: type[LuminescentError]
) -> tuple[LuminescentError, Event]:
    """The error of an operation that must change nothing, and its one event."""
    before = onlooker.counts()
    with onlooker.new_events() as events, pytest.raises(error) as raised:
        await operation.call(runtime.memory, runtime.gdpr, stage)
    assert onlooker.counts() == before
    assert stage.user_id not in str(raised.value)
    (event,) = events
    assert event["outcome"] == "denied"
    assert event["action"] == operation.action
    assert event["resource_ids"] == []
    return raised.value, event


@each_provider_operation
async def test_without_a_scope_nothing_happens(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    _, event = await refused(runtime, onlooker, operation, stage, AuthenticationError)
    assert (event["log_id"], event["category"], event["reason"]) == ("_system", "security", "authentication:no_scope")
    assert event["actor"] == {"kind": None, "id": None, "roles": []}


@each_operation
@pytest.mark.parametrize("unknown", ["nobody-here", "ACME", "a b", "%", "", "x" * 64, "acme\0", "_system"])
async def test_an_unknown_tenant_is_nobody(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, unknown: str, tmp_path: Path
) -> None:
    stage = replace(await staged(runtime, tenant_id, tmp_path, operation=operation), tenant_id=unknown)
    with request_context(tenant_id=unknown, user_id="alice", roles={operation.role}):
        _, event = await refused(runtime, onlooker, operation, stage, AuthenticationError)
    assert event["log_id"] == "_system"
    assert event["reason"] in {"unknown_tenant", "authentication:unknown_tenant", "authentication:no_scope"}


@each_operation
@pytest.mark.parametrize("roles", [{"service", "tenant_admin"}, {"member"}], ids=["service", "member"])
async def test_a_suspended_tenant_is_refused_until_it_is_resumed(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, roles: set[str], tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    runtime.tenants.suspend(tenant_id)
    people = runtime.pixeltable_config.keyring.subjects(tenant_id)
    with request_context(tenant_id=tenant_id, user_id="alice", roles=roles):
        error, event = await refused(runtime, onlooker, operation, stage, PermissionDeniedError)
    assert isinstance(error, PermissionDeniedError)
    assert event["log_id"] == tenant_id
    assert event["reason"].removeprefix("permission_denied:") == error.reason
    assert runtime.pixeltable_config.keyring.subjects(tenant_id) == people
    runtime.tenants.resume(tenant_id)
    with request_context(tenant_id=tenant_id, roles={operation.role}):
        await operation.call(runtime.memory, runtime.gdpr, stage)


async def test_a_full_suspended_tenant_is_suspended_first_and_full_second(runtime: CloudRuntime) -> None:
    runtime.tenants.create("full-and-suspended", plan="team", limits={"memories": 0})
    runtime.tenants.suspend("full-and-suspended")
    with request_context(tenant_id="full-and-suspended", roles={"service"}), pytest.raises(PermissionDeniedError):
        await runtime.memory.store(sample_memory("alice"), {})


@each_operation
@pytest.mark.parametrize("role", ["service", "member", "tenant_admin", "auditor", "operator", None])
async def test_a_role_opens_what_its_row_of_the_table_says(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, role: str | None, tmp_path: Path
) -> None:
    allowed = {
        "service": operation in PROVIDER_OPERATIONS,
        # Two people in one call are one too many for a member.
        "member": operation in PROVIDER_OPERATIONS and operation.label != "store_many",
        "tenant_admin": True,
        "auditor": False,
        "operator": False,
        None: False,
    }[role]
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    with request_context(tenant_id=tenant_id, user_id=stage.user_id, roles={role} if role else ()):
        if allowed:
            await operation.call(runtime.memory, runtime.gdpr, stage)
            return
        _, event = await refused(runtime, onlooker, operation, stage, PermissionDeniedError)
    assert event["log_id"] == tenant_id
    assert event["actor"]["roles"] == ([role] if role else [])
    reason = "other_user" if role == "member" and operation in PROVIDER_OPERATIONS else "role_missing"
    assert event["reason"] == f"permission_denied:{reason}"


@pytest.mark.parametrize("operation", GDPR_OPERATIONS, ids=lambda operation: operation.label)
async def test_an_administrator_administers_its_own_tenant_alone(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    runtime.tenants.create("neighbour", plan="free")
    with request_context(tenant_id="neighbour", user_id="admin", roles={"tenant_admin"}):
        await refused(runtime, onlooker, operation, stage, PermissionDeniedError)


async def test_a_member_reads_and_writes_for_itself_alone(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"member"}):
        own = await runtime.memory.store(sample_memory("alice"), {})
        for attempt in (
            lambda: runtime.memory.store(sample_memory("bob"), {}),
            lambda: runtime.memory.store_many([sample_memory("bob")], {}),
            lambda: runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {}),
            lambda: runtime.memory.retrieve("tabs", "bob"),
            lambda: runtime.memory.retrieve("tabs", "alice "),
            lambda: runtime.memory.retrieve("tabs", "Alice"),
            lambda: runtime.memory.search("bob", {}),
        ):
            with onlooker.new_events() as events, pytest.raises(PermissionDeniedError, match="other_user"):
                await attempt()
            assert [(e["outcome"], e["reason"]) for e in events] == [("denied", "permission_denied:other_user")]
        assert [m.id for m in await runtime.memory.search("alice", {})] == [own]
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 1


async def test_a_member_without_a_person_is_refused(runtime: CloudRuntime, tenant_id: str) -> None:
    with (
        request_context(tenant_id=tenant_id, roles={"member"}),
        pytest.raises(PermissionDeniedError, match="member_without_user"),
    ):
        await runtime.memory.retrieve("tabs", "alice")


async def test_an_unknown_role_authenticates_nobody(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"root"}), pytest.raises(AuthenticationError):
        await runtime.memory.retrieve("tabs", "alice")


async def test_a_user_in_the_context_has_a_members_rights(runtime: CloudRuntime, tenant_id: str) -> None:
    context = {"tenant_id": tenant_id, "user_id": "alice"}
    await runtime.memory.store(sample_memory("alice"), context)
    with pytest.raises(PermissionDeniedError):
        await runtime.memory.store(sample_memory("bob"), context)


async def test_a_context_lends_a_caller_no_rights(runtime: CloudRuntime, tenant_id: str) -> None:
    with (
        request_context(tenant_id=tenant_id, user_id="alice", roles={"member"}),
        pytest.raises(PermissionDeniedError, match="other_user"),
    ):
        await runtime.memory.store(sample_memory("bob"), {"tenant_id": tenant_id})


@pytest.mark.parametrize("name", ["tenant_id", "x-tenant-id"])
async def test_two_tenants_named_at_once_are_a_conflict(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, name: str
) -> None:
    with (
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, roles={"service"}),
        pytest.raises(TenantIsolationError, match="conflict"),
    ):
        await runtime.memory.store(sample_memory("alice"), {name: f"{tenant_id}2"})
    assert [(e["category"], e["outcome"], e["reason"]) for e in events] == [
        ("security", "denied", "tenant_isolation:conflict")
    ]
    assert onlooker.ledger(tenant_id) == 0
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {name: tenant_id})


@pytest.mark.parametrize("value", ["", 5, ["acme"], b"acme"])
@pytest.mark.parametrize("name", ["tenant_id", "user_id", "x-tenant-id", "authorization"])
async def test_a_malformed_context_authenticates_nobody(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, name: str, value: object
) -> None:
    context = {"tenant_id": tenant_id, name: value}
    with onlooker.new_events() as events, pytest.raises(AuthenticationError):
        await runtime.memory.store(sample_memory("alice"), context)
    assert [(e["log_id"], e["outcome"]) for e in events] == [("_system", "denied")]
    assert onlooker.ledger(tenant_id) == 0


async def test_the_tenant_header_alone_authenticates_nobody(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with onlooker.new_events() as events, pytest.raises(AuthenticationError, match="x-tenant-id"):
        await runtime.memory.store(sample_memory("alice"), {"x-tenant-id": tenant_id})
    assert [e["reason"] for e in events] == ["authentication:untrusted_header"]


async def test_a_trusted_gateway_names_the_tenant_and_the_person(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    memory = behind(runtime, trusted_gateway=True)
    await memory.store(sample_memory("alice"), {"x-tenant-id": tenant_id})
    await memory.store(sample_memory("alice"), {"x-tenant-id": tenant_id, "user_id": "alice"})
    with pytest.raises(PermissionDeniedError):
        await memory.store(sample_memory("bob"), {"x-tenant-id": tenant_id, "user_id": "alice"})
    with pytest.raises(TenantIsolationError):
        await memory.store(sample_memory("alice"), {"x-tenant-id": tenant_id, "tenant_id": "acme"})
    with pytest.raises(AuthenticationError):
        await memory.store(sample_memory("alice"), {})
    memory.close()
    assert onlooker.ledger(tenant_id) == 2


async def test_a_default_tenant_serves_only_where_a_deployment_names_one(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    memory = behind(runtime, default_tenant=tenant_id)
    await memory.store(sample_memory("alice"), {})
    memory.close()
    assert onlooker.ledger(tenant_id) == 1


async def test_names_that_begin_alike_share_nothing(runtime: CloudRuntime) -> None:
    tenants = ("acme", "acme2", "acme-1", "acme_1", "a")
    user = new_user()
    ids = {}
    for tenant in tenants:
        runtime.tenants.create(tenant, plan="team")
        with request_context(tenant_id=tenant, roles={"service"}):
            ids[tenant] = await runtime.memory.store(sample_memory(user, content=f"of {tenant}"), {})
    for temperature in ("hot", "cold"):
        if temperature == "cold":
            await runtime.drain()
            runtime.pixeltable_config.hot.clear()
        for tenant in tenants:
            with request_context(tenant_id=tenant, roles={"service"}):
                found = await runtime.memory.retrieve("of acme", user, limit=1000)
                assert [m.content for m in found] == [f"of {tenant}"]
                assert [m.id for m in await runtime.memory.search(user, {"include_invalid": True})] == [ids[tenant]]
                for other in set(tenants) - {tenant}:
                    assert await runtime.memory.get_by_id(ids[other]) is None


def test_only_tenancy_hands_out_scopes() -> None:
    root = Path(cloud.__file__).parent
    using = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id in {"grant_scope", "_GRANT", "TenantScope"} and _is_call(path, node))
        or (isinstance(node, ast.Attribute) and node.attr in {"grant_scope", "_GRANT"})
    }
    assert "kernel/scope.py" in using
    assert all(name == "kernel/scope.py" or name.startswith("tenancy/") for name in using), using


def _is_call(path: Path, name: ast.Name) -> bool:
    """Whether the name is used for more than an annotation."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return name.id == "_GRANT" or any(isinstance(c.func, ast.Name) and c.func.id == name.id for c in calls)


def behind(
    runtime: CloudRuntime, *, trusted_gateway: bool = False, default_tenant: str | None = None
) -> CloudMemoryProvider:
    """A provider of the installation with another way of establishing who calls."""
    config: PixeltableConfig = runtime.pixeltable_config
    identities = IdentityResolver(
        config.identities._keys,
        config.keyring,
        config.clock,
        trusted_gateway=trusted_gateway,
        default_tenant=default_tenant,
    )
    tenants: CloudTenantProvider = CloudTenantProvider(identities)
    return CloudMemoryProvider(replace(config, identities=identities), tenants, runtime.audit, runtime.usage)
