"""What tenancy needs of its surroundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from joserfc.jwk import Key

from cloud.audit.model import AuditDraft
from cloud.tenancy.model import ApiKeyRecord, Counted, Identity, Tenant, TenantState
from cloud.tenancy.placements import Move, Progress


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

    def add_key(self, record: ApiKeyRecord, audit: AuditDraft) -> str | None:
        """Keep a new API key, and return `None`; or why not, as a code: tenant or person is being erased."""
        ...

    def revoke_key(self, tenant_id: str, key_id: str, audit: AuditDraft) -> bool:
        """Revoke a key at once; `False` if the tenant has no such key that is not revoked."""
        ...

    def rotate_key(
        self, tenant_id: str, key_id: str, successor: ApiKeyRecord, *, ends_at: datetime, audit: AuditDraft
    ) -> bool:
        """Keep `successor` and let the key end at `ends_at`, or earlier where it does so by itself.

        Returns:
            `False`, with nothing changed, if the tenant has no such key that still opens and was not rotated before,
            or the tenant or the key's person is being erased.
        """
        ...

    def keys(self, tenant_id: str) -> list[ApiKeyRecord]:
        """The keys of a tenant by id."""
        ...

    def all_keys(self) -> list[ApiKeyRecord]:
        """The keys of all tenants, by tenant and id."""
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


class KeyUseStore(Protocol):
    """Keeps when API keys were last used."""

    def used(self, key_ids: Sequence[str]) -> None:
        """These keys were used within the last minute.

        Raises:
            ProviderUnavailableError: It could not be written.
        """
        ...


class ApiKeyLookup(Protocol):
    """Finds an API key before a tenant is known, as a role that can do nothing else."""

    def find(self, key_id: str) -> ApiKeyRecord | None:
        """The key with this id, if any."""
        ...


class RefusalStore(Protocol):
    """Counts refusals, and appends their events to the system's log in the same transaction."""

    def count(self, source: str, draft: AuditDraft, reason: str, *, each: int, sources: int) -> Counted:
        """Count one refusal of `source` in this minute, and record it if it is one of the first `each`.

        Args:
            source: Who failed, as the log may know it.
            draft: The refusal's event.
            reason: Why, as a code.
            each: How many get an event of their own.
            sources: How many sources of a minute are told apart; the others share one.
        """
        ...

    def report(self, draft: AuditDraft, event_ids: Sequence[str]) -> int:
        """Report minutes that are over, an event for each source with further failures, and forget them.

        Args:
            draft: What all these events say alike.
            event_ids: An id for each, or others where it is repeated; as many counts are taken at most.

        Returns:
            How many counts were taken.
        """
        ...


class KeySetSource(Protocol):
    """Where an issuer publishes its keys."""

    def fetch(self) -> bytes:
        """The published set as it is.

        Raises:
            ProviderUnavailableError: It could not be had in time.
        """
        ...


class TokenKeys(Protocol):
    """An issuer's public keys."""

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """The key with this id that may verify this algorithm; `None` if the issuer has none.

        Raises:
            TokenKeysUnavailableError: Whether there is one is not known now.
        """
        ...

    def warm(self) -> None:
        """Begin to get them, so that the first token need not wait; nobody waits here."""
        ...


class TokenStanding(StrEnum):
    """What the control plane knows of a token whose signature holds."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN_TENANT = "unknown_tenant"


class TokenRegister(Protocol):
    """Tells how a token stands, without a memory of its own: a revocation holds in every process at once."""

    def standing(self, tenant_id: str, tag: bytes) -> TokenStanding:
        """How a token for this tenant stands."""
        ...


class RevokedTokens(Protocol):
    """Keeps which tokens were revoked. Every change commits together with its audit event."""

    def revoke(self, tenant_id: str, tag: bytes, *, expires_at: datetime, audit: AuditDraft) -> bool:
        """Revoke a token; repeating it changes nothing. `False` if there is no such tenant."""
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
