"""Where a key opens from, when it was used, and how it is followed by another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from cloud import CloudRuntime, request_context
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    PermissionDeniedError,
)
from cloud.tenancy.access_review import Finding
from cloud.tenancy.model import ApiKeyRecord, KeyState
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker

OFFICE = ["192.0.2.0/24", "2001:db8::/32"]


def key_id(text: str) -> str:
    return text.split("_")[1]


def record(runtime: CloudRuntime, tenant_id: str, text: str) -> ApiKeyRecord:
    (found,) = [key for key in runtime.api_keys.list(tenant_id) if key.key_id == key_id(text)]
    return found


async def stores(runtime: CloudRuntime, text: str, address: str | None, user_id: str = "alice") -> str | None:
    """The reason for which a key may not store from an address; `None` if it may."""
    with request_context(authorization=f"Bearer {text}", client_address=address):
        try:
            await runtime.memory.store(sample_memory(user_id), {})
        except AuthenticationError as error:
            return error.reason
    return None


# Ranges


@pytest.mark.parametrize("user_id", [None, "alice"])
async def test_a_key_opens_from_its_ranges_alone(runtime: CloudRuntime, tenant_id: str, user_id: str | None) -> None:
    roles = {"member"} if user_id else {"service"}
    text = runtime.api_keys.create(tenant_id, roles=roles, user_id=user_id, ip_ranges=OFFICE)
    for inside in ("192.0.2.1", "192.0.2.255", "::ffff:192.0.2.9", "2001:db8:1::9"):
        assert await stores(runtime, text, inside) is None
    for outside in ("192.0.3.1", "::ffff:192.0.3.1", "2001:db9::1", "127.0.0.1", "::1", "::"):
        assert await stores(runtime, text, outside) == "address_not_allowed"
    assert await stores(runtime, text, None) == "address_unknown"
    assert [str(one) for one in record(runtime, tenant_id, text).ip_ranges] == OFFICE


async def test_an_address_passed_with_a_call_is_nobodys_word(runtime: CloudRuntime, tenant_id: str) -> None:
    """The context of a call may come from outside; where a caller is, only the host can say."""
    text = runtime.api_keys.create(tenant_id, roles={"service"}, ip_ranges=OFFICE)
    with pytest.raises(AuthenticationError):
        await runtime.memory.store(sample_memory("alice"), {"authorization": text, "client_address": "192.0.2.1"})


async def test_a_key_without_ranges_opens_from_anywhere(runtime: CloudRuntime, tenant_id: str) -> None:
    text = runtime.api_keys.create(tenant_id, roles={"service"})
    for address in (None, "203.0.113.1", "2001:db8::1"):
        assert await stores(runtime, text, address) is None


async def test_no_address_stands_in_the_log_or_beside_a_persons_key(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    text = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice", ip_ranges=["198.51.100.77"])
    with onlooker.new_events() as events:
        assert await stores(runtime, text, "198.51.100.78") == "address_not_allowed"
        assert await stores(runtime, text, "198.51.100.77") is None
    assert [event["outcome"] for event in events] == ["denied", "allowed"]
    assert events[0]["details"]["source"] == f"key:{key_id(text)}"
    rows = onlooker.rows("SELECT * FROM api_keys WHERE tenant_id = :tenant", tenant=tenant_id)
    assert "198.51.100" not in f"{events} {rows}"


async def test_whose_secret_is_wrong_learns_nothing_of_the_ranges(runtime: CloudRuntime, tenant_id: str) -> None:
    text = runtime.api_keys.create(tenant_id, roles={"service"}, ip_ranges=OFFICE)
    assert await stores(runtime, f"{text[:-64]}{'0' * 64}", "203.0.113.1") == "invalid_key"


def test_the_database_keeps_no_persons_ranges_in_the_clear(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    text = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice")
    maintenance = onlooker.installation.engines.maintenance
    statement = sa.text("UPDATE api_keys SET ip_ranges = '{10.0.0.0/8}' WHERE key_id = :id")
    with pytest.raises(IntegrityError, match="ck_api_keys_ranges"):
        maintenance.transaction(lambda connection: connection.execute(statement, {"id": key_id(text)}))


async def test_ranges_copied_from_another_persons_key_open_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    wide = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="bob", ip_ranges=["0.0.0.0/0"])
    narrow = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice", ip_ranges=OFFICE)
    statement = sa.text(
        "UPDATE api_keys SET ranges_sealed = (SELECT ranges_sealed FROM api_keys WHERE key_id = :wide)"
        " WHERE key_id = :id"
    )
    ids = {"wide": key_id(wide), "id": key_id(narrow)}
    onlooker.installation.engines.maintenance.transaction(lambda connection: connection.execute(statement, ids))
    for address in ("203.0.113.1", "192.0.2.1"):
        assert await stores(runtime, narrow, address) == "person_erased"


@pytest.mark.parametrize("ranges", [["office"], ["192.0.2.1/24"], "10.0.0.0/8", [""], [None], ["10.0.0.0/8"] + [1]])
def test_ranges_that_are_none_make_no_key(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, ranges: Any
) -> None:
    with onlooker.new_events() as events, pytest.raises(InvalidFilterError, match="ip_ranges"):
        runtime.api_keys.create(tenant_id, roles={"service"}, ip_ranges=ranges)
    assert [(event["action"], event["outcome"]) for event in events] == [("api_key.create", "failed")]
    assert runtime.api_keys.list(tenant_id) == []


# Last use


async def test_a_key_tells_the_minute_of_its_last_use(runtime: CloudRuntime, tenant_id: str) -> None:
    used = runtime.api_keys.create(tenant_id, roles={"service"})
    unused = runtime.api_keys.create(tenant_id, roles={"service"})
    refused = runtime.api_keys.create(tenant_id, roles={"service"}, ip_ranges=OFFICE)
    before = datetime.now(UTC) - timedelta(minutes=1)
    await stores(runtime, used, None)
    await stores(runtime, refused, "203.0.113.1")
    at = record(runtime, tenant_id, used).last_used_at
    assert at is not None
    assert before <= at <= datetime.now(UTC)
    assert (at.second, at.microsecond) == (0, 0)
    assert record(runtime, tenant_id, unused).last_used_at is None
    assert record(runtime, tenant_id, refused).last_used_at is None


async def test_no_call_writes_the_use_of_its_key(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[object] = []
    use = runtime._installation.identity.use
    use.flush()
    monkeypatch.setattr(use._store, "used", writes.append)
    text = runtime.api_keys.create(tenant_id, roles={"service"})
    for _ in range(20):
        await stores(runtime, text, None)
    assert writes == []
    use.flush()
    assert writes == [[key_id(text)]]


# Rotation


async def test_a_rotated_key_and_its_successor_open_the_same_until_the_grace_is_over(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    old = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice", ip_ranges=OFFICE)
    with onlooker.new_events() as events:
        new = runtime.api_keys.rotate(tenant_id, key_id(old), grace=timedelta(hours=1))
    assert [(e["log_id"], e["action"], e["outcome"], e["details"]) for e in events] == [
        (tenant_id, "api_key.rotate", "allowed", {"key_id": key_id(old), "successor_id": key_id(new)})
    ]
    for text in (old, new):
        assert await stores(runtime, text, "192.0.2.1") is None
        assert await stores(runtime, text, "203.0.113.1") == "address_not_allowed"
        with pytest.raises(PermissionDeniedError, match="other_user"):
            await stores(runtime, text, "192.0.2.1", "bob")
    followed = record(runtime, tenant_id, old)
    assert followed.successor_id == key_id(new)
    assert followed.expires_at is not None
    left = followed.expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert record(runtime, tenant_id, new).roles == followed.roles


async def test_without_grace_the_old_key_ends_at_once(runtime: CloudRuntime, tenant_id: str) -> None:
    old = runtime.api_keys.create(tenant_id, roles={"service"})
    new = runtime.api_keys.rotate(tenant_id, key_id(old), grace=timedelta(0))
    assert await stores(runtime, old, None) == "expired_key"
    assert await stores(runtime, new, None) is None


def test_a_successor_lives_as_long_as_the_key_was_made_for_and_grace_prolongs_nothing(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    ends_at = datetime.now(UTC) + timedelta(days=30)
    old = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=ends_at)
    new = runtime.api_keys.rotate(tenant_id, key_id(old), grace=timedelta(days=90))
    assert record(runtime, tenant_id, old).expires_at == ends_at
    follower = record(runtime, tenant_id, new).expires_at
    assert follower is not None
    assert abs(follower - ends_at) < timedelta(minutes=1)


def test_a_key_is_rotated_once_and_its_successor_after_it(runtime: CloudRuntime, tenant_id: str) -> None:
    first = runtime.api_keys.create(tenant_id, roles={"service"})
    second = runtime.api_keys.rotate(tenant_id, key_id(first))
    with pytest.raises(ConfigurationError, match=key_id(second)):
        runtime.api_keys.rotate(tenant_id, key_id(first))
    runtime.api_keys.rotate(tenant_id, key_id(second))
    assert len(runtime.api_keys.list(tenant_id)) == 3


def test_two_rotations_at_once_make_one_successor(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    """Both looked before either wrote: the write decides."""
    old = runtime.api_keys.create(tenant_id, roles={"service"})
    store = runtime.api_keys._store
    (found,) = store.keys(tenant_id)
    with onlooker.new_events() as events:
        for number in range(2):
            draft = runtime.api_keys._admissions.operate(Action.API_KEY_ROTATE)
            successor = ApiKeyRecord(f"{number:012x}", tenant_id, b"x" * 32, found.roles, None, None, None, None)
            done = store.rotate_key(tenant_id, key_id(old), successor, ends_at=datetime.now(UTC), audit=draft)
            assert done is (number == 0)
    assert [event["outcome"] for event in events] == ["allowed", "denied"]
    assert len(store.keys(tenant_id)) == 2


def test_a_key_that_opens_nothing_is_not_rotated(runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str) -> None:
    revoked = runtime.api_keys.create(tenant_id, roles={"service"})
    runtime.api_keys.revoke(tenant_id, key_id(revoked))
    expired = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    other = f"{tenant_id}-2"
    runtime.tenants.create(other)
    foreign = runtime.api_keys.create(other, roles={"service"})
    count = len(runtime.api_keys.list(tenant_id))
    with onlooker.new_events() as events:
        for named in (key_id(revoked), key_id(expired), key_id(foreign), "0" * 12, "", "lc_x"):
            with pytest.raises(ConfigurationError):
                runtime.api_keys.rotate(tenant_id, named)
        with pytest.raises(ConfigurationError, match="grace"):
            runtime.api_keys.rotate(other, key_id(foreign), grace=timedelta(seconds=-1))
        with request_context(tenant_id=other, roles={"tenant_admin"}), pytest.raises(PermissionDeniedError):
            runtime.api_keys.rotate(other, key_id(foreign))
    assert [event["outcome"] for event in events] == ["failed"] * 7 + ["denied"]
    assert len(runtime.api_keys.list(tenant_id)) == count


# The access review


async def test_a_review_shows_every_key_and_what_deserves_a_look(runtime: CloudRuntime, tenant_id: str) -> None:
    soon = datetime.now(UTC) + timedelta(days=30)
    fine = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=soon, ip_ranges=OFFICE)
    wide = runtime.api_keys.create(tenant_id, roles={"service", "tenant_admin", "auditor"})
    mine = runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice", ip_ranges=["192.0.2.7"])
    gone = runtime.api_keys.create(tenant_id, roles={"service"})
    runtime.api_keys.revoke(tenant_id, key_id(gone))
    await stores(runtime, fine, "192.0.2.1")
    await stores(runtime, mine, "192.0.2.7")
    found = runtime.api_keys.review(tenant_id)
    keys = {key.key_id: key for key in found.keys}
    assert keys.keys() == {key_id(text) for text in (fine, wide, mine, gone)}
    assert keys[key_id(fine)].findings == ()
    assert set(keys[key_id(wide)].findings) == {Finding.NEVER_USED, Finding.NO_EXPIRY, Finding.MANY_ROLES}
    assert keys[key_id(mine)].findings == (Finding.NO_EXPIRY,)
    assert (keys[key_id(mine)].is_personal, keys[key_id(fine)].is_personal) == (True, False)
    assert [str(one) for one in keys[key_id(mine)].ip_ranges] == ["192.0.2.7/32"]
    assert (keys[key_id(gone)].state, keys[key_id(gone)].findings) == (KeyState.REVOKED, ())
    assert found.findings() == 4
    assert found.tokens is None
    assert "alice" not in repr(found)


async def test_a_key_that_rests_becomes_a_finding(runtime: CloudRuntime, tenant_id: str) -> None:
    text = runtime.api_keys.create(tenant_id, roles={"service"}, expires_at=datetime.now(UTC) + timedelta(days=1))
    await stores(runtime, text, None)
    assert runtime.api_keys.review(tenant_id).findings() == 0
    (key,) = runtime.api_keys.review(tenant_id, stale_after=timedelta(microseconds=1)).keys
    assert key.findings == (Finding.UNUSED,)
    with pytest.raises(ConfigurationError):
        runtime.api_keys.review(tenant_id, stale_after=timedelta(0))


def test_a_tenants_auditor_reviews_its_tenant_and_an_operator_all_of_them(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    other = f"{tenant_id}-2"
    runtime.tenants.create(other)
    for tenant in (tenant_id, other):
        runtime.api_keys.create(tenant, roles={"service"})
    with onlooker.new_events() as events:
        for role in ("auditor", "tenant_admin"):
            with request_context(tenant_id=tenant_id, user_id="dana", roles={role}):
                assert {key.tenant_id for key in runtime.api_keys.review(tenant_id).keys} == {tenant_id}
                for forbidden in (other, "nobody-here", None):
                    with pytest.raises(PermissionDeniedError):
                        runtime.api_keys.review(forbidden)
        assert {tenant_id, other} <= {key.tenant_id for key in runtime.api_keys.review().keys}
        with request_context(tenant_id=tenant_id, roles={"service"}), pytest.raises(PermissionDeniedError):
            runtime.api_keys.review(tenant_id)
    outcomes = [(event["action"], event["outcome"]) for event in events]
    assert outcomes.count(("access.review", "allowed")) == 2
    assert outcomes.count(("access.review_all", "allowed")) == 1
    assert len(outcomes) == 2 * 4 + 2
