"""Administration of tenants and API keys; each change commits together with its audit event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, UnknownTenantError
from cloud.kernel.ids import is_tenant_id
from cloud.kernel.scope import Role
from cloud.keys.model import Place
from cloud.keys.ports import Keyring
from cloud.keys.sealing import seal
from cloud.tenancy.admission import Admissions
from cloud.tenancy.model import ApiKeyRecord, Tenant, TenantState, new_api_key, pooled_placement
from cloud.tenancy.ports import TenantStore


class Tenants:
    """Creates, suspends, resumes and lists tenants.

    Args:
        store: Keeps them.
        keyring: Makes a tenant's key before the tenant exists, so that it never exists without one.
        admissions: Lets operators in and begins events.
        plans: Limits of each plan by meter; `None` is unlimited.
        parse_limits: Checks overrides, as the usage feature understands them.
        clock: The present, UTC.
    """

    def __init__(
        self,
        store: TenantStore,
        keyring: Keyring,
        admissions: Admissions,
        *,
        plans: Collection[str],
        meters: Collection[str],
        clock: Clock,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._admissions = admissions
        self._plans = plans
        self._meters = meters
        self._clock = clock

    def create(self, tenant_id: str, *, plan: str = "free", limits: Mapping[str, int | None] | None = None) -> Tenant:
        """Create a tenant; repeating the call with the same values changes nothing.

        Args:
            tenant_id: 1–63 of `a-z 0-9 _ -`, beginning and ending with a letter or digit.
            plan: Name of a plan of the plan file.
            limits: Overrides of the plan's limits by meter; -1 or `None` is unlimited.

        Raises:
            ConfigurationError: The id cannot name a tenant, or is taken by a tenant with another plan or limits; an
                unknown plan or meter.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TENANT_CREATE)
        if not is_tenant_id(tenant_id):
            raise ConfigurationError(
                "a tenant id is 1-63 of a-z, 0-9, _ and -, beginning and ending with a letter or digit"
            )
        if plan not in self._plans:
            raise ConfigurationError(f"unknown plan {plan!r}; known are: {', '.join(sorted(self._plans))}")
        tenant = Tenant(
            tenant_id=tenant_id,
            state=TenantState.ACTIVE,
            plan=plan,
            limits=self._checked(limits or {}),
            placement=pooled_placement(tenant_id),
            created_at=self._clock(),
        )
        self._keyring.create_tenant(tenant_id)
        if self._store.create(tenant, draft):
            return tenant
        existing = self._store.get(tenant_id)
        if existing is None or (existing.plan, existing.limits) != (tenant.plan, tenant.limits):
            raise ConfigurationError(f"tenant {tenant_id!r} exists with another plan or other limits")
        return existing

    def suspend(self, tenant_id: str) -> None:
        """From the commit on, every operation of the tenant is refused.

        Raises:
            UnknownTenantError: There is no such tenant.
        """
        self._set(tenant_id, TenantState.SUSPENDED, Action.TENANT_SUSPEND)

    def resume(self, tenant_id: str) -> None:
        """Serve a suspended tenant again.

        Raises:
            UnknownTenantError: There is no such tenant.
        """
        self._set(tenant_id, TenantState.ACTIVE, Action.TENANT_RESUME)

    def list(self) -> list[Tenant]:
        """All tenants by id.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TENANT_LIST)
        tenants = self._store.tenants()
        self._store.note(draft, counts={"tenants": len(tenants)})
        return tenants

    def _set(self, tenant_id: str, state: TenantState, action: Action) -> None:
        draft = self._admissions.operate(action)
        if not is_tenant_id(tenant_id) or not self._store.set_state(tenant_id, state, draft):
            raise UnknownTenantError("there is no such tenant")

    def _checked(self, limits: Mapping[str, int | None]) -> dict[str, int | None]:
        checked: dict[str, int | None] = {}
        for meter, limit in limits.items():
            if meter not in self._meters:
                raise ConfigurationError(f"unknown meter {meter!r}; known are: {', '.join(sorted(self._meters))}")
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not -1 <= limit < 2**53):
                raise ConfigurationError(f"limit of {meter!r} must be a whole number from 0, or -1 for unlimited")
            checked[meter] = None if limit == -1 else limit
        return checked


class ApiKeys:
    """Creates, revokes and lists API keys."""

    def __init__(self, store: TenantStore, keyring: Keyring, admissions: Admissions) -> None:
        self._store = store
        self._keyring = keyring
        self._admissions = admissions

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
            expires_at: When it stops working (UTC).

        Raises:
            UnknownTenantError: There is no such tenant.
            ConfigurationError: No role, an unknown one, or a member without a person.
        """
        draft = self._admissions.operate(Action.API_KEY_CREATE)
        allowed = {role.value: role for role in Role if role is not Role.OPERATOR}
        if not roles or any(role not in allowed for role in roles):
            raise ConfigurationError(f"roles of an API key are: {', '.join(sorted(allowed))}")
        if Role.MEMBER.value in roles and user_id is None:
            raise ConfigurationError("a key with the role member needs the person it acts as")
        if not is_tenant_id(tenant_id) or self._store.get(tenant_id) is None:
            raise UnknownTenantError("there is no such tenant")
        key_id, text, secret_hash = new_api_key()
        subject_id, sealed = self._bound_to(tenant_id, key_id, user_id)
        record = ApiKeyRecord(
            key_id=key_id,
            tenant_id=tenant_id,
            secret_hash=secret_hash,
            roles=frozenset(allowed[role] for role in roles),
            subject_id=subject_id,
            user_sealed=sealed,
            expires_at=expires_at,
            revoked_at=None,
        )
        self._store.add_key(record, draft)
        return text

    def revoke(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key; it opens nothing from the commit on. `False` if there was no such key to revoke."""
        return self._store.revoke_key(tenant_id, key_id, self._admissions.operate(Action.API_KEY_REVOKE))

    def list(self, tenant_id: str) -> list[ApiKeyRecord]:
        """The keys of a tenant, without their secrets, which nobody has."""
        draft = self._admissions.operate(Action.API_KEY_LIST)
        keys = self._store.keys(tenant_id)
        self._store.note(draft, counts={"keys": len(keys)})
        return keys

    def _bound_to(self, tenant_id: str, key_id: str, user_id: str | None) -> tuple[str | None, bytes | None]:
        if user_id is None:
            return None, None
        person = self._keyring.resolve_subject(tenant_id, user_id, create=True)
        assert person is not None
        place = Place(tenant_id, person.subject_id, key_id, "api_key_user")
        return person.subject_id, seal(person.key, user_id.encode(), place=place)
