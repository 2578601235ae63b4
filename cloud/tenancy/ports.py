"""What tenancy needs of its surroundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from cloud.audit.model import AuditDraft
from cloud.tenancy.model import ApiKeyRecord, Identity, Tenant, TenantState


class TenantStore(Protocol):
    """Tenants and API keys. Every change commits together with its audit event."""

    def create(self, tenant: Tenant, audit: AuditDraft) -> Tenant:
        """Add a tenant with empty counters; one that has the id already stays and is returned."""
        ...

    def set_state(self, tenant_id: str, state: TenantState, audit: AuditDraft) -> Tenant | None:
        """Serve a tenant or stop to; one that is being closed stays so. Returns it as it is then, if there is one."""
        ...

    def change(
        self,
        tenant_id: str,
        audit: AuditDraft,
        *,
        plan: str | None,
        limits: Mapping[str, int | None],
        drop_limits: Collection[str],
    ) -> Tenant | None:
        """Change the terms of a tenant that is not being closed; returns it as it is then, if there is one."""
        ...

    def tenants(self) -> list[Tenant]:
        """All tenants by id."""
        ...

    def get(self, tenant_id: str) -> Tenant | None:
        """One tenant."""
        ...

    def add_key(self, record: ApiKeyRecord, audit: AuditDraft) -> None:
        """Keep a new API key."""
        ...

    def revoke_key(self, tenant_id: str, key_id: str, audit: AuditDraft) -> bool:
        """Revoke a key at once; `False` if the tenant has no such key that is not revoked."""
        ...

    def keys(self, tenant_id: str) -> list[ApiKeyRecord]:
        """The keys of a tenant by id."""
        ...


class TenantDirectory(Protocol):
    """Which tenants there are."""

    def get(self, tenant_id: str) -> Tenant | None:
        """One tenant, or `None` if there is none of this name."""
        ...


class ApiKeyLookup(Protocol):
    """Finds an API key before a tenant is known, as a role that can do nothing else."""

    def find(self, key_id: str) -> ApiKeyRecord | None:
        """The key with this id, if any."""
        ...


@runtime_checkable
class Identifying(Protocol):
    """A tenant provider that also tells who is calling, at the cost of one look-up."""

    def identify(self, request_context: Mapping[str, object]) -> Identity:
        """Who calls, and for which tenant.

        Raises:
            AuthenticationError: A credential does not hold.
            TenantIsolationError: Two sources name different tenants.
        """
        ...
