"""Tokens of an issuer (JWT, RFC 7519), checked purely: what is refused, in which order, and what a good one says.

Rules
1. The algorithm is one of the allowed, all of them asymmetric; `none` and HMAC are not in the list to choose from.
2. The header names the key by its id. A header that brings a key of its own, or names where to get one, is refused
   (RFC 8725 §3.10), and so is any extension that has to be understood (`crit`).
3. The signature is verified before a claim is looked at.
4. Issuer, audience, subject, expiry and time of issue are there and fit; nothing lives longer than the policy allows.
5. A token that is bound to a key of its holder (`cnf`) is refused: the proof of that key is not checked here.
6. Roles that the mapping does not name are dropped: they are for other applications, and dropping never widens. A token
   without a role that is left opens nothing. Nothing maps to `operator`.
7. Every refusal is one declared error with a code, and shows nothing of the token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Never

from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from cloud.kernel.errors import AuthenticationError, ConfigurationError, InvalidFilterError
from cloud.kernel.ids import is_tenant_id
from cloud.kernel.scope import Role
from src.memory.validation import check_user_id

MAX_TOKEN_CHARACTERS: Final = 16_384
MAX_KEY_ID_CHARACTERS: Final = 256
ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Algorithms that a deployment may allow, each with the type and curve of its keys."""

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_KEYS_OF_ITS_OWN: Final = frozenset({"jku", "jwk", "x5u", "x5c"})
_EXTENSIONS: Final = frozenset({"crit", "b64", "zip", "enc"})
_CODE_OF_CLAIM: Final = {
    "iss": "token_foreign_issuer",
    "aud": "token_wrong_audience",
    "nbf": "token_not_yet_valid",
    "iat": "token_not_yet_valid",
}


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Which tokens open anything, and what their claims mean.

    Attributes:
        issuer: The one issuer, compared exactly.
        audience: What a token must be for.
        algorithms: Names out of `ALGORITHMS`.
        roles: The issuer's names of roles, and ours.
        tenant_claim: Claim that names the tenant: its name, or a JSON Pointer (RFC 6901) that begins with `/`.
        user_claim: Claim that names the person; a token without it acts for nobody in particular.
        roles_claim: Claim with the issuer's role names: a list, or one text separated by spaces.
        leeway_s: Seconds by which two clocks may differ.
        max_age_s: Seconds that a token may live, and be used after it was issued.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    roles: Mapping[str, Role] = field(
        default_factory=lambda: {role.value: role for role in Role if role is not Role.OPERATOR}
    )
    tenant_claim: str = "tenant_id"
    user_claim: str = "sub"
    roles_claim: str = "roles"
    leeway_s: int = 60
    max_age_s: int = 86_400

    def __post_init__(self) -> None:
        if not self.algorithms or not self.algorithms <= ALGORITHMS.keys():
            raise ConfigurationError(f"jwt_algorithms are of: {', '.join(ALGORITHMS)}")
        if Role.OPERATOR in self.roles.values():
            # Who operates holds the root key; an issuer that could name operators would hold it too.
            raise ConfigurationError("jwt_roles: no token can bring the role operator")


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What the header names before anything is verified."""

    algorithm: str
    key_id: str


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What a token says whose signature and claims hold.

    Attributes:
        tenant_id: The tenant.
        user_id: The person it acts as, if it names one.
        subject: Its `sub`: the person or the client it was issued to.
        roles: What it may do; never empty.
        tag: SHA-256 of what was signed. The signature is left out: some can be written in two ways.
        expires_at: From when on no clock within the leeway accepts it (UTC).
    """

    tenant_id: str
    user_id: str | None
    subject: str
    roles: frozenset[Role]
    tag: bytes
    expires_at: datetime


class _Pinned(jws.JWSRegistry):
    """Verifies with the allowed algorithms alone; headers were checked before."""

    max_header_length = MAX_TOKEN_CHARACTERS
    max_payload_length = MAX_TOKEN_CHARACTERS

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in (self.allowed or ()):
            _refuse("token_algorithm")
        # The older name of the same algorithm (RFC 9864 §2.2); the library only warns about it.
        return self.algorithms["Ed25519" if name == "EdDSA" else name]


