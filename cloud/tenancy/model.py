"""Tenants and API keys as values."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cloud.kernel.addresses import Address, Range, within
from cloud.kernel.scope import Principal, Role

POOL_SIZE: Final = 16
_KEY_PREFIX: Final = "lc"
# Nothing but what `new_api_key` makes reaches the database.
_KEY: Final = re.compile(rf"{_KEY_PREFIX}_([0-9a-f]{{12}})_([0-9a-f]{{64}})")


class KeyState(StrEnum):
    """Whether an API key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TenantState(StrEnum):
    """Whether a tenant is served.

    `CLOSING` and `CLOSED` have no way back: everything of the tenant is being erased, or is.
    """

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as administrators see it.

    Attributes:
        tenant_id: Its id.
        state: Whether it is served.
        plan: Name of its plan.
        limits: Overrides of the plan's limits, by meter; `None` is unlimited.
        placement: The Pixeltable table of its memories.
        created_at: When it was created (UTC).
    """

    tenant_id: str
    state: TenantState
    plan: str
    limits: dict[str, int | None]
    placement: str
    created_at: datetime

    def same_terms(self, other: Tenant) -> bool:
        """Whether plan and overrides are the same."""
        return (self.plan, self.limits) == (other.plan, other.limits)


def pooled_placement(tenant_id: str) -> str:
    """The pooled table of a tenant: one of 16 by hash, so rewriting one touches a sixteenth of the memories."""
    digest = hashlib.sha256(tenant_id.encode()).digest()
    return f"pool_{int.from_bytes(digest[:8], 'big') % POOL_SIZE:02d}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, and for which tenant."""

    tenant_id: str | None
    principal: Principal


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a refusal.

    Attributes:
        recorded: It has an event of its own; otherwise it was counted.
        due: Counts of earlier minutes wait to be reported.
    """

    recorded: bool
    due: bool


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A stored API key; it holds the hash of the secret, never the secret.

    Attributes:
        key_id: Public part, shown in audit events.
        tenant_id: The tenant it opens.
        secret_hash: SHA-256 of the secret part, 32 bytes.
        roles: What it may do.
        subject_id: The person it is bound to, if any.
        user_sealed: That person's user id, sealed under the person's key.
        expires_at: When it stops working (UTC).
        revoked_at: When it was revoked (UTC).
        ip_ranges: Where it may be used from; empty for anywhere. Of a key that is bound to a person they are sealed
            in `ranges_sealed` and stand here only where somebody who may see them asked.
        ranges_sealed: The ranges of a bound key, sealed under the person's key.
        created_at: When it was made (UTC); the database's word.
        last_used_at: The minute in which it last opened something (UTC); up to a minute behind.
        successor_id: The key that it was rotated to.
    """

    key_id: str
    tenant_id: str
    secret_hash: bytes
    roles: frozenset[Role]
    subject_id: str | None
    user_sealed: bytes | None
    expires_at: datetime | None
    revoked_at: datetime | None
    ip_ranges: tuple[Range, ...] = ()
    ranges_sealed: bytes | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    successor_id: str | None = None

    @property
    def prefix(self) -> str:
        """How the key's text begins: enough to recognize it by, and nothing that opens."""
        return f"{_KEY_PREFIX}_{self.key_id}_"

    def state(self, now: datetime) -> KeyState:
        """Whether it opens anything at `now`."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        return KeyState.EXPIRED if self.expires_at is not None and self.expires_at <= now else KeyState.ACTIVE

    def refusal(self, secret: str, now: datetime) -> str | None:
        """Why this key does not open with `secret` at `now`, as a code; `None` if it does."""
        # A 256-bit random secret needs no slow hash: it cannot be guessed. Constant time, and before the dates, so
        # that only who holds the secret learns that a key expired or was revoked.
        if not hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), self.secret_hash):
            return "invalid_key"
        state = self.state(now)
        return None if state is KeyState.ACTIVE else f"{state.value}_key"


def address_refusal(ranges: tuple[Range, ...], address: Address | None) -> str | None:
    """Why a key with these ranges does not open from `address`, as a code; `None` if it does.

    An address that nobody told is outside every range.
    """
    if not ranges:
        return None
    if address is None:
        return "address_unknown"
    return None if within(ranges, address) else "address_not_allowed"


def new_api_key() -> tuple[str, str, bytes]:
    """A new key: its id, the full text to show once (`lc_<id>_<secret>`), and the hash to keep."""
    key_id = secrets.token_hex(6)
    secret = secrets.token_hex(32)
    return key_id, f"{_KEY_PREFIX}_{key_id}_{secret}", hashlib.sha256(secret.encode()).digest()


def split_api_key(text: str) -> tuple[str, str] | None:
    """Key id and secret of a key's text, with or without `Bearer `; `None` for anything else."""
    found = _KEY.fullmatch(text.removeprefix("Bearer ").strip())
    return (found[1], found[2]) if found else None


def is_like_api_key(text: str) -> bool:
    """Whether a credential wants to be an API key, so that it is never taken for anything else."""
    return text.removeprefix("Bearer ").strip().startswith(f"{_KEY_PREFIX}_")


def is_key_id(value: object) -> bool:
    """Whether `value` can be the id of an API key; anything else stays out of the log."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{12}", value) is not None
