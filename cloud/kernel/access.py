"""What each role may do: one table, decided purely.

| action group | service | member | tenant_admin | auditor | operator |
|---|---|---|---|---|---|
| memories, their import and export | any user | itself | any user | – | – |
| export of everybody's memories | – | – | yes | – | – |
| a person's erasure, export and fingerprints, requests for them, legal holds | – | – | yes | – | – |
| usage | – | – | yes | – | yes |
| reserving units for work of its own | yes | yes | yes | – | yes |
| proving the usage counters | – | – | – | – | yes |
| audit log of the tenant | – | – | yes | yes | – |
| the system's audit log | – | – | – | – | yes |
| review of who may enter the tenant | – | – | yes | yes | yes |
| tenants, API keys, tokens, placements, embedding models, purge | – | – | – | – | yes |
| the installation: database, keyring, backups, doctor, leak test, residue scan | – | – | – | – | yes |
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
    MEMORY_UPDATE = "memory.update"
    MEMORY_SUPERSEDE = "memory.supersede"
    MEMORY_UNDELETE = "memory.undelete"
    MEMORY_HISTORY = "memory.history"
    MEMORY_LIST = "memory.list"
    MEMORY_COUNT = "memory.count"
    MEMORY_PURGE = "memory.purge"
    MEMORY_RETAIN = "memory.retain"
    MEMORY_IMPORT = "memory.import"
    MEMORY_IMPORT_STEP = "memory.import.step"
    MEMORY_EXPORT = "memory.export"
    MEMORY_EXPORT_ALL = "memory.export_all"
    MEMORY_EXPORT_STEP = "memory.export.step"
    ERASURE_REQUEST = "gdpr.request"
    ERASURE_LIST = "gdpr.list"
    ERASURE_SHOW = "gdpr.show"
    ERASURE_VERIFY = "gdpr.verify_identity"
    ERASURE_PREVIEW = "gdpr.preview"
    ERASURE_CANCEL = "gdpr.cancel"
    ERASURE_REJECT = "gdpr.reject"
    ERASURE_EXTEND = "gdpr.extend"
    ERASURE = "gdpr.erase"
    ERASURE_STEP = "gdpr.erase.step"
    ERASURE_CERTIFICATE = "gdpr.certificate"
    ERASURE_LEVEL = "gdpr.level"
    HOLD_PLACE = "gdpr.hold"
    HOLD_RELEASE = "gdpr.release"
    HOLD_LIST = "gdpr.holds"
    ACCESS_REQUEST = "gdpr.export"
    SCAN_TAKE = "gdpr.scan.take"
    SCAN_SEARCH = "gdpr.scan.search"
    USAGE_READ = "usage.read"
    USAGE_TRACK = "usage.track"
    USAGE_RESERVE = "usage.reserve"
    USAGE_COMMIT = "usage.commit"
    USAGE_RELEASE = "usage.release"
    USAGE_THRESHOLD = "usage.threshold"
    USAGE_RECONCILE = "usage.reconcile"
    AUDIT_EXPORT = "audit.export"
    AUDIT_EXPORT_STEP = "audit.export.step"
    AUDIT_KEY = "audit.key"
    AUDIT_CHECKPOINT = "audit.checkpoint"
    AUDIT_ROTATE_KEY = "audit.rotate_key"
    AUDIT_ARCHIVE = "audit.archive"
    AUDIT_ARCHIVE_STEP = "audit.archive.step"
    AUDIT_ARCHIVE_DELETE = "audit.archive_delete"
    AUDIT_ARCHIVE_DELETE_STEP = "audit.archive_delete.step"
    AUDIT_ACCEPT = "audit.accept"
    AUDIT_READ = "audit.read"
    AUDIT_SYSTEM = "audit.system"
    TENANT_CREATE = "tenant.create"
    TENANT_SUSPEND = "tenant.suspend"
    TENANT_RESUME = "tenant.resume"
    TENANT_LIST = "tenant.list"
    TENANT_CHANGE = "tenant.change"
    TENANT_CLOSE = "tenant.close"
    TENANT_CLOSE_STEP = "tenant.close.step"
    TENANT_CERTIFICATE = "tenant.certificate"
    TENANT_MOVE = "tenant.move"
    TENANT_MOVE_STEP = "tenant.move.step"
    EMBEDDINGS_STATUS = "embeddings.status"
    EMBEDDINGS_MIGRATE = "embeddings.migrate"
    EMBEDDINGS_MIGRATE_STEP = "embeddings.migrate.step"
    EMBEDDINGS_GATE = "embeddings.gate"
    EMBEDDINGS_ROLLBACK = "embeddings.rollback"
    EMBEDDINGS_ROLLBACK_STEP = "embeddings.rollback.step"
    EMBEDDINGS_FINISH = "embeddings.finish"
    EMBEDDINGS_FINISH_STEP = "embeddings.finish.step"
    API_KEY_CREATE = "api_key.create"
    API_KEY_REVOKE = "api_key.revoke"
    API_KEY_LIST = "api_key.list"
    API_KEY_ROTATE = "api_key.rotate"
    TOKEN_REVOKE = "token.revoke"  # noqa: S105 - the name of an action
    TOKEN_CHECK = "token.check"  # noqa: S105 - the name of an action
    ACCESS_REVIEW = "access.review"
    ACCESS_REVIEW_ALL = "access.review_all"
    KEYRING_STATUS = "keyring.status"
    KEYRING_ROTATE = "keyring.rotate"
    KEYRING_BACKUP = "keyring.backup"
    KEYRING_RESTORE = "keyring.restore"
    KEYRING_ACCEPT = "keyring.accept"
    KEYRING_RECONCILE = "keyring.reconcile"
    KEYRING_DESTROY_ROOT_KEY = "keyring.destroy_root_key"
    KEYRING_STEP = "keyring.step"
    BACKUP_CREATE = "backup.create"
    BACKUP_CREATE_STEP = "backup.create.step"
    BACKUP_LIST = "backup.list"
    BACKUP_EXPIRE = "backup.expire"
    BACKUP_RESTORE = "backup.restore"
    BACKUP_RESTORE_STEP = "backup.restore.step"
    BACKUP_DRILL = "backup.drill"
    BACKUP_DRILL_STEP = "backup.drill.step"
    BACKUP_LEDGER = "backup.ledger"
    BACKUP_REPLAY = "backup.replay"
    EXTERNAL_EVENT = "external.event"
    SECURITY_EVENT = "security.event"
    AUDIT_TAMPERING = "security.audit_tampering"
    QUOTA_ABUSE = "security.quota_abuse"
    AUTHENTICATION_FAILURES = "security.authentication_failures"
    SERVICE_START = "service.start"
    DATABASE_UPGRADE = "db.upgrade"
    DATABASE_CHECK = "db.check"
    DOCTOR = "doctor.run"
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
        Action.MEMORY_UPDATE,
        Action.MEMORY_SUPERSEDE,
        Action.MEMORY_UNDELETE,
        Action.MEMORY_HISTORY,
        Action.MEMORY_LIST,
        Action.MEMORY_COUNT,
        Action.MEMORY_IMPORT,
        Action.MEMORY_EXPORT,
    }
)
_EVERYBODY: Final = frozenset({Action.MEMORY_EXPORT_ALL})
_PERSON: Final = frozenset(
    {
        Action.ERASURE_REQUEST,
        Action.ERASURE_LIST,
        Action.ERASURE_SHOW,
        Action.ERASURE_VERIFY,
        Action.ERASURE_PREVIEW,
        Action.ERASURE_CANCEL,
        Action.ERASURE_REJECT,
        Action.ERASURE_EXTEND,
        Action.ERASURE,
        Action.ERASURE_CERTIFICATE,
        Action.ACCESS_REQUEST,
        Action.HOLD_PLACE,
        Action.HOLD_RELEASE,
        Action.HOLD_LIST,
        Action.SCAN_TAKE,
    }
)
_AUDIT: Final = frozenset({Action.AUDIT_EXPORT, Action.AUDIT_READ, Action.AUDIT_KEY, Action.AUDIT_CHECKPOINT})
_USAGE: Final = frozenset({Action.USAGE_READ})
_HOLDS: Final = frozenset({Action.USAGE_RESERVE, Action.USAGE_COMMIT, Action.USAGE_RELEASE})
_BOOKS: Final = frozenset({Action.USAGE_RECONCILE})
_TENANTS: Final = frozenset(
    {
        Action.TENANT_CREATE,
        Action.TENANT_SUSPEND,
        Action.TENANT_RESUME,
        Action.TENANT_LIST,
        Action.TENANT_CHANGE,
        Action.TENANT_CLOSE,
        Action.TENANT_CERTIFICATE,
        Action.TENANT_MOVE,
        Action.EMBEDDINGS_STATUS,
        Action.EMBEDDINGS_MIGRATE,
        Action.EMBEDDINGS_ROLLBACK,
        Action.EMBEDDINGS_FINISH,
        Action.API_KEY_CREATE,
        Action.API_KEY_REVOKE,
        Action.API_KEY_LIST,
        Action.MEMORY_PURGE,
        Action.API_KEY_ROTATE,
        Action.TOKEN_REVOKE,
        Action.TOKEN_CHECK,
        Action.ACCESS_REVIEW_ALL,
    }
)
_REVIEW: Final = frozenset({Action.ACCESS_REVIEW})
_KEYRING: Final = frozenset(
    {
        Action.KEYRING_STATUS,
        Action.KEYRING_ROTATE,
        Action.KEYRING_BACKUP,
        Action.KEYRING_RESTORE,
        Action.KEYRING_ACCEPT,
        Action.KEYRING_RECONCILE,
        Action.KEYRING_DESTROY_ROOT_KEY,
    }
)
_SYSTEM: Final = frozenset({Action.AUDIT_SYSTEM, Action.AUDIT_ROTATE_KEY, Action.AUDIT_ACCEPT, Action.AUDIT_ARCHIVE})
_BACKUPS: Final = frozenset(
    {
        Action.BACKUP_CREATE,
        Action.BACKUP_LIST,
        Action.BACKUP_EXPIRE,
        Action.BACKUP_RESTORE,
        Action.BACKUP_DRILL,
        Action.BACKUP_LEDGER,
    }
)
_INSTALLATION: Final = frozenset(
    {Action.DATABASE_UPGRADE, Action.DATABASE_CHECK, Action.DOCTOR, Action.LEAK_TEST, Action.SCAN_SEARCH}
)

_GRANTS: Final[dict[Role, frozenset[Action]]] = {
    Role.SERVICE: _MEMORY | _HOLDS,
    Role.MEMBER: _MEMORY | _HOLDS,
    Role.TENANT_ADMIN: _MEMORY | _HOLDS | _EVERYBODY | _PERSON | _USAGE | _AUDIT | _REVIEW,
    Role.AUDITOR: _AUDIT | _REVIEW,
    Role.OPERATOR: _TENANTS | _HOLDS | _USAGE | _BOOKS | _SYSTEM | _REVIEW | _INSTALLATION | _KEYRING | _BACKUPS,
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
