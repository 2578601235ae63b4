"""What the audit log needs, and what a logger must offer to take part in a write's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

from cloud.audit.model import AuditDraft, Category, Details, Outcome
from cloud.kernel.access import Action
from cloud.kernel.scope import TenantScope


@runtime_checkable
class TransactionalAuditLogger(Protocol):
    """Beside the published protocol: events that commit with what they record.

    A logger without this port could only log before (what then does not happen) or after (what then is not logged);
    the cloud provider refuses it.
    """

    def draft(
        self,
        scope: TenantScope | None,
        action: Action,
        *,
        subject_id: str | None = None,
        category: Category = Category.OPERATION,
        details: Details | None = None,
    ) -> AuditDraft:
        """Begin the event of an operation. The caller's transaction commits `document()` with its outcome."""
        ...

    def record(
        self,
        log_id: str,
        draft: AuditDraft,
        outcome: Outcome,
        *,
        reason: str | None = None,
        resource_ids: tuple[str, ...] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Commit an event that no other change belongs to.

        Args:
            log_id: The tenant, or `_system`; an event for a tenant that does not exist goes to `_system`.

        Raises:
            ProviderUnavailableError: It could not be committed.
        """
        ...


class AuditStore(Protocol):
    """Where events are kept: it takes and returns them, and changes none."""

    def append(
        self,
        log_id: str,
        document: Mapping[str, object],
        *,
        outcome: str,
        reason: str | None,
        resource_ids: tuple[str, ...],
        counts: Mapping[str, int],
    ) -> None:
        """Commit one event, once, however often the call is repeated with the same event id."""
        ...

    def events(self, log_id: str, *, since: datetime | None, until: datetime | None) -> Iterator[dict[str, object]]:
        """Events of one log in order of their ids, read in pages: `since` inclusive, `until` exclusive."""
        ...


class Admission(Protocol):
    """Tenancy's door for administrators, as the layers below it see it."""

    def admit_to(self, tenant_id: str, action: Action) -> TenantScope:
        """The scope in which the present caller may do `action` to `tenant_id`.

        Raises:
            AuthenticationError: Nobody is calling, or there is no such tenant.
            PermissionDeniedError: The caller may not do this.
        """
        ...

    def tenant_of_report(self, action: Action, named: object) -> str | None:
        """The tenant that a report of foreign code is about; whether there is such a tenant is not looked up.

        Args:
            action: What is reported.
            named: What the report itself calls its tenant, which may be anything. Where somebody is calling it must
                be that caller's tenant, or `None`; where nobody is, it is believed.

        Returns:
            `None` where nothing names a tenant.

        Raises:
            AuthenticationError: The caller's credential does not hold, or the report names its tenant wrongly.
            TenantIsolationError: The report names another tenant than the caller's.
        """
        ...

    def operate(self, action: Action) -> AuditDraft:
        """The begun event of an operator's `action` on the installation.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        ...
