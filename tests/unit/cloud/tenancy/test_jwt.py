"""Tokens: what a good one says, and every way in which one is refused, with real keys and signatures."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.errors import AuthenticationError, ConfigurationError
from cloud.kernel.scope import Role
from cloud.tenancy.jwt import ALGORITHMS, MAX_TOKEN_CHARACTERS, Token, TokenPolicy, read_header, verify
from cloud.tenancy.key_sets import parse_key_set
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, b64, claims, hmac_with, key_set, token

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
NOW_S = NOW.timestamp()
POLICY = TokenPolicy(ISSUER, AUDIENCE, frozenset({"RS256", "ES256", "EdDSA", "Ed25519"}))
KEYS = {name: SigningKey(name, f"key-{name}") for name in ("RS256", "ES256", "EdDSA")}
RSA, EC, ED = KEYS["RS256"], KEYS["ES256"], KEYS["EdDSA"]
OTHER_EC = SigningKey("ES256", EC.key_id)
SET = parse_key_set(key_set(*KEYS.values()), POLICY.algorithms)
each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)


UTF_16_HEADER = json.dumps({"alg": "ES256", "kid": "key-ES256"}).encode("utf-16")
TWO_ALGORITHMS = b'{"alg": "none", "alg": "ES256", "kid": "key-ES256"}'
ENDLESS = json.dumps(claims(NOW_S, exp=...)).encode()[:-1] + b', "exp": 1e999}'


def opened(text: object, *, policy: TokenPolicy = POLICY, now: datetime = NOW) -> Token:
    """What the two steps of a check say together."""
    header = read_header(text, policy)
    key = SET.find(header.key_id, header.algorithm)
    if key is None:
        raise AuthenticationError("token_unknown_key", "")
    assert isinstance(text, str)
    return verify(text, key, policy, now)


def reason(text: object, **how: Any) -> str:
    with pytest.raises(AuthenticationError) as refused:
        opened(text, **how)
    if isinstance(text, str) and text:
        shown = f"{refused.value} {refused.value!r} {vars(refused.value)}"
        assert not any(len(part) > 8 and part in shown for part in text.split("."))
        assert refused.value.__suppress_context__ or refused.value.__context__ is None, "a library's message shows"
    return refused.value.reason


def good(**changed: Any) -> dict[str, Any]:
    return claims(NOW_S, **changed)


@each_key
def test_a_good_token_says_who_may_do_what_where(key: SigningKey) -> None:
    found = opened(token(key, good(sub="dana", roles=["service", "payroll"])))
    assert (found.tenant_id, found.user_id, found.subject, found.roles) == ("acme", "dana", "dana", {Role.SERVICE})
    assert found.expires_at == NOW + timedelta(seconds=300 + POLICY.leeway_s)
    assert "dana" not in repr(found)


def test_both_names_of_one_algorithm_are_one() -> None:
    for name in ("EdDSA", "Ed25519"):
        assert opened(token(ED, good(), alg=name)).tenant_id == "acme"


BAD_TOKENS: dict[str, tuple[object, str]] = {
    # What is no token
    "nothing": ("", "token_malformed"),
    "no text": (b"a.b.c", "token_malformed"),
    "a word": ("token", "token_malformed"),
    "two parts": (token(EC, good()).rpartition(".")[0], "token_malformed"),
    "four parts": (token(EC, good()) + ".x", "token_malformed"),
    "a space within": (token(EC, good()).replace(".", ". ", 1), "token_malformed"),
    "a newline after": (token(EC, good()) + "\n", "token_malformed"),
    "padding": (token(EC, good()) + "==", "token_malformed"),
    "too large": ("a" * MAX_TOKEN_CHARACTERS + ".a.a", "token_malformed"),
    "a header that is no JSON": (f"{b64(b'alg')}.e30.e30", "token_malformed"),
    "a header that is a list": (f"{b64(b'[]')}.e30.e30", "token_malformed"),
    "a header nested without end": (f"{b64(b'[' * 9000)}.e30.e30", "token_malformed"),
    "a header in another encoding": (f"{b64(UTF_16_HEADER)}.e30.e30", "token_malformed"),
    "a header with an algorithm twice": (f"{b64(TWO_ALGORITHMS)}.e30.e30", "token_malformed"),
    # Algorithms
    "alg none": (token(EC, good(), alg="none"), "token_algorithm"),
    "alg none, unsigned": (token(EC, good(), alg="none", sign=lambda _: b""), "token_algorithm"),
    "alg None": (token(EC, good(), alg="None"), "token_algorithm"),
    "alg left out": (token(EC, good(), alg=...), "token_algorithm"),
    "alg a list": (token(EC, good(), alg=["ES256"]), "token_algorithm"),
    "HS256 with the public key": (token(RSA, good(), alg="HS256", sign=hmac_with(RSA.pem())), "token_algorithm"),
    "HS256 with the key id": (token(RSA, good(), alg="HS256", sign=hmac_with(b"key-RS256")), "token_algorithm"),
    "an algorithm that is not allowed": (token(RSA, good(), alg="RS512"), "token_algorithm"),
    # Keys
    "a key id of nobody": (token(EC, good(), kid="stranger"), "token_unknown_key"),
    "no key id": (token(EC, good(), kid=...), "token_unknown_key"),
    "an empty key id": (token(EC, good(), kid=""), "token_unknown_key"),
    "a key id that is a number": (token(EC, good(), kid=7), "token_unknown_key"),
    "a key id too long": (token(EC, good(), kid="k" * 300), "token_unknown_key"),
    "a key of another algorithm": (token(EC, good(), kid=RSA.key_id), "token_unknown_key"),
    "signed by somebody else": (token(OTHER_EC, good()), "token_bad_signature"),
    "a key of its own": (token(OTHER_EC, good(), jwk=OTHER_EC.jwk()), "token_header"),
    "a place to get a key from": (token(OTHER_EC, good(), jku="https://evil.example/keys"), "token_header"),
    "a certificate of its own": (token(OTHER_EC, good(), x5c=["MIIB"]), "token_header"),
    "a place to get a certificate from": (token(OTHER_EC, good(), x5u="https://evil.example/c"), "token_header"),
    "an extension to be understood": (token(EC, good(), crit=["exp"], exp=1), "token_header"),
    "an extension that is none": (token(EC, good(), crit=[]), "token_header"),
    "an unencoded payload": (token(EC, good(), b64=False, crit=["b64"]), "token_header"),
    "a logout token": (token(EC, good(), typ="logout+jwt"), "token_header"),
    "a proof of possession": (token(EC, good(), typ="dpop+jwt"), "token_header"),
    # Signatures
    "no signature": (token(EC, good(), sign=lambda _: b""), "token_bad_signature"),
    "a signature of zeros": (token(EC, good(), sign=lambda _: bytes(64)), "token_bad_signature"),
    "a signature cut short": (token(EC, good())[:-4], "token_bad_signature"),
    "a signature cut long": (token(EC, good()) + "AAAA", "token_bad_signature"),
    "a signature of something else": (token(EC, good(), sign=lambda _: EC.sign(b"else")), "token_bad_signature"),
    # Payloads
    "a payload that is no JSON": (token(EC, b"claims"), "token_malformed"),
    "a payload that is a list": (token(EC, b"[]"), "token_malformed"),
    "a payload nested without end": (token(EC, b'{"a":' + b"[" * 9000), "token_malformed"),
    "a payload with a claim twice": (token(EC, b'{"sub": "a", "sub": "b"}'), "token_malformed"),
    "no claims": (token(EC, {}), "token_claims"),
    # Claims
    "another issuer": (token(EC, good(iss="https://issuer.example/")), "token_foreign_issuer"),
    "an issuer that begins alike": (token(EC, good(iss=ISSUER + ".evil")), "token_foreign_issuer"),
    "no issuer": (token(EC, good(iss=...)), "token_claims"),
    "issuers in a list": (token(EC, good(iss=[ISSUER])), "token_foreign_issuer"),
    "another audience": (token(EC, good(aud="payroll")), "token_wrong_audience"),
    "other audiences": (token(EC, good(aud=["payroll", "luminescent2"])), "token_wrong_audience"),
    "no audience": (token(EC, good(aud=...)), "token_claims"),
    "an audience that is a number": (token(EC, good(aud=7)), "token_wrong_audience"),
    "expired": (token(EC, good(exp=int(NOW_S) - 61)), "token_expired"),
    "expired to the second": (token(EC, good(exp=int(NOW_S) - 60)), "token_expired"),
    "no expiry": (token(EC, good(exp=...)), "token_claims"),
    "an expiry in words": (token(EC, good(exp="tomorrow")), "token_claims"),
    "an expiry that is true": (token(EC, good(exp=True)), "token_claims"),
    "an expiry without end": (token(EC, ENDLESS), "token_claims"),
    "not valid yet": (token(EC, good(nbf=int(NOW_S) + 61)), "token_not_yet_valid"),
    "issued in an hour": (token(EC, good(iat=int(NOW_S) + 3600, exp=int(NOW_S) + 3700)), "token_not_yet_valid"),
    "no time of issue": (token(EC, good(iat=...)), "token_claims"),
    "lives too long": (token(EC, good(exp=int(NOW_S) + 90_000)), "token_too_old"),
    "lives for ages": (token(EC, good(exp=10**300)), "token_too_old"),
    "issued long ago": (token(EC, good(iat=int(NOW_S) - 90_000)), "token_too_old"),
    "issued before time": (token(EC, good(iat=-(10**300))), "token_too_old"),
    "no subject": (token(EC, good(sub=...)), "token_claims"),
    "an empty subject": (token(EC, good(sub="")), "token_claims"),
    "a subject that is nobody's": (token(EC, good(sub="a\0b")), "token_claims"),
    "a subject that is a number": (token(EC, good(sub=7)), "token_claims"),
    "bound to a key of its holder": (token(EC, good(cnf={"jkt": "x"})), "token_bound"),
    "no tenant": (token(EC, good(tenant_id=...)), "token_claims"),
    "a tenant that none can be": (token(EC, good(tenant_id="_system")), "token_claims"),
    "tenants in a list": (token(EC, good(tenant_id=["acme"])), "token_claims"),
    "no roles": (token(EC, good(roles=...)), "token_without_role"),
    "roles of others": (token(EC, good(roles=["admin", "operator", "SERVICE", ""])), "token_without_role"),
    "roles that are numbers": (token(EC, good(roles=[7])), "token_claims"),
    "roles that are an object": (token(EC, good(roles={"service": True})), "token_claims"),
}


@pytest.mark.parametrize("label", BAD_TOKENS)
def test_a_bad_token_is_refused_with_its_code_and_shows_nothing(label: str) -> None:
    text, code = BAD_TOKENS[label]
    assert reason(text) == code


def test_the_token_all_of_them_were_made_of_is_good() -> None:
    assert opened(token(EC, good()))


@each_key
@given(data=st.data())
def test_whichever_byte_is_flipped_the_token_opens_nothing(key: SigningKey, data: st.DataObject) -> None:
    text = token(key, good()).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(1, 255))
    flipped = text[:place] + bytes([text[place] ^ bit]) + text[place + 1 :]
    assert reason(flipped.decode("latin-1")).startswith("token_")


@given(length=st.integers(0, 600))
def test_a_token_cut_anywhere_opens_nothing(length: int) -> None:
    text = token(EC, good())
    if length < len(text):
        assert reason(text[:length]).startswith("token_")


@given(text=st.text(max_size=400))
def test_whatever_is_no_token_is_refused_and_nothing_else_is_raised(text: str) -> None:
    assert reason(text).startswith("token_")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(good())), value=json_values)
def test_whatever_a_claim_holds_the_answer_is_a_token_or_a_refusal(name: str, value: object) -> None:
    with contextlib.suppress(AuthenticationError):
        found = opened(token(ED, good(**{name: value})))
        assert found.roles <= {Role.SERVICE, Role.MEMBER, Role.TENANT_ADMIN, Role.AUDITOR}


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_jumps_an_hour_opens_nothing_until_it_is_right_again(jump: timedelta) -> None:
    text = token(EC, good())
    assert opened(text)
    assert reason(text, now=NOW + jump) == ("token_expired" if jump > timedelta(0) else "token_not_yet_valid")
    assert opened(text)


def test_clocks_may_differ_by_the_leeway() -> None:
    assert opened(token(EC, good(exp=int(NOW_S) - 59)))
    assert opened(token(EC, good(nbf=int(NOW_S) + 60, iat=int(NOW_S) + 60)))


def test_a_revoked_token_written_another_way_is_the_same_token() -> None:
    """An ECDSA signature (r, s) holds as (r, n - s) too: the mark of a token must not depend on it."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def mirrored(signed: bytes) -> bytes:
        raw = EC.sign(signed)
        return raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")

    assert opened(token(EC, good(), sign=mirrored)).tag == opened(token(EC, good())).tag
    assert opened(token(EC, good(sub="bob"))).tag != opened(token(EC, good())).tag


