"""What each role may do: one table, decided purely.

| action group | service | member | tenant_admin | auditor | operator |
|---|---|---|---|---|---|
| memories | any user | itself | any user | – | – |
| a person's erasure and export | – | – | yes | – | – |
| usage | – | – | yes | – | yes |
| audit log of the tenant | – | – | yes | yes | – |
| the system's audit log | – | – | – | – | yes |
| tenants, API keys | – | – | – | – | yes |
| the leak test | – | – | – | – | yes |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.kernel.scope import Principal, Role


class Action(StrEnum):
    """Everything that leaves an audit event."""

    MEMORY_STORE = "memory.store"
    MEMORY_STORE_MANY = "memory.store_many"
    MEMORY_RETRIEVE = "memory.retrieve"
    MEMORY_SEARCH = "memory.search"
    MEMORY_GET = "memory.get"
    MEMORY_DELETE = "memory.delete"
    ERASURE_PREVIEW = "gdpr.preview"
    ERASURE = "gdpr.erase"
    ERASURE_STEP = "gdpr.erase.step"
    ACCESS_REQUEST = "gdpr.export"
    USAGE_READ = "usage.read"
    USAGE_TRACK = "usage.track"
    AUDIT_EXPORT = "audit.export"
    AUDIT_READ = "audit.read"
    AUDIT_SYSTEM = "audit.system"
    TENANT_CREATE = "tenant.create"
    TENANT_SUSPEND = "tenant.suspend"
    TENANT_RESUME = "tenant.resume"
    TENANT_LIST = "tenant.list"
    API_KEY_CREATE = "api_key.create"
    API_KEY_REVOKE = "api_key.revoke"
    API_KEY_LIST = "api_key.list"
    EXTERNAL_EVENT = "external.event"
    SECURITY_EVENT = "security.event"
    SERVICE_START = "service.start"
    LEAK_TEST = "leak_test.run"
    LEAK_TEST_STEP = "leak_test.run.step"


_MEMORY: Final = frozenset(
    {
        Action.MEMORY_STORE,
        Action.MEMORY_STORE_MANY,
        Action.MEMORY_RETRIEVE,
        Action.MEMORY_SEARCH,
        Action.MEMORY_GET,
        Action.MEMORY_DELETE,
    }
)
_PERSON: Final = frozenset({Action.ERASURE_PREVIEW, Action.ERASURE, Action.ACCESS_REQUEST})
_AUDIT: Final = frozenset({Action.AUDIT_EXPORT, Action.AUDIT_READ})
_USAGE: Final = frozenset({Action.USAGE_READ})
_TENANTS: Final = frozenset(
    {
        Action.TENANT_CREATE,
        Action.TENANT_SUSPEND,
        Action.TENANT_RESUME,
        Action.TENANT_LIST,
        Action.API_KEY_CREATE,
        Action.API_KEY_REVOKE,
        Action.API_KEY_LIST,
    }
)
_SYSTEM: Final = frozenset({Action.AUDIT_SYSTEM, Action.LEAK_TEST})

_GRANTS: Final[dict[Role, frozenset[Action]]] = {
    Role.SERVICE: _MEMORY,
    Role.MEMBER: _MEMORY,
    Role.TENANT_ADMIN: _MEMORY | _PERSON | _USAGE | _AUDIT,
    Role.AUDITOR: _AUDIT,
    Role.OPERATOR: _TENANTS | _USAGE | _SYSTEM,
}
_ANY_USER: Final = frozenset({Role.SERVICE, Role.TENANT_ADMIN})


@dataclass(frozen=True, slots=True)
class Allowed:
    """The action is permitted.

    Attributes:
        only_own: The principal may touch its own memories alone.
    """

    only_own: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The action is not permitted, and why, as a code."""

    reason: str


def decide(principal: Principal, action: Action, *, user_id: str | None = None) -> Allowed | Refused:
    """Whether `principal` may do `action` to the memories of `user_id`; nothing is permitted that no role grants.

    Args:
        principal: Who is acting.
        action: What is asked for.
        user_id: The person whose memories are meant, or `None` when the action names no person.
    """
    granting = {role for role in principal.roles if action in _GRANTS[role]}
    if not granting:
        return Refused("role_missing")
    if action not in _MEMORY or granting & _ANY_USER:
        return Allowed(only_own=False)
    if principal.user_id is None:
        return Refused("member_without_user")
    if user_id is not None and user_id != principal.user_id:
        return Refused("other_user")
    return Allowed(only_own=True)
