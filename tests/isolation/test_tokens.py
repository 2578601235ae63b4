"""Tokens through the door of a real installation: what each opens, that nothing else does, and what the log says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    TenantIsolationError,
    TokenKeysUnavailableError,
    UnknownTenantError,
)
from cloud.memory import CloudMemoryProvider
from cloud.tenancy.fetching import UrlKeySet
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.jwt import TokenPolicy
from cloud.tenancy.key_sets import RemoteTokenKeys
from cloud.tenancy.postgres_tokens import PostgresRevokedTokens, PostgresTokenRegister
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.token_administration import TokenAdministration
from cloud.tenancy.tokens import Tokens
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, b64, claims, hang, key_set, publishing, token

KEY = SigningKey("ES256", "key-1")
POLICY = TokenPolicy(ISSUER, AUDIENCE, frozenset({"ES256", "RS256"}))


class House:
    """The installation behind a door that accepts an issuer's tokens."""

    def __init__(self, runtime: CloudRuntime, url: str, **how: Any) -> None:
        engines, self.config = runtime._installation.engines, runtime.pixeltable_config
        self.now = lambda: datetime.now(UTC)
        keys = RemoteTokenKeys(UrlKeySet(url, deadline_s=1.0), POLICY.algorithms, deadline_s=1.0)
        register = PostgresTokenRegister(engines.app)
        self.tokens = Tokens(POLICY, keys, register, self.config.keyring, lambda: self.now())
        resolver = IdentityResolver(
            self.config.identities._keys,
            self.config.keyring,
            self.config.clock,
            tokens=self.tokens,
            refusals=self.config.identities.refusals,
            **how,
        )
        provider = CloudTenantProvider(resolver)
        self.memory = CloudMemoryProvider(
            replace(self.config, identities=resolver), provider, runtime.audit, runtime.usage
        )
        admissions = runtime.api_keys._admissions
        revoked = PostgresRevokedTokens(engines.maintenance)
        self.administration = TokenAdministration(self.tokens, revoked, admissions, runtime.audit)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with publishing(key_set(KEY)) as publisher:
        yield publisher.url


@pytest.fixture
def house(runtime: CloudRuntime, url: str) -> Iterator[House]:
    made = House(runtime, url)
    yield made
    made.memory.close()


@pytest.fixture
def text(tenant_id: str) -> Callable[..., str]:
    """A token for this test's tenant."""
    return lambda **changed: token(KEY, claims(time.time(), **({"tenant_id": tenant_id} | changed)))


def bearer(text: str) -> dict[str, object]:
    return {"authorization": f"Bearer {text}"}


async def test_a_token_opens_its_tenant_and_the_log_names_a_subject(
    house: House, onlooker: Onlooker, tenant_id: str, text: Callable[..., str]
) -> None:
    with onlooker.new_events() as events, request_context(authorization=f"Bearer {text(sub='dana@acme.example')}"):
        memory_id = await house.memory.store(sample_memory("alice"), {})
        assert [m.id for m in await house.memory.retrieve("tabs", "alice")] == [memory_id]
    assert await house.memory.store(sample_memory("bob"), bearer(text(sub="dana@acme.example")))
    dana = house.config.keyring.resolve_subject(tenant_id, "dana@acme.example", create=False)
    assert dana is not None
    assert [(e["log_id"], e["actor"]) for e in events] == [
        (tenant_id, {"kind": "token", "id": dana.subject_id, "roles": ["service"]})
    ] * 2
    assert "dana" not in repr(onlooker.events())


async def test_a_member_acts_as_itself_alone(house: House, text: Callable[..., str]) -> None:
    mine = bearer(text(roles=["member"]))
    await house.memory.store(sample_memory("alice"), mine)
    with pytest.raises(PermissionDeniedError, match="other_user"):
        await house.memory.store(sample_memory("bob"), mine)
    claim = {**mine, "user_id": "bob"}
    with pytest.raises(PermissionDeniedError, match="other_user"):
        await house.memory.store(sample_memory("bob"), claim)


