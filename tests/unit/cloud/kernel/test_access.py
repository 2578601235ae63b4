"""The whole access table, role by role and action by action; an action that stands in no row fails."""

from __future__ import annotations

import itertools

import pytest

from cloud.kernel.access import Action, Allowed, Refused, decide
from cloud.kernel.scope import Principal, PrincipalKind, Role

MEMORY = {
    "memory.store",
    "memory.store_many",
    "memory.retrieve",
    "memory.search",
    "memory.get",
    "memory.delete",
    "memory.import",
    "memory.export",
    "memory.update",
    "memory.supersede",
    "memory.undelete",
    "memory.history",
    "memory.list",
    "memory.count",
}
EVERYBODY = {"memory.export_all"}
PERSON = {
    "gdpr.request",
    "gdpr.list",
    "gdpr.show",
    "gdpr.verify_identity",
    "gdpr.preview",
    "gdpr.cancel",
    "gdpr.reject",
    "gdpr.extend",
    "gdpr.erase",
    "gdpr.certificate",
    "gdpr.export",
    "gdpr.hold",
    "gdpr.release",
    "gdpr.holds",
    "gdpr.scan.take",
}
AUDIT = {"audit.export", "audit.read", "audit.key", "audit.checkpoint"}
TENANTS = {
    "tenant.create",
    "tenant.suspend",
    "tenant.resume",
    "tenant.list",
    "tenant.change",
    "tenant.close",
    "tenant.certificate",
    "tenant.move",
    "embeddings.status",
    "embeddings.migrate",
    "embeddings.rollback",
    "embeddings.finish",
    "api_key.create",
    "api_key.revoke",
    "api_key.list",
    "memory.purge",
    "api_key.rotate",
    "token.revoke",
    "token.check",
    "access.review_all",
}
REVIEW = {"access.review"}
INSTALLATION = {"db.upgrade", "db.check", "doctor.run", "leak_test.run", "gdpr.scan.search"}
NOBODY = {
    "gdpr.erase.step",
    "gdpr.level",
    "memory.retain",
    "memory.import.step",
    "memory.export.step",
    "keyring.step",
    "leak_test.run.step",
    "tenant.close.step",
    "tenant.move.step",
    "embeddings.migrate.step",
    "embeddings.rollback.step",
    "embeddings.finish.step",
    "embeddings.gate",
    "usage.threshold",
    "usage.track",
    "external.event",
    "security.event",
    "security.authentication_failures",
    "security.quota_abuse",
    "security.audit_tampering",
    "audit.export.step",
    "audit.archive.step",
    "audit.archive_delete",
    "audit.archive_delete.step",
    "backup.create.step",
    "backup.restore.step",
    "backup.drill.step",
    "backup.replay",
    "service.start",
}
KEYRING = {
    "keyring.status",
    "keyring.rotate",
    "keyring.backup",
    "keyring.restore",
    "keyring.accept",
    "keyring.reconcile",
    "keyring.destroy_root_key",
}
BACKUPS = {
    "backup.create",
    "backup.list",
    "backup.expire",
    "backup.restore",
    "backup.drill",
    "backup.ledger",
}
HOLDS = {"usage.reserve", "usage.commit", "usage.release"}
"""Steps and reports of the service itself: no caller asks for them by name."""

GRANTED: dict[Role, set[str]] = {
    Role.SERVICE: MEMORY | HOLDS,
    Role.MEMBER: MEMORY | HOLDS,
    Role.TENANT_ADMIN: MEMORY | HOLDS | EVERYBODY | PERSON | AUDIT | REVIEW | {"usage.read"},
    Role.AUDITOR: AUDIT | REVIEW,
    Role.OPERATOR: TENANTS
    | HOLDS
    | REVIEW
    | INSTALLATION
    | KEYRING
    | BACKUPS
    | {"usage.read", "usage.reconcile", "audit.system", "audit.rotate_key", "audit.accept", "audit.archive"},
}
KNOWN = (
    MEMORY
    | HOLDS
    | EVERYBODY
    | PERSON
    | AUDIT
    | TENANTS
    | REVIEW
    | INSTALLATION
    | KEYRING
    | BACKUPS
    | NOBODY
    | {"usage.read", "usage.reconcile", "audit.system", "audit.rotate_key", "audit.accept", "audit.archive"}
)


def principal(*roles: Role, user_id: str | None = None) -> Principal:
    return Principal(PrincipalKind.SUBJECT, frozenset(roles), user_id=user_id)


def test_every_action_stands_in_the_table() -> None:
    assert {action.value for action in Action} == KNOWN
    assert set(GRANTED) == set(Role)


@pytest.mark.parametrize(("role", "action"), list(itertools.product(Role, Action)))
def test_a_role_may_what_the_table_says_and_nothing_else(role: Role, action: Action) -> None:
    verdict = decide(principal(role, user_id="alice"), action, user_id="alice")
    if action.value in GRANTED[role]:
        assert verdict == Allowed(only_own=role is Role.MEMBER and action.value in MEMORY)
    else:
        assert verdict == Refused("role_missing")


@pytest.mark.parametrize("action", list(Action))
def test_without_a_role_nothing_is_permitted(action: Action) -> None:
    assert decide(principal(), action) == Refused("role_missing")


@pytest.mark.parametrize("name", sorted(MEMORY))
def test_a_member_reaches_nobody_else(name: str) -> None:
    action = Action(name)
    assert decide(principal(Role.MEMBER, user_id="alice"), action, user_id="bob") == Refused("other_user")
    assert decide(principal(Role.MEMBER, user_id="alice"), action) == Allowed(only_own=True)
    assert decide(principal(Role.MEMBER), action, user_id="alice") == Refused("member_without_user")
    assert decide(principal(Role.MEMBER), action) == Refused("member_without_user")


@pytest.mark.parametrize("other", ["alice ", "Alice", "alic", "alice2", "", "%"])
def test_a_members_name_is_compared_exactly(other: str) -> None:
    verdict = decide(principal(Role.MEMBER, user_id="alice"), Action.MEMORY_RETRIEVE, user_id=other)
    assert verdict == Refused("other_user")


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR])
def test_a_second_role_without_memories_does_not_free_a_member(role: Role) -> None:
    both = principal(Role.MEMBER, role, user_id="alice")
    assert decide(both, Action.MEMORY_SEARCH, user_id="bob") == Refused("other_user")


@pytest.mark.parametrize("role", [Role.SERVICE, Role.TENANT_ADMIN])
def test_a_role_for_any_user_holds_beside_member(role: Role) -> None:
    both = principal(Role.MEMBER, role, user_id="alice")
    assert decide(both, Action.MEMORY_SEARCH, user_id="bob") == Allowed(only_own=False)
