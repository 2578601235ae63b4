"""What changing, following and purging memories needs of the control plane. Every method demands a predicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cloud.audit.model import AuditDraft
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import SealedRow
from cloud.memory.ports import Absent, IdempotencyTag, KeyConflict, Ledger, Stale, TenantRefused
from cloud.usage.ports import QuotaRefusal
from src.memory.lifecycle import MemoryChange


@dataclass(frozen=True, slots=True)
class Whose:
    """Which memory is meant, and of whom it may be.

    Attributes:
        memory_id: The memory.
        restricted: Whether it must be the caller's own.
        own_subject_id: The caller's subject id, if it has one.
    """

    memory_id: str
    restricted: bool
    own_subject_id: str | None


@dataclass(frozen=True, slots=True)
class Updated:
    """The memory has this revision, as of this generation of its subject (`None` if an earlier attempt did it)."""

    revision: int
    generation: int | None


@dataclass(frozen=True, slots=True)
class RevisionConflict:
    """It has another revision than the caller insists on."""

    expected: int
    current: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """The new memory is stored and the old one superseded, as of this generation (`None` as above)."""

    memory_id: str
    generation: int | None


@dataclass(frozen=True, slots=True)
class Undeleted:
    """The memory is back."""


@dataclass(frozen=True, slots=True)
class Told:
    """The memory's changes, oldest first; none if there is no such memory for this caller."""

    changes: tuple[MemoryChange, ...]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long memories that are no longer read are kept."""

    deleted: timedelta = timedelta(days=30)
    expired: timedelta = timedelta(days=30)
    superseded: timedelta = timedelta(days=365)


class ManagedLedger(Ledger, Protocol):
    """The ledger of memories that change: each method is one transaction that decides, records and commits."""

    def update(
        self, predicate: TenantPredicate, whose: Whose, row: SealedRow, *, expected: int | None, audit: AuditDraft
    ) -> Updated | RevisionConflict | Stale | Absent | QuotaRefusal | TenantRefused:
        """Put `row` in the place of the revision before it; stale if the memory has another one by now."""
        ...

    def supersede(
        self, predicate: TenantPredicate, whose: Whose, row: SealedRow, tag: IdempotencyTag | None, audit: AuditDraft
    ) -> Superseded | Absent | QuotaRefusal | KeyConflict | TenantRefused:
        """Accept `row` in the place of another memory of its subject."""
        ...

    def undelete(
        self, predicate: TenantPredicate, whose: Whose, *, retention: timedelta, audit: AuditDraft
    ) -> Undeleted | Absent | QuotaRefusal | TenantRefused:
        """Bring back what was deleted no longer ago than `retention`, and charge its stock."""
        ...

    def history(
        self, predicate: TenantPredicate, whose: Whose, audit: AuditDraft
    ) -> Told | QuotaRefusal | TenantRefused:
        """Who changed the memory when."""
        ...

    def touch(self, predicate: TenantPredicate, read_at: Mapping[str, datetime]) -> frozenset[str]:
        """Keep when memories were last read; returns the ids of those that somebody held just then."""
        ...


class RetentionLedger(Protocol):
    """The ledger as the rules of retention need it, as a role that may change any tenant's rows."""

    def plans(self) -> list[tuple[str, str]]:
        """(tenant id, name of its plan) of every tenant that is served and not held."""
        ...

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """Every Pixeltable table that may hold rows of the tenant."""
        ...

    def retain(self, predicate: TenantPredicate, seen: Mapping[str, int], audit: AuditDraft) -> int:
        """Delete softly those that are active, not held, and still in the revision that was seen; returns how many.

        Args:
            predicate: The tenant.
            seen: Revision by id.
            audit: One event for all of them.
        """
        ...


class PurgeLedger(Protocol):
    """The ledger as purging needs it, as a role that may delete."""

    def due(self, retention: Retention, *, tenant_id: str | None) -> list[str]:
        """Tenants that have something to purge; of the one named, if one is."""
        ...

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """Every Pixeltable table that may hold rows of the tenant; none if there is no such tenant."""
        ...

    def begin(
        self, predicate: TenantPredicate, retention: Retention, *, batch: int, audit: AuditDraft
    ) -> tuple[str, ...]:
        """Mark memories that are due; or name those that are marked already, which records nothing new."""
        ...

    def end(self, predicate: TenantPredicate, ids: Sequence[str], *, rows: int, audit: AuditDraft) -> int:
        """Remove marked memories for good; returns how many there were. `rows` is what Pixeltable had of them."""
        ...