async def test_a_client_without_a_person_has_a_name_in_the_log_that_is_not_its_own(
    runtime: CloudRuntime, onlooker: Onlooker, url: str, tenant_id: str, text: Callable[..., str]
) -> None:
    house = House(runtime, url)
    house.tokens._policy = replace(POLICY, user_claim="person")
    with onlooker.new_events() as events:
        await house.memory.store(sample_memory("alice"), bearer(text(sub="batch-client")))
    house.memory.close()
    client = house.config.keyring.resolve_subject(tenant_id, "batch-client", create=False)
    assert client is not None
    assert [e["actor"] for e in events] == [{"kind": "token", "id": client.subject_id, "roles": ["service"]}]


async def test_an_auditor_reads_no_memory(house: House, text: Callable[..., str]) -> None:
    with request_context(authorization=text(roles=["auditor"])), pytest.raises(PermissionDeniedError):
        await house.memory.retrieve("tabs", "alice")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": 1}, "token_expired"),
        ({"aud": "payroll"}, "token_wrong_audience"),
        ({"iss": "https://evil.example"}, "token_foreign_issuer"),
        ({"nbf": 4_000_000_000}, "token_not_yet_valid"),
        ({"roles": ["operator"]}, "token_without_role"),
    ],
)
async def test_a_refused_token_changes_nothing_and_leaves_one_event_without_it(
    house: House,
    onlooker: Onlooker,
    text: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, object],
    reason: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = text(**changed)
    before = onlooker.counts()
    with onlooker.new_events() as events, pytest.raises(AuthenticationError) as refused:
        await house.memory.store(sample_memory("alice"), bearer(bad))
    assert refused.value.reason == reason
    assert onlooker.counts() == before
    assert [(e["log_id"], e["category"], e["outcome"], e["reason"]) for e in events] == [
        ("_system", "security", "denied", f"authentication:{reason}")
    ]
    told = f"{refused.value} {events} {[r.getMessage() for r in caplog.records]}"
    assert not any(part in told for part in bad.split("."))


def without_algorithm(good: str) -> str:
    """What `good` says, signed by nobody."""
    return ".".join((b64(b'{"typ":"JWT","alg":"none","kid":"key-1"}'), good.split(".")[1], ""))


def of_somebody_else(good: str) -> str:
    """What `good` says under the name of the issuer's key, signed with another one."""
    signed = good.rpartition(".")[0]
    return f"{signed}.{b64(SigningKey('ES256', 'key-1').sign(signed.encode()))}"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_algorithm, "token_algorithm"),
        (of_somebody_else, "token_bad_signature"),
        (lambda good: good[:-9], "token_bad_signature"),
        (lambda good: good.rpartition(".")[0], "token_malformed"),
    ],
    ids=["alg: none", "signed by somebody else", "cut in its signature", "cut before its signature"],
)
async def test_a_token_that_nobody_signed_changes_nothing_and_leaves_one_event_without_it(
    house: House, onlooker: Onlooker, text: Callable[..., str], spoil: Callable[[str], str], reason: str
) -> None:
    bad = spoil(text())
    before = onlooker.counts()
    with onlooker.new_events() as events, pytest.raises(AuthenticationError) as refused:
        await house.memory.store(sample_memory("alice"), bearer(bad))
    assert refused.value.reason == reason
    assert onlooker.counts() == before
    assert [(e["log_id"], e["category"], e["outcome"], e["reason"]) for e in events] == [
        ("_system", "security", "denied", f"authentication:{reason}")
    ]
    assert not any(part and part in f"{refused.value} {events}" for part in bad.split("."))