# What claims mean


def test_claims_are_found_where_the_policy_says() -> None:
    policy = TokenPolicy(
        ISSUER,
        AUDIENCE,
        POLICY.algorithms,
        roles={"memory-user": Role.MEMBER, "dpo": Role.TENANT_ADMIN},
        tenant_claim="https://acme.example/tenant",
        user_claim="/app/user~1id",
        roles_claim="/realm_access/roles",
    )
    given = good(
        tenant_id="globex",
        roles=["service"],
        **{"https://acme.example/tenant": "acme", "app": {"user/id": "bob"}, "realm_access": {"roles": ["dpo", "x"]}},
    )
    found = opened(token(EC, given), policy=policy)
    assert (found.tenant_id, found.user_id, found.subject, found.roles) == ("acme", "bob", "alice", {Role.TENANT_ADMIN})
    member = given | {"realm_access": {"roles": ["memory-user"]}}
    assert opened(token(EC, member), policy=policy).roles == {Role.MEMBER}
    for app in (..., None, {}, [], "bob", {"user/id": None}):
        nobody = {name: value for name, value in (member | {"app": app}).items() if value is not ...}
        assert reason(token(EC, nobody), policy=policy) == "token_claims", "a member without a person"
    without = {name: value for name, value in given.items() if name != "app"}
    assert opened(token(EC, without), policy=policy).user_id is None


def test_roles_may_be_one_text() -> None:
    assert opened(token(EC, good(roles="openid service auditor"))).roles == {Role.SERVICE, Role.AUDITOR}


@pytest.mark.parametrize("algorithms", [set(), {"none"}, {"HS256"}, {"RS256", "HS512"}, {"dir"}, {"RSA-OAEP"}])
def test_nothing_symmetric_can_be_allowed(algorithms: set[str]) -> None:
    with pytest.raises(ConfigurationError):
        TokenPolicy(ISSUER, AUDIENCE, frozenset(algorithms))
    assert not any(name.startswith(("HS", "none")) for name in ALGORITHMS)


def test_no_token_can_bring_the_operator() -> None:
    with pytest.raises(ConfigurationError):
        TokenPolicy(ISSUER, AUDIENCE, POLICY.algorithms, roles={"root": Role.OPERATOR})
