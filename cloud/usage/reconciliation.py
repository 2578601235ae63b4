"""Proves that counters are the sums of the ledger, and the ledger's stocks what the memories say; mends on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Protocol

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.errors import UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.usage.model import Kind, Meter

STOCK_PERIOD = date(1970, 1, 1)
"""Period of the counters of stocks, which have none."""


@dataclass(frozen=True, slots=True)
class Books:
    """A tenant's usage as three books have it, at one moment.

    Attributes:
        counters: Units by meter and period, shards summed up.
        ledger: The same, from the ledger.
        stock: Units by stock, from the memories themselves.
        people: By subject, memories as counted and as they are, where the two differ.
    """

    counters: Mapping[tuple[Meter, date], int]
    ledger: Mapping[tuple[Meter, date], int]
    stock: Mapping[Meter, int]
    people: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that is not what it should be.

    Attributes:
        tenant_id: Whose.
        meter: Of which meter.
        period: First day of the month of a flow; `None` for a stock.
        subject_id: Whose memories, of `memories_per_subject`.
        counted: What the counter says.
        ledger: What the ledger sums up to; `None` where it does not say.
        actual: What is there; `None` for a flow, of which nothing but the ledger is left.
    """

    tenant_id: str
    meter: Meter
    period: date | None
    subject_id: str | None
    counted: int
    ledger: int | None
    actual: int | None

    @property
    def expected(self) -> int:
        """What the counter should say: what is there, and of a flow what the ledger says."""
        found = self.actual if self.actual is not None else self.ledger
        assert found is not None
        return found


def differences(tenant_id: str, books: Books) -> list[Difference]:
    """Where the books do not agree, by meter and period."""
    found = []
    for meter, period in sorted(books.counters.keys() | books.ledger.keys()):
        counted, ledger = books.counters.get((meter, period), 0), books.ledger.get((meter, period), 0)
        if meter.kind is Kind.STOCK:
            actual = books.stock.get(meter, 0)
            if not counted == ledger == actual:
                found.append(Difference(tenant_id, meter, None, None, counted, ledger, actual))
        elif counted != ledger:
            found.append(Difference(tenant_id, meter, period, None, counted, ledger, None))
    for subject_id, (counted, actual) in sorted(books.people.items()):
        found.append(Difference(tenant_id, Meter.MEMORIES_PER_SUBJECT, None, subject_id, counted, None, actual))
    return found


class UsageBooks(Protocol):
    """The books of all tenants."""

    def tenants(self) -> list[str]:
        """All tenants by id."""
        ...

    def differences(self, tenant_id: str) -> list[Difference]:
        """Where a tenant's books do not agree, at one moment."""
        ...

    def repair(self, tenant_id: str, audit: AuditDraft) -> list[Difference]:
        """Make counters what they should be, and a ledger of stocks by a correcting entry; returns what was mended."""
        ...


class Reconciliation:
    """Reconciles for operators.

    Args:
        books: The books.
        admission: Lets operators in.
        audit: Records what was found.
    """

    def __init__(self, books: UsageBooks, admission: Admission, audit: TransactionalAuditLogger) -> None:
        self._books = books
        self._admission = admission
        self._audit = audit

    def run(
        self, tenant_id: str | None, *, repair: bool, progress: Callable[[Sequence[str]], Iterable[str]] | None = None
    ) -> list[Difference]:
        """As `CloudUsageTracker.reconcile`."""
        draft = self._admission.operate(Action.USAGE_RECONCILE)
        found: list[Difference] = []
        mended = 0
        with recorded_failure(self._audit, draft):
            tenants = self._books.tenants()
            if tenant_id is not None:
                if tenant_id not in tenants:
                    raise UnknownTenantError
                tenants = [tenant_id]
            for one in progress(tenants) if progress else tenants:
                seen = self._books.differences(one)
                if seen and repair:
                    # Each repair commits with an event in its tenant's own log.
                    seen = self._books.repair(one, replace(draft, event_id=new_event_id()))
                    mended += len(seen)
                found += seen
        self._audit.record(
            SYSTEM_LOG,
            draft,
            Outcome.ALLOWED,
            reason="differences_found" if found else None,
            counts={"tenants": len(tenants), "differences": len(found), "repaired": mended},
        )
        return found
