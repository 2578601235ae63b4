"""Makes an erasure ledger of what the control plane knows: the first one, and one in place of one that is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from cloud.audit.model import AuditDraft
from cloud.gdpr.ledger import Entry, FileErasureLedger, LedgerPlace, LedgerRecord
from cloud.kernel.scope import TenantPredicate
from cloud.tenancy.system import system_predicate

_COMPONENT: Final = "restore"


class ErasedView(Protocol):
    """Who is erased, as the control plane knows it."""

    def keep_place(
        self, place: LedgerPlace, now: datetime, audit: AuditDraft | None, counts: Mapping[str, int]
    ) -> None:
        """It has followed the ledger up to this place; an event of what that changed commits with it."""
        ...

    def erased(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """The subjects of a tenant that are erased."""
        ...

    def kept_backups(self) -> Sequence[LedgerRecord]:
        """The backups whose files may exist, as records."""
        ...

    def tenants(self, *, closed: bool) -> tuple[str, ...]:
        """The tenants that are closed, or those that are not."""
        ...


def seed_ledger(ledger: FileErasureLedger, view: ErasedView, now: datetime) -> None:
    """Whoever is erased and closed in the control plane is in the ledger, and every backup that is kept.

    Raises:
        ConfigurationError: It cannot be written.
        ProviderUnavailableError: The control plane did not answer.
    """
    records = [LedgerRecord(Entry.CLOSING, now, tenant_id) for tenant_id in view.tenants(closed=True)]
    for tenant_id in view.tenants(closed=False):
        erased = view.erased(system_predicate(tenant_id, _COMPONENT))
        records += [LedgerRecord(Entry.ERASURE, now, tenant_id, subject_id) for subject_id in erased]
    records += view.kept_backups()
    if records:
        ledger.add(*records)


def rebuild_ledger(ledger: FileErasureLedger, view: ErasedView, now: datetime) -> LedgerPlace:
    """A new ledger says what the control plane knows; the present one is set aside.

    Raises:
        ConfigurationError: It cannot be written.
        ProviderUnavailableError: The control plane did not answer.
    """
    ledger.set_aside()
    seed_ledger(ledger, view, now)
    place = ledger.end()
    view.keep_place(place, now, None, {})
    return place