def read_header(text: object, policy: TokenPolicy) -> TokenHeader:
    """Which key the token wants to be verified with.

    Raises:
        AuthenticationError: It is no signed token, or its header is not to be followed.
    """
    if not isinstance(text, str) or len(text) > MAX_TOKEN_CHARACTERS or not _SHAPE.fullmatch(text):
        _refuse("token_malformed")
    header = _object(text.partition(".")[0])
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in policy.algorithms:
        _refuse("token_algorithm")
    if header.keys() & (_KEYS_OF_ITS_OWN | _EXTENSIONS) or not isinstance(kind, str) or kind.lower() not in _TYPES:
        _refuse("token_header")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARACTERS:
        _refuse("token_unknown_key")
    return TokenHeader(algorithm, key_id)


def verify(text: str, key: Key, policy: TokenPolicy, now: datetime) -> Token:
    """What the token says, once its signature holds under `key` and its claims hold at `now`.

    Args:
        text: A token that `read_header` has passed.
        key: The key that its header names.
        policy: Which tokens open anything.
        now: The present, UTC.

    Raises:
        AuthenticationError: One of them does not hold; the reason says which.
    """
    registry = _Pinned(algorithms=policy.algorithms, strict_check_header=False)
    try:
        jws.deserialize_compact(text, key, registry=registry)
    except (JoseError, ValueError, TypeError):
        # From None: the library's messages quote headers.
        raise _refusal("token_bad_signature") from None
    claims = _object(text.split(".")[1])
    _check_claims(claims, policy, now)
    tenant_id, user_id = _claim(claims, policy.tenant_claim), _claim(claims, policy.user_claim)
    roles = _roles(_claim(claims, policy.roles_claim), policy)
    if not isinstance(tenant_id, str) or not is_tenant_id(tenant_id) or (user_id is None and Role.MEMBER in roles):
        _refuse("token_claims")
    try:
        subject = check_user_id(claims["sub"])
        user_id = None if user_id is None else check_user_id(user_id)
    except InvalidFilterError:
        raise _refusal("token_claims") from None
    return Token(
        tenant_id=tenant_id,
        user_id=user_id,
        subject=subject,
        roles=roles,
        tag=hashlib.sha256(text.rpartition(".")[0].encode("ascii")).digest(),
        expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC) + timedelta(seconds=policy.leeway_s),
    )


def _check_claims(claims: dict[str, Any], policy: TokenPolicy, now: datetime) -> None:
    now_s = int(now.timestamp())
    registry = JWTClaimsRegistry(
        now=now_s,
        leeway=policy.leeway_s,
        iss={"essential": True, "value": policy.issuer},
        aud={"essential": True, "value": policy.audience},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        registry.validate(claims)
    except ExpiredTokenError:
        raise _refusal("token_expired") from None
    except MissingClaimError:
        raise _refusal("token_claims") from None
    except ClaimError as error:
        raise _refusal(_CODE_OF_CLAIM.get(error.claim, "token_claims")) from None
    # Compared and never subtracted: a claim may be a number that no float can hold.
    too_long = claims["exp"] > claims["iat"] + policy.max_age_s
    if too_long or claims["iat"] < now_s - policy.max_age_s - policy.leeway_s:
        _refuse("token_too_old")
    if "cnf" in claims:
        _refuse("token_bound")


def _roles(value: object, policy: TokenPolicy) -> frozenset[Role]:
    names = value.split() if isinstance(value, str) else value
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        _refuse("token_claims")
    roles = frozenset(policy.roles[name] for name in names or () if name in policy.roles)
    if not roles:
        _refuse("token_without_role")
    return roles


def _claim(claims: Mapping[str, Any], name: str) -> object:
    if not name.startswith("/"):
        return claims.get(name)
    found: object = claims
    for part in name[1:].split("/"):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found


def _object(segment: str) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(segment.encode("ascii")).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _refusal("token_malformed") from None
    if not isinstance(found, dict):
        _refuse("token_malformed")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Two readers could each take another one of them (RFC 7519 §4).
        raise ValueError
    return found


def _refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(reason, f"this token does not open anything ({reason})")


def _refuse(reason: str) -> Never:
    raise _refusal(reason)