async def test_garbage_is_refused_as_a_token_and_a_key_is_never_taken_for_one(
    house: House, runtime: CloudRuntime, tenant_id: str
) -> None:
    for garbage, reason in (
        ("Basic YWxpY2U6", "token_malformed"),
        ("", "token_malformed"),
        ("lc_x", "malformed_credential"),
    ):
        with pytest.raises(AuthenticationError) as refused:
            await house.memory.store(sample_memory("alice"), {"authorization": garbage})
        assert refused.value.reason == reason
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    await house.memory.store(sample_memory("alice"), bearer(key))


async def test_an_installation_without_an_issuer_accepts_no_token(
    runtime: CloudRuntime, text: Callable[..., str]
) -> None:
    with pytest.raises(AuthenticationError) as refused:
        await runtime.memory.store(sample_memory("alice"), bearer(text()))
    assert refused.value.reason == "malformed_credential"
    with pytest.raises(ConfigurationError, match="jwt_issuer"):
        runtime.tokens.check(text())


# Whatever names a tenant names the same one


@pytest.mark.parametrize("trusted_gateway", [False, True])
async def test_a_token_agrees_with_everything_that_names_a_tenant(
    runtime: CloudRuntime, url: str, tenant_id: str, text: Callable[..., str], trusted_gateway: bool
) -> None:
    other = f"{tenant_id}-2"
    runtime.tenants.create(other, plan="team")
    foreign = runtime.api_keys.create(other, roles={"service"})
    house = House(runtime, url, trusted_gateway=trusted_gateway, default_tenant=other)
    for named in ("tenant_id", "x-tenant-id"):
        with pytest.raises(TenantIsolationError, match="conflict"):
            await house.memory.store(sample_memory("alice"), {**bearer(text()), named: other})
        assert await house.memory.store(sample_memory("alice"), {**bearer(text()), named: tenant_id})
    for ambient in ({"tenant_id": other}, {"authorization": foreign}):
        with request_context(roles={"service"}, **ambient), pytest.raises(TenantIsolationError, match="conflict"):
            await house.memory.store(sample_memory("alice"), bearer(text()))
    with (
        request_context(tenant_id=tenant_id, user_id="bob", roles={"service"}),
        pytest.raises(PermissionDeniedError, match="other_user"),
    ):
        await house.memory.store(sample_memory("bob"), bearer(text(roles=["member"])))
    # Beside a token that does not hold nothing else opens anything.
    with request_context(tenant_id=tenant_id, roles={"service"}), pytest.raises(AuthenticationError):
        await house.memory.store(sample_memory("alice"), {**bearer(text(exp=1)), "x-tenant-id": tenant_id})
    house.memory.close()


async def test_a_token_for_a_tenant_that_is_not_here_is_a_stranger(
    house: House, onlooker: Onlooker, text: Callable[..., str]
) -> None:
    with onlooker.new_events() as events, pytest.raises(UnknownTenantError):
        await house.memory.store(sample_memory("alice"), bearer(text(tenant_id="globex-of-nobody")))
    assert [(e["log_id"], e["category"], e["outcome"]) for e in events] == [("_system", "security", "denied")]
    assert house.config.keyring.subjects("globex-of-nobody") == ()


async def test_a_token_of_a_suspended_tenant_opens_nothing(
    house: House, runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, text: Callable[..., str]
) -> None:
    runtime.tenants.suspend(tenant_id)
    with pytest.raises(PermissionDeniedError, match="tenant_suspended"):
        await house.memory.store(sample_memory("alice"), bearer(text()))
    assert onlooker.ledger(tenant_id) == 0


# Revocation


