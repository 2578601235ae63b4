"""What tenancy needs of its surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from cloud.audit.model import AuditDraft
from cloud.tenancy.model import ApiKeyRecord, Identity, Tenant, TenantState
from cloud.tenancy.placements import Move, Progress


class TenantStore(Protocol):
    """Tenants and API keys. Every change commits together with its audit event."""

    def create(self, tenant: Tenant, audit: AuditDraft) -> Tenant:
        """Add a tenant with empty counters; one that has the id already stays and is returned."""
        ...

    def set_state(self, tenant_id: str, state: TenantState, audit: AuditDraft) -> bool:
        """Change a tenant's state; `False` if there is no such tenant."""
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


class TenantMover(Protocol):
    """Moves a tenant's memories to another table while they are used."""

    def begin(self, tenant_id: str, target: str, intent: AuditDraft) -> Move:
        """Record the intent, or join a move to the same table that is unfinished.

        Raises:
            UnknownTenantError: There is no such tenant.
            OperationInProgressError: It is on its way to another table.
        """
        ...

    def run(self, move: Move, audit: AuditDraft, *, progress: Progress | None = None) -> Move:
        """Bring a move to its end; its event commits with that.

        Raises:
            OperationInProgressError: Another process is at it.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
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
