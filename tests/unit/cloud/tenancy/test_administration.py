"""Laws of administration: who may, what changes, and that each attempt is recorded in the right log."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    PermissionDeniedError,
    TenantIsolationError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG
from cloud.tenancy.model import TenantState, pooled_placement
from src.testing.samples import sample_memory

_numbers = itertools.count(1)


def new_name() -> str:
    return f"adm-{next(_numbers)}"


class Log:
    """Events that were added to one log since this was made."""

    def __init__(self, runtime: CloudRuntime, log_id: str) -> None:
        self._read = lambda: list(runtime.audit._store.events(log_id, since=None, until=None))
        self._before = {event["event_id"] for event in self._read()}

    def new(self) -> list[dict[str, Any]]:
        return [event for event in self._read() if event["event_id"] not in self._before]

    def only(self) -> dict[str, Any]:
        (event,) = self.new()
        return event


def as_role(tenant_id: str, role: str) -> AbstractContextManager[object]:
    return request_context(tenant_id=tenant_id, user_id="dana", roles={role})


async def finished(attempt: Callable[[], object]) -> None:
    answer = attempt()
    if isinstance(answer, Awaitable):
        await answer


# Tenants


def test_a_new_tenant_is_active_on_its_plan_and_recorded_in_its_own_log(runtime: CloudRuntime) -> None:
    name = new_name()
    log = Log(runtime, name)
    tenant = runtime.tenants.create(name, plan="team", limits={"memories": 7})
    assert (tenant.state, tenant.plan, tenant.limits) == (TenantState.ACTIVE, "team", {"memories": 7})
    assert tenant in runtime.tenants.list()
    event = log.only()
    assert (event["action"], event["outcome"], event["log_id"]) == ("tenant.create", "allowed", name)
    assert event["actor"]["kind"] == "local-operator"
    assert event["actor"]["id"].startswith("local-operator:")


def test_creating_a_tenant_again_with_the_same_terms_changes_nothing_and_with_others_fails(
    runtime: CloudRuntime,
) -> None:
    name = new_name()
    first = runtime.tenants.create(name, plan="team", limits={"memories": 7})
    log = Log(runtime, name)
    again = runtime.tenants.create(name, plan="team", limits={"memories": 7})
    assert (again.tenant_id, again.placement) == (first.tenant_id, first.placement)
    assert (again.plan, again.limits, again.state) == (first.plan, first.limits, first.state)
    assert (log.only()["outcome"], log.only()["reason"]) == ("allowed", "exists")
    for plan, limits in (("free", {"memories": 7}), ("team", {}), ("team", {"memories": 8})):
        with pytest.raises(ConfigurationError, match="exists"):
            runtime.tenants.create(name, plan=plan, limits=limits)
    assert [event["outcome"] for event in log.new()] == ["allowed"] + ["denied"] * 3
    (tenant,) = [one for one in runtime.tenants.list() if one.tenant_id == name]
    assert (tenant.plan, tenant.limits) == ("team", {"memories": 7})


def test_an_existing_tenants_key_survives_its_repeated_creation(runtime: CloudRuntime) -> None:
    name = new_name()
    runtime.tenants.create(name)
    key = runtime.pixeltable_config.keyring.tenant_key(name).key
    runtime.tenants.create(name)
    assert runtime.pixeltable_config.keyring.tenant_key(name).key == key


@pytest.mark.parametrize(
    "tenant_id", ["", "_system", "Acme", "acme/../x", "acme ", "-a", "a" * 64, "acme\n", None, 7, "é"]
)
def test_a_name_that_no_tenant_can_have_is_refused_and_recorded(runtime: CloudRuntime, tenant_id: Any) -> None:
    log = Log(runtime, SYSTEM_LOG)
    with pytest.raises(ConfigurationError):
        runtime.tenants.create(tenant_id)
    event = log.only()
    assert (event["action"], event["outcome"], event["reason"]) == ("tenant.create", "failed", "configuration")


@pytest.mark.parametrize(
    ("plan", "limits", "named"),
    [
        ("gold", {}, "gold"),
        ("", {}, "free"),
        ("team", {"memory": 5}, "memory"),
        ("team", {"memories": -2}, "memories"),
        ("team", {"memories": 1.5}, "memories"),
        ("team", {"memories": "9"}, "memories"),
        ("team", {"memories": True}, "memories"),
        ("team", {"memories": 2**53}, "memories"),
    ],
)
def test_terms_that_do_not_exist_are_named_and_leave_no_tenant(
    runtime: CloudRuntime, plan: str, limits: dict[str, Any], named: str
) -> None:
    name = new_name()
    with pytest.raises(ConfigurationError, match=named):
        runtime.tenants.create(name, plan=plan, limits=limits)
    assert name not in {tenant.tenant_id for tenant in runtime.tenants.list()}


@pytest.mark.parametrize("unlimited", [-1, None])
async def test_an_override_of_minus_one_or_none_is_unlimited(runtime: CloudRuntime, unlimited: int | None) -> None:
    name = new_name()
    assert runtime.tenants.create(name, plan="free", limits={"memories": unlimited}).limits == {"memories": None}
    summary = runtime.usage.get_usage_summary(name)
    assert (summary["quota_remaining"], summary["memories"]) == (None, {"used": 0, "limit": None})


async def test_a_suspended_tenant_is_refused_everything_until_it_is_resumed(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with as_role(tenant_id, "service"):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
    log = Log(runtime, tenant_id)
    runtime.tenants.suspend(tenant_id)
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("service", lambda: runtime.memory.store(sample_memory("alice"), {})),
        ("service", lambda: runtime.memory.retrieve("tabs", "alice")),
        ("service", lambda: runtime.memory.search("alice", {})),
        ("service", lambda: runtime.memory.get_by_id(memory_id)),
        ("service", lambda: runtime.memory.delete(memory_id)),
        ("tenant_admin", lambda: runtime.gdpr.delete_user_data("alice", tenant_id)),
        ("tenant_admin", lambda: runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)),
        ("tenant_admin", lambda: runtime.gdpr.export_user_data("alice", tenant_id, "/nonexistent")),
        ("tenant_admin", lambda: runtime.usage.get_usage_summary(tenant_id)),
        ("auditor", lambda: runtime.audit.events(tenant_id)),
        ("auditor", lambda: runtime.audit.export(tenant_id, "/nonexistent")),
    ]
    for role, attempt in attempts:
        with as_role(tenant_id, role), pytest.raises(PermissionDeniedError) as refused:
            await finished(attempt)
        assert refused.value.reason == "tenant_suspended"
    denied = [event for event in log.new() if event["outcome"] == "denied"]
    assert len(denied) == len(attempts)
    assert all("tenant_suspended" in event["reason"] for event in denied)
    runtime.tenants.resume(tenant_id)
    with as_role(tenant_id, "service"):
        assert [memory.id for memory in await runtime.memory.search("alice", {})] == [memory_id]
    assert [e["action"] for e in log.new() if e["category"] == "administration" and e["outcome"] == "allowed"] == [
        "tenant.suspend",
        "tenant.resume",
    ]


async def test_the_operator_can_still_erase_and_export_in_a_suspended_tenant(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with as_role(tenant_id, "service"):
        await runtime.memory.store(sample_memory("alice"), {})
    runtime.tenants.suspend(tenant_id)
    erased = await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    assert getattr(erased, "memories", None) == 1
    assert runtime.audit.events(tenant_id)


@pytest.mark.parametrize("tenant_id", ["nobody-here", "_system", "", "acme/../x", "ACME"])
@pytest.mark.parametrize("change", ["suspend", "resume"])
def test_a_tenant_that_is_not_there_cannot_be_changed(runtime: CloudRuntime, tenant_id: str, change: str) -> None:
    log = Log(runtime, SYSTEM_LOG)
    with pytest.raises(UnknownTenantError):
        getattr(runtime.tenants, change)(tenant_id)
    assert (log.only()["outcome"], log.only()["reason"]) == ("denied", "unknown_tenant")


# Who may


def administration(runtime: CloudRuntime, tenant_id: str) -> dict[Action, Callable[[], Any]]:
    # A key is rotated once, and each attempt is made a few times.
    keys = iter([runtime.api_keys.create(tenant_id, roles={"service"}).split("_")[1] for _ in range(4)])

    def roll_back() -> None:
        # Whoever is let in learns that there is nothing to go back to.
        with contextlib.suppress(ConfigurationError):
            runtime.embeddings.rollback(pooled_placement(tenant_id))

    return {
        Action.TENANT_CREATE: lambda: runtime.tenants.create(new_name()),
        Action.TENANT_SUSPEND: lambda: runtime.tenants.suspend(tenant_id),
        Action.TENANT_RESUME: lambda: runtime.tenants.resume(tenant_id),
        Action.TENANT_LIST: lambda: runtime.tenants.list(),
        Action.TENANT_MOVE: lambda: runtime.tenants.move(tenant_id, to="pooled"),
        Action.EMBEDDINGS_STATUS: lambda: runtime.embeddings.status(),
        Action.EMBEDDINGS_MIGRATE: lambda: runtime.embeddings.migrate(pooled_placement(tenant_id), "wordllama"),
        Action.EMBEDDINGS_ROLLBACK: roll_back,
        Action.EMBEDDINGS_FINISH: lambda: runtime.embeddings.finish(pooled_placement(tenant_id)),
        Action.API_KEY_CREATE: lambda: runtime.api_keys.create(tenant_id, roles={"service"}),
        Action.API_KEY_REVOKE: lambda: runtime.api_keys.revoke(tenant_id, "000000000000"),
        Action.API_KEY_LIST: lambda: runtime.api_keys.list(tenant_id),
        Action.API_KEY_ROTATE: lambda: runtime.api_keys.rotate(tenant_id, next(keys)),
        Action.ACCESS_REVIEW_ALL: lambda: runtime.api_keys.review(),
        Action.AUDIT_SYSTEM: lambda: runtime.audit.events(SYSTEM_LOG),
    }


@pytest.mark.parametrize("role", ["service", "member", "tenant_admin", "auditor"])
def test_no_role_but_operator_administers_and_the_attempt_is_in_the_callers_log(
    runtime: CloudRuntime, tenant_id: str, role: str
) -> None:
    for action, attempt in administration(runtime, tenant_id).items():
        log = Log(runtime, tenant_id)
        with as_role(tenant_id, role), pytest.raises(PermissionDeniedError) as refused:
            attempt()
        assert (refused.value.action, refused.value.reason) == (action.value, "role_missing")
        event = log.only()
        assert (event["action"], event["outcome"]) == (action.value, "denied")
        assert event["reason"] == "permission_denied:role_missing"
        assert event["actor"]["roles"] == [role]
        assert event["actor"]["id"] is not None


def test_the_operator_role_administers(runtime: CloudRuntime, tenant_id: str) -> None:
    for attempt in administration(runtime, tenant_id).values():
        with request_context(tenant_id=tenant_id, roles={"operator"}):
            attempt()
        log = Log(runtime, SYSTEM_LOG)
        with request_context(operator="local-operator:4711", roles={"operator"}):
            attempt()
        assert {event["actor"]["id"] for event in log.new()} <= {"local-operator:4711"}


def test_nobody_in_particular_administers_nothing(runtime: CloudRuntime, tenant_id: str) -> None:
    for attempt in administration(runtime, tenant_id).values():
        with request_context(request_id="r-1"), pytest.raises(PermissionDeniedError):
            attempt()
        with request_context(authorization="Bearer nonsense"), pytest.raises(AuthenticationError):
            attempt()
        key = runtime.api_keys.create(tenant_id, roles={"tenant_admin"})
        with (
            request_context(tenant_id="another", authorization=key, roles={"operator"}),
            pytest.raises(TenantIsolationError),
        ):
            attempt()


def test_an_administrator_of_one_tenant_is_a_stranger_in_another(runtime: CloudRuntime, tenant_id: str) -> None:
    other = runtime.tenants.create(new_name()).tenant_id
    theirs = Log(runtime, other)
    for attempt in (
        lambda: runtime.usage.get_usage_summary(other),
        lambda: runtime.audit.events(other),
        lambda: runtime.audit.events("no-such-tenant"),
    ):
        log = Log(runtime, tenant_id)
        with as_role(tenant_id, "tenant_admin"), pytest.raises(PermissionDeniedError) as refused:
            attempt()
        assert refused.value.reason == "other_tenant", "another tenant and an absent one must look the same"
        assert log.only()["actor"]["id"] is not None
    assert theirs.new() == [], "a stranger wrote into another tenant's log"


def test_a_tenant_that_does_not_exist_has_nothing_to_administer(runtime: CloudRuntime, tmp_path: Path) -> None:
    for attempt in (
        lambda: runtime.usage.get_usage_summary("ghost"),
        lambda: runtime.audit.events("ghost"),
        lambda: runtime.audit.export("ghost", tmp_path / "out"),
    ):
        log = Log(runtime, SYSTEM_LOG)
        with pytest.raises(UnknownTenantError):
            attempt()
        with request_context(tenant_id="ghost", roles={"tenant_admin"}), pytest.raises(AuthenticationError):
            attempt()
        assert [event["outcome"] for event in log.new()] == ["denied", "denied"]
    assert list(tmp_path.iterdir()) == []


# API keys


async def test_an_api_key_opens_its_own_tenant_in_its_roles_until_it_is_revoked(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    log = Log(runtime, tenant_id)
    text = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="bob")
    (key,) = runtime.api_keys.list(tenant_id)
    assert text.split("_")[2] not in repr(key), "the secret is kept"
    with request_context(authorization=f"Bearer {text}"):
        memory_id = await runtime.memory.store(sample_memory("bob"), {})
        with pytest.raises(PermissionDeniedError):
            await runtime.memory.store(sample_memory("alice"), {})
    stored = [event for event in log.new() if event["action"] == "memory.store" and event["outcome"] == "allowed"]
    assert [event["actor"]["id"] for event in stored] == [key.key_id]
    assert stored[0]["resource_ids"] == [memory_id]
    assert runtime.api_keys.revoke(tenant_id, key.key_id)
    assert not runtime.api_keys.revoke(tenant_id, key.key_id), "revoked twice"
    with request_context(authorization=text), pytest.raises(AuthenticationError) as refused:
        await runtime.memory.retrieve("tabs", "bob")
    assert refused.value.reason == "revoked_key"
    actions = [event["action"] for event in log.new() if event["category"] == "administration"]
    assert actions == ["api_key.create", "api_key.revoke"]


async def test_an_expired_key_opens_nothing(runtime: CloudRuntime, tenant_id: str) -> None:
    for moment in (datetime.now(UTC), datetime.now(UTC).replace(tzinfo=None)):
        text = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=moment)
        with request_context(authorization=text), pytest.raises(AuthenticationError) as refused:
            await runtime.memory.retrieve("tabs", "bob")
        assert refused.value.reason == "expired_key"


def test_a_naive_expiry_is_utc(runtime: CloudRuntime, tenant_id: str) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=30)
    runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=moment.replace(tzinfo=None))
    (key,) = runtime.api_keys.list(tenant_id)
    assert key.expires_at == moment


@pytest.mark.parametrize(
    ("roles", "user_id"),
    [
        (set(), None),
        ({"operator"}, None),
        ({"service", "operator"}, None),
        ({"root"}, None),
        ("service", None),
        ({"member"}, None),
    ],
)
def test_a_key_without_a_fitting_role_is_not_made(
    runtime: CloudRuntime, tenant_id: str, roles: Any, user_id: str | None
) -> None:
    with pytest.raises(ConfigurationError):
        runtime.api_keys.create(tenant_id, roles=roles, user_id=user_id)
    assert runtime.api_keys.list(tenant_id) == []


@pytest.mark.parametrize("user_id", ["", " ", "a\nb", "a\0b", "\ud800", "u" * 257, 7])
def test_a_key_for_nobody_is_not_made(runtime: CloudRuntime, tenant_id: str, user_id: Any) -> None:
    with pytest.raises(InvalidFilterError):
        runtime.api_keys.create(tenant_id, roles={"member"}, user_id=user_id)
    assert runtime.api_keys.list(tenant_id) == []


def test_a_key_of_another_tenant_cannot_be_revoked(runtime: CloudRuntime, tenant_id: str) -> None:
    other = runtime.tenants.create(new_name()).tenant_id
    key_id = runtime.api_keys.create(other, roles={"service"}).split("_")[1]
    assert not runtime.api_keys.revoke(tenant_id, key_id)
    assert [key.revoked_at for key in runtime.api_keys.list(other)] == [None]


# Terms


def test_new_terms_hold_from_the_next_operation_on(runtime: CloudRuntime) -> None:
    name = new_name()
    runtime.tenants.create(name, plan="team", limits={"memories": 7})
    log = Log(runtime, name)
    changed = runtime.tenants.change(name, plan="free", limits={"memories": 0})
    assert (changed.plan, changed.limits) == ("free", {"memories": 0})
    assert runtime.usage.check_quota(name, "memory.store")[0] is False
    assert runtime.tenants.change(name, limits={"memories": None}).limits == {"memories": None}
    assert runtime.tenants.change(name, drop_limits={"memories"}).limits == {}
    assert [event["action"] for event in log.new()] == ["tenant.change"] * 3
    assert log.new()[0]["details"] == {"plan": "free", "limits": {"memories": 0}, "dropped": []}


@pytest.mark.parametrize(
    "terms",
    [
        {"plan": "gold"},
        {"limits": {"memory": 5}},
        {"limits": {"memories": -2}},
        {"drop_limits": {"wishes"}},
        {"limits": {"memories": 5}, "drop_limits": {"memories"}},
    ],
)
def test_terms_that_do_not_exist_change_nothing_and_are_recorded(runtime: CloudRuntime, terms: Any) -> None:
    name = new_name()
    before = runtime.tenants.create(name, plan="team")
    log = Log(runtime, SYSTEM_LOG)
    with pytest.raises(ConfigurationError):
        runtime.tenants.change(name, **terms)
    assert (log.only()["action"], log.only()["outcome"]) == ("tenant.change", "failed")
    (after,) = [one for one in runtime.tenants.list() if one.tenant_id == name]
    assert after.same_terms(before)


@pytest.mark.parametrize("name", ["nobody-here", "", "NO"])
def test_terms_of_nobody_cannot_be_changed(runtime: CloudRuntime, name: str) -> None:
    with pytest.raises(UnknownTenantError):
        runtime.tenants.change(name, plan="free")
