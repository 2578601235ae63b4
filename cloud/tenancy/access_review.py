"""The access review: who may enter with an API key, and which keys somebody should look at. Decided purely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cloud.kernel.addresses import Range
from cloud.kernel.scope import Role
from cloud.tenancy.model import ApiKeyRecord, KeyState

MANY_ROLES: Final = 3
"""From this many roles on a key opens most of a tenant: who has it could do with several keys instead."""


class Finding(StrEnum):
    """What about a key that still opens deserves a look."""

    NEVER_USED = "never_used"
    UNUSED = "unused"
    NO_EXPIRY = "no_expiry"
    MANY_ROLES = "many_roles"


@dataclass(frozen=True, slots=True)
class ReviewedKey:
    """One key in a review.

    Attributes:
        tenant_id: The tenant it opens.
        key_id: Its id.
        prefix: How its text begins.
        state: Whether it opens anything.
        roles: What it may do, sorted.
        is_personal: Whether it acts as one person.
        ip_ranges: Where it may be used from; empty for anywhere.
        created_at: When it was made (UTC).
        expires_at: When it stops working (UTC), if it does.
        revoked_at: When it was revoked (UTC), if it was.
        last_used_at: The minute of its last use (UTC), if it was used.
        successor_id: The key that it was rotated to, if it was.
        findings: What deserves a look; empty for a key that opens nothing.
    """

    tenant_id: str
    key_id: str
    prefix: str
    state: KeyState
    roles: tuple[Role, ...]
    is_personal: bool
    ip_ranges: tuple[Range, ...]
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    successor_id: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """Who may enter beside the keys: the holders of an issuer's tokens.

    Attributes:
        issuer: Who issues them.
        roles: The roles that they can bring, sorted.
    """

    issuer: str
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class AccessReview:
    """Who may enter, at one time.

    Attributes:
        at: When it was taken (UTC).
        stale_after: How long a key may rest unused before that is a finding.
        keys: All keys, by tenant and id; those that open nothing any more included.
        tokens: What tokens can bring, if the installation accepts any.
    """

    at: datetime
    stale_after: timedelta
    keys: tuple[ReviewedKey, ...]
    tokens: TokenAccess | None

    def findings(self) -> int:
        """How many findings there are in all."""
        return sum(len(key.findings) for key in self.keys)


def review(
    records: Iterable[ApiKeyRecord], *, at: datetime, stale_after: timedelta, tokens: TokenAccess | None
) -> AccessReview:
    """The review of these keys at `at`."""
    keys = tuple(
        ReviewedKey(
            tenant_id=record.tenant_id,
            key_id=record.key_id,
            prefix=record.prefix,
            state=record.state(at),
            roles=tuple(sorted(record.roles)),
            is_personal=record.subject_id is not None,
            ip_ranges=record.ip_ranges,
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            last_used_at=record.last_used_at,
            successor_id=record.successor_id,
            findings=tuple(_findings(record, at, stale_after)),
        )
        for record in records
    )
    return AccessReview(at, stale_after, keys, tokens)


def _findings(record: ApiKeyRecord, at: datetime, stale_after: timedelta) -> Iterable[Finding]:
    if record.state(at) is not KeyState.ACTIVE:
        return
    if record.last_used_at is None:
        yield Finding.NEVER_USED
    elif at - record.last_used_at >= stale_after:
        yield Finding.UNUSED
    if record.expires_at is None:
        yield Finding.NO_EXPIRY
    if len(record.roles) >= MANY_ROLES:
        yield Finding.MANY_ROLES
