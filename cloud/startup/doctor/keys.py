"""The keys: the root key opens the keyring, and the keyring is the one that the control plane's people are in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloud.kernel.errors import KeyDestroyedError, SealBrokenError
from cloud.kernel.findings import Finding, ok, problem
from cloud.startup.doctor.context import Check, Context
from cloud.storage.roles import MAINTENANCE_ROLE

_PEOPLE_LOOKED_AT: Final = 2_000
_RESTORE: Final = (
    "restore the newest backup of the keyring; what is sealed under a key that is in no backup cannot be read again"
)


def root_key(context: Context) -> Iterator[Finding]:
    """There is a root key, and nobody else reads it."""
    context.root_keys  # noqa: B018 - it is there, or this raises
    yield ok("root key", "there, and closed to other accounts")


def keyring(context: Context) -> Iterator[Finding]:
    """The keyring is whole and belongs to the root key."""
    counts = context.keyring.counts()
    yield ok("keyring", f"opens with the root key: {counts.tenants} tenants, {counts.subjects} people")


def keyring_matches(context: Context) -> Iterator[Finding]:
    """Whoever has memories has a key: a keyring that is older than the database would miss the newest people."""
    context.require("revision")
    keyring = context.keyring
    tenants = context.rows(MAINTENANCE_ROLE, "SELECT tenant_id FROM tenants WHERE state <> 'closed'")
    lost = 0
    for (tenant_id,) in tenants:
        try:
            keyring.tenant_key(str(tenant_id))
        except (KeyDestroyedError, SealBrokenError):
            lost += 1
    if lost:
        yield problem("keyring matches", f"{lost} of {len(tenants)} tenants have no key in the keyring", _RESTORE)
    people = context.rows(
        MAINTENANCE_ROLE,
        "SELECT s.tenant_id, s.subject_id::text FROM subjects s WHERE s.state = 'active'"
        " AND EXISTS (SELECT FROM memories m WHERE m.subject_id = s.subject_id AND m.state = 'active')"
        " ORDER BY s.created_at DESC LIMIT :people",
        people=_PEOPLE_LOOKED_AT,
    )
    without = sum(1 for tenant_id, subject_id in people if not _has_key(context, str(tenant_id), str(subject_id)))
    if without:
        text = f"{without} of the newest {len(people)} people with memories have no key in the keyring"
        yield problem("keyring matches", text, _RESTORE)
    if not lost and not without:
        yield ok("keyring matches", f"{len(tenants)} tenants and the newest {len(people)} people have their keys")


def _has_key(context: Context, tenant_id: str, subject_id: str) -> bool:
    try:
        return context.keyring.subject_key(tenant_id, subject_id) is not None
    except SealBrokenError:
        return False


CHECKS: Final[tuple[Check, ...]] = (root_key, keyring, keyring_matches)