async def test_a_revoked_token_opens_nothing_and_others_of_its_holder_do(
    house: House, onlooker: Onlooker, tenant_id: str, text: Callable[..., str]
) -> None:
    first, second = text(jti="1"), text(jti="2")
    await house.memory.store(sample_memory("alice"), bearer(first))
    with onlooker.new_events() as events:
        expires_at = house.administration.revoke(f"Bearer {first}")
        house.administration.revoke(first)
    assert expires_at > datetime.now(UTC)
    assert [(e["log_id"], e["action"], e["outcome"]) for e in events] == [(tenant_id, "token.revoke", "allowed")] * 2
    with pytest.raises(AuthenticationError) as refused:
        await house.memory.store(sample_memory("alice"), bearer(first))
    assert refused.value.reason == "token_revoked"
    await house.memory.store(sample_memory("alice"), bearer(second))
    with pytest.raises(AuthenticationError):
        house.administration.check(first)
    assert house.administration.check(second).tenant_id == tenant_id


async def test_a_token_that_opens_nothing_cannot_be_revoked_and_the_attempt_is_recorded(
    house: House, onlooker: Onlooker, text: Callable[..., str]
) -> None:
    with onlooker.new_events() as events:
        for nothing, error in (
            (text(exp=1), ConfigurationError),
            ("nonsense", ConfigurationError),
            (text(tenant_id="globex-of-nobody"), UnknownTenantError),
        ):
            with pytest.raises(error):
                house.administration.revoke(nothing)
        with request_context(tenant_id="acme", roles={"tenant_admin"}), pytest.raises(PermissionDeniedError):
            house.administration.revoke(text())
    assert [(e["action"], e["outcome"]) for e in events] == [
        ("token.revoke", "failed"),
        ("token.revoke", "failed"),
        ("token.revoke", "denied"),
        ("token.revoke", "denied"),
    ]


def test_revocations_are_forgotten_long_after_the_token_expired_and_not_before(
    house: House, onlooker: Onlooker, tenant_id: str, text: Callable[..., str]
) -> None:
    house.administration.revoke(text(jti="recent"))
    house.now = lambda: datetime.now(UTC) - timedelta(days=8)
    house.administration.revoke(token(KEY, claims(time.time() - 8 * 86_400, tenant_id, jti="old")))
    house.now = lambda: datetime.now(UTC)
    query = "SELECT count(*) FROM revoked_tokens WHERE tenant_id = :tenant"
    assert onlooker.rows(query, tenant=tenant_id) == [(2,)]
    house.administration.revoke(text(jti="new"))
    assert onlooker.rows(query, tenant=tenant_id) == [(2,)]


# The issuer's keys


async def test_keys_that_hang_hold_no_call_longer_than_their_deadline(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, text: Callable[..., str]
) -> None:
    with publishing(hang) as silent:
        house = House(runtime, silent.url)
        begun_s = time.monotonic()
        with onlooker.new_events() as events, pytest.raises(TokenKeysUnavailableError):
            await house.memory.store(sample_memory("alice"), bearer(text()))
        assert time.monotonic() - begun_s < 3
        begun_s = time.monotonic()
        with pytest.raises(TokenKeysUnavailableError):
            await house.memory.store(sample_memory("alice"), bearer(text()))
        assert time.monotonic() - begun_s < 0.5, "the second call waits for what the first one waited for in vain"
        # Who has another way of showing who calls is served all the time.
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await house.memory.store(sample_memory("alice"), {})
        house.memory.close()
    assert [(e["log_id"], e["outcome"], e["reason"]) for e in events] == [
        ("_system", "denied", "token_keys_unavailable")
    ]
    assert silent.asked == 1


async def test_an_hour_forth_and_back_on_the_clock_closes_and_opens_again(
    house: House, text: Callable[..., str]
) -> None:
    mine = bearer(text())
    await house.memory.store(sample_memory("alice"), mine)
    for hours, reason in ((1, "token_expired"), (-1, "token_not_yet_valid")):
        house.now = lambda hours=hours: datetime.now(UTC) + timedelta(hours=hours)  # type: ignore[misc]
        with pytest.raises(AuthenticationError) as refused:
            await house.memory.store(sample_memory("alice"), mine)
        assert refused.value.reason == reason
    house.now = lambda: datetime.now(UTC)
    await house.memory.store(sample_memory("alice"), mine)
