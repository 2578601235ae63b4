"""API keys through the door: what each opens, and that nothing else opens anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import AuthenticationError, PermissionDeniedError, TenantIsolationError
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


def bearer(key: str) -> dict[str, object]:
    return {"authorization": f"Bearer {key}"}


def key_id(key: str) -> str:
    return key.split("_")[1]


async def refused(runtime: CloudRuntime, onlooker: Onlooker, context: Mapping[str, object], reason: str) -> None:
    before = onlooker.counts()
    with onlooker.new_events() as events, pytest.raises(AuthenticationError) as error:
        await runtime.memory.store(sample_memory("alice"), context)
    assert error.value.reason == reason
    assert onlooker.counts() == before
    assert [(e["log_id"], e["category"], e["outcome"]) for e in events] == [("_system", "security", "denied")]
    credential = context.get("authorization")
    assert not isinstance(credential, str) or not credential or credential not in f"{error.value} {events}"


@pytest.mark.parametrize("prefix", ["Bearer ", ""])
async def test_a_key_opens_its_tenant_and_is_named_in_the_log(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, prefix: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    with onlooker.new_events() as events, request_context(authorization=f"{prefix}{key}"):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        assert [m.id for m in await runtime.memory.retrieve("tabs", "alice")] == [memory_id]
    assert await runtime.memory.store(sample_memory("bob"), {"authorization": f"{prefix}{key}"})
    assert {e["log_id"] for e in events} == {tenant_id}
    assert [e["actor"] for e in events] == [{"kind": "api_key", "id": key_id(key), "roles": ["service"]}] * 2
    assert key.split("_")[2] not in repr(onlooker.events(log_id=tenant_id))


async def test_a_key_bound_to_a_person_acts_as_that_person_alone(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice")
    with request_context(tenant_id=tenant_id, roles={"service"}):
        bobs = await runtime.memory.store(sample_memory("bob"), {})
    with request_context(authorization=f"Bearer {key}"):
        own = await runtime.memory.store(sample_memory("alice"), {})
        assert await runtime.memory.get_by_id(own) is not None
        assert await runtime.memory.get_by_id(bobs) is None
        assert await runtime.memory.delete(bobs) is False
        with pytest.raises(PermissionDeniedError):
            await runtime.memory.retrieve("tabs", "bob")
    assert "alice" not in repr(onlooker.rows("SELECT * FROM api_keys WHERE tenant_id = :tenant", tenant=tenant_id))


async def test_a_key_dies_with_the_person_it_is_bound_to(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice")
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    await refused(runtime, onlooker, bearer(key), "invalid_key")


async def test_an_expired_key_opens_nothing(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    now = datetime.now(UTC)
    live = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=now + timedelta(hours=1))
    await runtime.memory.store(sample_memory("alice"), bearer(live))
    dead = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=now - timedelta(seconds=1))
    await refused(runtime, onlooker, bearer(dead), "expired_key")


async def test_a_revoked_key_opens_nothing_from_then_on(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    await runtime.memory.store(sample_memory("alice"), bearer(key))
    assert runtime.api_keys.revoke("somebody-else", key_id(key)) is False
    await runtime.memory.store(sample_memory("alice"), bearer(key))
    assert runtime.api_keys.revoke(tenant_id, key_id(key)) is True
    await refused(runtime, onlooker, bearer(key), "revoked_key")


async def test_garbage_opens_nothing(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    other = runtime.api_keys.create(tenant_id, roles={"service"})
    secret = key.split("_")[2]
    wrong_secret = f"lc_{key_id(key)}_{other.split('_')[2]}"
    for credential in (wrong_secret, key[:-1], f"{key}0", f"lc_{key_id(key)}_", key.upper().replace("LC_", "lc_")):
        with pytest.raises(AuthenticationError):
            await runtime.memory.store(sample_memory("alice"), bearer(credential))
    await refused(runtime, onlooker, bearer(wrong_secret), "invalid_key")
    for unknown in (f"lc_{'0' * 12}_{secret}", f"lc_%_{secret}"):
        with pytest.raises(AuthenticationError):
            await runtime.memory.store(sample_memory("alice"), bearer(unknown))
    for malformed in ("", "Bearer ", "Bearer", "lc", "Basic YWxpY2U6", f"lc_a\0b_{secret}", "lc_ü_x", "x" * 100_000):
        await refused(runtime, onlooker, {"authorization": malformed}, "malformed_credential")
    assert onlooker.ledger(tenant_id) == 0


async def test_a_key_of_another_tenant_conflicts_with_the_tenant_named(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    other = f"{tenant_id}-2"
    runtime.tenants.create(other, plan="team")
    key = runtime.api_keys.create(other, roles={"service"})
    for context in ({"tenant_id": tenant_id}, {"x-tenant-id": tenant_id}):
        with pytest.raises(TenantIsolationError, match="conflict"):
            await runtime.memory.store(sample_memory("alice"), {**bearer(key), **context})
    with (
        request_context(tenant_id=tenant_id, roles={"service"}),
        pytest.raises(TenantIsolationError, match="conflict"),
    ):
        await runtime.memory.store(sample_memory("alice"), bearer(key))
    assert onlooker.ledger(tenant_id) == onlooker.ledger(other) == 0


async def test_a_key_says_more_than_what_a_caller_claims_beside_it(runtime: CloudRuntime, tenant_id: str) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice")
    claims = {**bearer(key), "tenant_id": tenant_id, "user_id": "bob"}
    with pytest.raises(PermissionDeniedError, match="other_user"):
        await runtime.memory.store(sample_memory("bob"), claims)
    with (
        request_context(tenant_id=tenant_id, user_id="bob", roles={"service"}, authorization=f"Bearer {key}"),
        pytest.raises(PermissionDeniedError, match="other_user"),
    ):
        await runtime.memory.store(sample_memory("bob"), {})


async def test_a_key_of_a_suspended_tenant_opens_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    runtime.tenants.suspend(tenant_id)
    with pytest.raises(PermissionDeniedError, match="tenant_suspended"):
        await runtime.memory.store(sample_memory("alice"), bearer(key))
    assert onlooker.ledger(tenant_id) == 0
