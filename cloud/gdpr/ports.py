"""What erasure needs of the control plane. Every method that touches a tenant's rows demands a predicate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from cloud.audit.model import AuditDraft
from cloud.gdpr.model import Erasure, ErasureState
from cloud.kernel.scope import TenantPredicate


class ClosingStore(Protocol):
    """The control plane's rows of a tenant that is being closed."""

    def freeze(self, predicate: TenantPredicate, audit: AuditDraft) -> None:
        """Refuse every operation of the tenant from the commit on, and record the intent, once."""
        ...

    def keep_counts(self, predicate: TenantPredicate, counts: Mapping[str, int]) -> dict[str, int]:
        """Record what there is to erase; returns it with what an earlier attempt had found."""
        ...

    def delete_rows(self, predicate: TenantPredicate) -> None:
        """Delete every row about a person of the tenant and give the stock back, in one transaction."""
        ...

    def count(self, predicate: TenantPredicate) -> dict[str, int]:
        """Rows about people of the tenant, by entry of the data map."""
        ...

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """The Pixeltable tables in which the tenant may have rows."""
        ...

    def finish(
        self, predicate: TenantPredicate, audit: AuditDraft, counts: Mapping[str, int], *, complete: bool
    ) -> None:
        """Record the end together with its event; the tenant is closed if it is `complete`."""
        ...

    def unfinished(self) -> list[str]:
        """Tenants that are being closed."""
        ...


class ErasureStore(Protocol):
    """Erasures and the rows they remove."""

    def freeze(
        self,
        predicate: TenantPredicate,
        subject_id: str,
        *,
        reason_sealed: bytes | None,
        erasure_id: str,
        audit: AuditDraft,
    ) -> Erasure:
        """Stop every operation on the subject and record the intent; joins an erasure that is under way."""
        ...

    def mark(self, erasure: Erasure, state: ErasureState, counts: Mapping[str, int]) -> Erasure:
        """Record how far it got; `counts` of the first time that something was found stay."""
        ...

    def finish(self, erasure: Erasure, state: ErasureState, audit: AuditDraft) -> Erasure:
        """Record the end together with its audit event."""
        ...

    def delete_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        """Delete every row of the subject and give its stock back, in one transaction."""
        ...

    def count(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        """Rows of the subject, by entry of the data map."""
        ...

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """Every Pixeltable table that may hold rows of the tenant, by name."""
        ...

    def unfinished(self) -> list[Erasure]:
        """Erasures of any tenant that have not ended well."""
        ...

    def facts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, list[dict[str, object]]]:
        """What the tables say of the subject in the clear, by table, without secrets and keyed hashes."""
        ...

    def events(self, predicate: TenantPredicate, subject_id: str) -> Iterator[dict[str, object]]:
        """Audit events by or about the subject, oldest first."""
        ...

    def exports_of_everybody(self, predicate: TenantPredicate, subject_id: str) -> Iterator[dict[str, object]]:
        """Audit events of exports of all the tenant's memories since the subject is known, oldest first."""
        ...
