"""What the memory feature needs: a ledger that decides and a store that keeps. Every method demands a predicate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cloud.audit.model import AuditDraft
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import Changes, LedgerRow, SealedRow
from cloud.usage.model import Balance
from cloud.usage.ports import QuotaRefusal


@dataclass(frozen=True, slots=True)
class Stored:
    """The write committed.

    Attributes:
        ids: Ids of the memories, in the order given.
        generations: New generation by subject; empty when an earlier attempt had committed.
        balances: Meters that the write used, as they are after it; empty when an earlier attempt had committed.
    """

    ids: tuple[str, ...]
    generations: Mapping[str, int]
    balances: tuple[Balance, ...]


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """The idempotency key stood for another request before."""


@dataclass(frozen=True, slots=True)
class SubjectGone:
    """The subject is being erased, or is erased."""


@dataclass(frozen=True, slots=True)
class TenantRefused:
    """The tenant is unknown or not active; the refusal is recorded."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReadAdmitted:
    """The read is recorded and may be answered with these ids, in this order."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stale:
    """The subject has changed: what was ranked is older than this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Located:
    """Whose memory it is, at which generation, or `None`: absent, foreign and forbidden are the same."""

    subject_id: str | None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The memory is deleted, as of this generation of its subject (`None` if an earlier attempt did it)."""

    subject_id: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such memory for this caller."""


@dataclass(frozen=True, slots=True)
class IdempotencyTag:
    """An idempotency key as the control plane may know it.

    Attributes:
        key: HMAC of the key, 32 bytes.
        fingerprint: HMAC of the request, 32 bytes.
    """

    key: bytes
    fingerprint: bytes


class Ledger(Protocol):
    """The control plane's part: each method is one transaction that decides, records and commits."""

    def store(
        self, predicate: TenantPredicate, rows: Sequence[SealedRow], tag: IdempotencyTag | None, audit: AuditDraft
    ) -> Stored | QuotaRefusal | KeyConflict | SubjectGone | TenantRefused:
        """Accept all rows or none."""
        ...

    def read(
        self,
        predicate: TenantPredicate,
        subject_id: str | None,
        *,
        generation: int,
        floor: int | None,
        ids: Sequence[str],
        include_invalid: bool,
        audit: AuditDraft,
    ) -> ReadAdmitted | QuotaRefusal | Stale | SubjectGone | TenantRefused:
        """Charge and record a read and keep of `ids` what the ledger still holds.

        Args:
            predicate: The tenant.
            subject_id: Whose memories were ranked; `None` for nobody's.
            generation: Generation they were ranked at.
            floor: A generation at least as new as everything acknowledged before the call began, once known:
                then a newer generation does not make the read stale, or a busy writer could starve it.
            ids: Ids in the order of the answer.
            include_invalid: Whether expired ones stay.
            audit: The operation's event.
        """
        ...

    def changes(self, predicate: TenantPredicate, subject_id: str, *, since: int) -> Changes:
        """What is newer than generation `since`, in one consistent view."""
        ...

    def locate(
        self, predicate: TenantPredicate, memory_id: str, *, restricted: bool, own_subject_id: str | None
    ) -> Located | TenantRefused:
        """Whose memory this is; `restricted` to the caller's own subject if so."""
        ...

    def refusal(self, predicate: TenantPredicate) -> TenantRefused | None:
        """Why the tenant is not served, if it is not; nothing is recorded yet."""
        ...

    def delete(
        self,
        predicate: TenantPredicate,
        memory_id: str,
        *,
        restricted: bool,
        own_subject_id: str | None,
        audit: AuditDraft,
    ) -> Deleted | Absent | TenantRefused:
        """Delete softly and give the stock back."""
        ...


class Rows(Protocol):
    """The data plane's part: the sealed rows of a placement, one tenant at a time."""

    def newer(
        self,
        predicate: TenantPredicate,
        placement: str,
        subject_id: str,
        *,
        since: int,
        column: str = ...,
        known: Mapping[str, LedgerRow] | None = ...,
        without: Collection[str] = ...,
    ) -> list[SealedRow]:
        """Rows of a subject with a newer generation, with the sealed embeddings of a column.

        Args:
            predicate: The tenant.
            placement: The table.
            subject_id: Whose.
            since: The generation that is known already.
            column: Whose embeddings.
            known: By id, what the ledger says of the memories that are looked for, which names their generations and
                times; those are not read again, and other memories and revisions are left out.
            without: Ids of memories that are of no interest; where there are many, some may be returned all the same.
        """
        ...

    def page(self, predicate: TenantPredicate, placement: str, *, after: str, limit: int) -> list[SealedRow]:
        """Rows of the tenant by id from the first one after `after`, at most `limit`, without embeddings."""
        ...

    def older(
        self, predicate: TenantPredicate, placement: str, memory_type: str, before: datetime, *, after: str, limit: int
    ) -> dict[str, int]:
        """Revision by id of the tenant's memories of a type made before a moment, those after `after`, in order."""
        ...

    def all_revisions(self, predicate: TenantPredicate, placement: str) -> dict[str, int]:
        """Revision of every memory of the tenant that is there."""
        ...

    def remove(self, predicate: TenantPredicate, placement: str, memory_ids: Collection[str]) -> int:
        """Delete these rows; returns how many there were."""
        ...

    def remove_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        """Delete every row of the tenant; returns how many there were."""
        ...

    def count_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        """How many rows of the tenant are there."""
        ...

    def named(
        self,
        predicate: TenantPredicate,
        placement: str,
        memory_ids: Collection[str],
        *,
        column: str | None = ...,
    ) -> list[SealedRow]:
        """Those of these memories that are there, with the sealed embeddings of a column, or without any for `None`."""
        ...

    def revisions(
        self, predicates: Sequence[TenantPredicate], placement: str, memory_ids: Collection[str]
    ) -> dict[str, int]:
        """Revision of each of these memories that is there."""
        ...

    def write(self, placement: str, inserts: Sequence[SealedRow], updates: Sequence[SealedRow]) -> None:
        """Insert rows, and put updates in the place of older revisions; embeddings are computed on the way.

        A row that is newer than what should replace it stays, and the call fails: another process was faster.
        """
        ...

    def remove_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        """Delete every row of a subject; returns how many there were."""
        ...

    def count_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        """How many rows of a subject are there."""
        ...


class Columns(Protocol):
    """The two computed columns of a placement: one is read, the other is empty, being filled, or was read before."""

    def name(self, placement: str, column: str, model: str) -> None:
        """From now on the column is of `model` for every row that is written; what it holds stays as it is.

        A column that the table lacks is added empty.
        """
        ...

    def compute(self, predicate: TenantPredicate, placement: str, column: str, *, after: str, limit: int) -> str | None:
        """Compute a page of the tenant's rows that lack a vector there; returns the last id, or `None` at the end."""
        ...

    def lacking(self, predicate: TenantPredicate, placement: str, column: str, *, beside: str) -> int:
        """How many of the tenant's rows have a vector in the column `beside` and none in `column`."""
        ...

    def empty(self, predicate: TenantPredicate, placement: str, column: str, *, after: str, limit: int) -> str | None:
        """Compute a page of the tenant's rows that have a vector in a column without model; as `compute`."""
        ...
