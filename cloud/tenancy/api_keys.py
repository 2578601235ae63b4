"""Administration of API keys; each change commits together with its audit event."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from cloud.audit.model import Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id
from cloud.kernel.scope import Role
from cloud.keys.model import Place
from cloud.keys.ports import Keyring
from cloud.keys.sealing import seal
from cloud.tenancy.administration import Administration
from cloud.tenancy.model import ApiKeyRecord, is_key_id, new_api_key
from cloud.tenancy.ports import TenantStore
from src.memory.schemas import as_utc
from src.memory.validation import check_user_id


class ApiKeys:
    """Creates, revokes and lists API keys."""

    def __init__(
        self, store: TenantStore, keyring: Keyring, admissions: Administration, audit: TransactionalAuditLogger
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._admissions = admissions
        self._audit = audit

    def create(
        self,
        tenant_id: str,
        *,
        roles: Collection[str],
        user_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """Make a key and return its text, which is shown this once and kept nowhere.

        Args:
            tenant_id: The tenant it opens.
            roles: `service`, `member`, `tenant_admin` or `auditor`.
            user_id: The person it acts as; required for `member`.
            expires_at: When it stops working; without an offset it is UTC.

        Raises:
            UnknownTenantError: There is no such tenant.
            ConfigurationError: No role, an unknown one, or a member without a person.
            InvalidFilterError: The user id is none.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.API_KEY_CREATE)
        with recorded_failure(self._audit, draft):
            allowed = {role.value: role for role in Role if role is not Role.OPERATOR}
            if not roles or any(role not in allowed for role in roles):
                raise ConfigurationError(f"roles of an API key are: {', '.join(sorted(allowed))}")
            if Role.MEMBER.value in roles and user_id is None:
                raise ConfigurationError("a key with the role member needs the person it acts as")
            if not is_tenant_id(tenant_id) or self._store.get(tenant_id) is None:
                raise UnknownTenantError()
            key_id, text, secret_hash = new_api_key()
            subject_id, sealed = self._bound_to(tenant_id, key_id, user_id)
        record = ApiKeyRecord(
            key_id=key_id,
            tenant_id=tenant_id,
            secret_hash=secret_hash,
            roles=frozenset(allowed[role] for role in roles),
            subject_id=subject_id,
            user_sealed=sealed,
            expires_at=as_utc(expires_at) if expires_at else None,
            revoked_at=None,
        )
        self._store.add_key(record, replace(draft, details={"key_id": key_id}))
        return text

    def revoke(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key; it opens nothing from the commit on. `False` if there was no such key to revoke."""
        draft = self._admissions.operate(Action.API_KEY_REVOKE)
        if is_key_id(key_id):
            draft = replace(draft, details={"key_id": key_id})
        return self._store.revoke_key(tenant_id, key_id, draft)

    def list(self, tenant_id: str) -> list[ApiKeyRecord]:
        """The keys of a tenant, without their secrets, which nobody has."""
        draft = self._admissions.operate(Action.API_KEY_LIST)
        with recorded_failure(self._audit, draft):
            keys = self._store.keys(tenant_id)
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"keys": len(keys)})
        return keys

    def _bound_to(self, tenant_id: str, key_id: str, user_id: str | None) -> tuple[str | None, bytes | None]:
        if user_id is None:
            return None, None
        person = self._keyring.resolve_subject(tenant_id, check_user_id(user_id), create=True)
        assert person is not None
        place = Place(tenant_id, person.subject_id, key_id, "api_key_user")
        return person.subject_id, seal(person.key, user_id.encode("utf-8"), place=place)
