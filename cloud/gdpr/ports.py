"""What erasure needs of the control plane. Every method that touches a tenant's rows demands a predicate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cloud.audit.model import AuditDraft
from cloud.gdpr.levels import LevelState
from cloud.gdpr.model import Erasure, ErasurePreview, ErasureState
from cloud.kernel.scope import TenantPredicate


class ClosingStore(Protocol):
    """Closings of tenants: each is an erasure of everybody, with one row that stays."""

    def freeze(self, predicate: TenantPredicate, closing: Received, audit: AuditDraft, *, held_too: bool) -> Erasure:
        """Refuse every operation of the tenant from the commit on, and record the intent, once.

        Goes on with a closing that is there already; one that is done stays as it is.

        Args:
            predicate: The tenant.
            closing: The closing, if there is none yet.
            audit: The event of the intent.
            held_too: Whether also what a legal hold keeps: where its keys are destroyed, nothing is left to keep.

        Raises:
            LegalHoldError: The tenant or one of its people is held; nothing has changed.
        """
        ...

    def get(self, predicate: TenantPredicate) -> Erasure | None:
        """The tenant's closing, if it has begun."""
        ...

    def unfinished(self) -> list[str]:
        """Tenants that are being closed."""
        ...


@dataclass(frozen=True, slots=True)
class SealedTexts:
    """What people wrote about a request, sealed under the tenant's key."""

    reason: bytes | None
    extension_reason: bytes | None
    closing_reason: bytes | None
    user: bytes | None


@dataclass(frozen=True, slots=True)
class SealedHold:
    """A legal hold as it is kept; reason and authority are sealed under the tenant's key."""

    hold_id: str
    subject_id: str | None
    reason: bytes
    authority: bytes
    review_at: datetime
    placed_at: datetime
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Extension:
    """More time for a request (GDPR Art. 12(3)).

    Attributes:
        until: Until when (UTC).
        notified_at: When the person was told of it and its reasons (UTC).
        reason_sealed: The reasons, sealed under the tenant's key.
    """

    until: datetime
    notified_at: datetime
    reason_sealed: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it comes in.

    Attributes:
        erasure_id: Its id, if it joins none.
        subject_id: Whose data; `None` if nothing is kept of the person.
        received_at: When the person asked (UTC).
        due_at: Until when it must be done (UTC).
        reason_sealed: Why, sealed under the tenant's key.
        user_sealed: The user id: sealed under the person's key, or under the tenant's where there is no person.
        identity_method: How it was established already that the person asks.
    """

    erasure_id: str
    subject_id: str | None
    received_at: datetime
    due_at: datetime
    reason_sealed: bytes | None
    user_sealed: bytes | None
    identity_method: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Somebody's word that a person is to be erased.

    Attributes:
        by: Who gives it, as the audit log names actors.
        seen: Digest of the preview that was looked at; `None` if the caller's authority stands for every step before.
        commitment: Sealed commitment to the person, if the request has none yet; `None` if nobody named the person.
        again: Whether it was carried out before, in databases that a restore replaced: no legal hold keeps what has no
            key any more.
    """

    by: str | None
    seen: str | None
    commitment: bytes | None
    again: bool = False


class RequestStore(Protocol):
    """Requests for erasure; each change commits together with its audit event.

    Every method that names a request raises `ErasureRequestError` (`absent`) for one of another tenant too, and
    (`wrong_state`) where the change may not follow its state.
    """

    def require_open(self, predicate: TenantPredicate, audit: AuditDraft) -> None:
        """Return if the tenant is not closed or being closed.

        Raises:
            PermissionDeniedError: It is: its people are erased with it.
        """
        ...

    def receive(self, predicate: TenantPredicate, received: Received, audit: AuditDraft) -> Erasure:
        """Keep a request, or join the one of this person that is open.

        Raises:
            PermissionDeniedError: The tenant is closed or being closed.
        """
        ...

    def get(self, predicate: TenantPredicate, erasure_id: str) -> Erasure:
        """One request."""
        ...

    def requests(self, predicate: TenantPredicate, *, owed: bool) -> list[Erasure]:
        """What the tenant's people asked for, what is due first before; only what is still owed if `owed`."""
        ...

    def sealed(self, predicate: TenantPredicate, erasure_id: str) -> SealedTexts:
        """What people wrote about a request, sealed."""
        ...

    def of_strangers(self, predicate: TenantPredicate) -> list[tuple[str, bytes]]:
        """(id, sealed user id) of the tenant's open requests for people of whom nothing was kept."""
        ...

    def verify_identity(self, predicate: TenantPredicate, erasure_id: str, method: str, audit: AuditDraft) -> Erasure:
        """Record that the person was found to be the one who asks, and how."""
        ...

    def previewed(
        self, predicate: TenantPredicate, erasure_id: str, preview: ErasurePreview, audit: AuditDraft
    ) -> Erasure:
        """Record what was seen."""
        ...

    def refuse(
        self,
        predicate: TenantPredicate,
        erasure_id: str,
        state: ErasureState,
        reason_sealed: bytes | None,
        audit: AuditDraft,
    ) -> Erasure:
        """End a request that was not confirmed as `REJECTED` or `CANCELLED`; what was kept of its person goes."""
        ...

    def extend(self, predicate: TenantPredicate, erasure_id: str, extension: Extension, audit: AuditDraft) -> Erasure:
        """Give a request more time, once.

        Raises:
            ErasureRequestError: `overdue`: the person was told after the first month, or it is longer than allowed.
        """
        ...

    def freeze(
        self,
        predicate: TenantPredicate,
        received: Received,
        confirmation: Confirmation,
        *,
        intent: AuditDraft,
        audit: AuditDraft,
    ) -> Erasure:
        """Confirm a person's request, made if there is none, and stop every operation on the subject.

        Joins an erasure that is under way. Under a legal hold nothing is frozen: the request is `HELD`, and `audit` is
        recorded as denied.

        Raises:
            ErasureRequestError: `stale_preview`, or its state does not allow it.
            PermissionDeniedError: The tenant is closed or being closed.
        """
        ...

    def freeze_released(
        self, predicate: TenantPredicate, erasure: Erasure, *, intent: AuditDraft, audit: AuditDraft
    ) -> Erasure:
        """As `freeze`, of a request that was confirmed before; it is `HELD` again if another hold came."""
        ...

    def mark(
        self,
        erasure: Erasure,
        state: ErasureState,
        *,
        counts: Mapping[str, int] | None = None,
        levels: Sequence[LevelState] = (),
        failed_step: ErasureState | None = None,
        certificate: str | None = None,
    ) -> Erasure:
        """Record how far it got; a state that does not follow changes nothing but levels and counts.

        Counts of the first time that something was found stay, and so does a level that was reached, as it was measured
        first. Of an erasure that is over, nothing is recorded but levels that are reached since and its certificate.

        Args:
            erasure: The erasure, as it was read last.
            state: How far it got.
            counts: What there is to remove.
            levels: What was measured.
            failed_step: The state that could not be reached.
            certificate: Takes the place of `erasure.certificate`. Where another did meanwhile, nothing changes: no two
                have the same number.

        Returns:
            The erasure as it is recorded now.
        """
        ...

    def finish(
        self, erasure: Erasure, state: ErasureState, audit: AuditDraft, levels: Sequence[LevelState] = ()
    ) -> Erasure:
        """Record the end, or that it failed, together with its audit event; the sealed user id goes.

        With a whole tenant's end the tenant is closed, and what its people had asked for is done.
        """
        ...

    def note_level(self, erasure: Erasure, levels: Sequence[LevelState], audit: AuditDraft) -> Erasure:
        """Record levels that were reached after the end, with their event; due until a certificate tells them."""
        ...

    def nobody(
        self,
        predicate: TenantPredicate,
        received: Received,
        confirmation: Confirmation,
        levels: Sequence[LevelState],
        audit: AuditDraft,
    ) -> Erasure:
        """Record that nothing is kept of a person: the request, made if there is none, is verified."""
        ...

    def unfinished(self) -> list[Erasure]:
        """Erasures of any tenant whose subject is frozen, or that were released and are not frozen yet."""
        ...

    def stuck(self, untouched: timedelta) -> list[Erasure]:
        """Those of `unfinished` that were released, or that nobody has touched for so long."""
        ...

    def uncertified(self) -> list[Erasure]:
        """Erasures of any tenant that are verified, were measured, and have no certificate."""
        ...

    def due_levels(self, now: datetime) -> list[Erasure]:
        """Erasures of any tenant with a level that is due, or that its certificate does not tell yet."""
        ...


class HoldStore(Protocol):
    """Legal holds; each change commits together with its audit event."""

    def place(self, predicate: TenantPredicate, hold: SealedHold, audit: AuditDraft) -> None:
        """Keep a hold; from the commit on erasure, purge and closing are refused.

        Raises:
            ErasureRequestError: `wrong_state`: the person is being erased already.
            PermissionDeniedError: The tenant is closed or being closed.
        """
        ...

    def release(
        self, predicate: TenantPredicate, hold_id: str, reason_sealed: bytes | None, audit: AuditDraft
    ) -> SealedHold:
        """End a hold; requests that only it kept are confirmed from the commit on.

        Raises:
            ErasureRequestError: `absent`: there is no such hold, or it is released already.
        """
        ...

    def holds(self, predicate: TenantPredicate) -> list[SealedHold]:
        """All holds of the tenant, those that hold still first."""
        ...


class ErasureStore(RequestStore, Protocol):
    """Requests and the rows they remove."""

    def delete_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        """Delete every row of the subject and give its stock back, in one transaction."""
        ...

    def delete_tenant(self, predicate: TenantPredicate) -> None:
        """Delete every row about a person of the tenant and give the stock back, in one transaction."""
        ...

    def count_tenant(self, predicate: TenantPredicate) -> dict[str, int]:
        """Rows about people of the tenant, by entry of the data map."""
        ...

    def erased_places(self) -> Collection[str]:
        """The entries of the data map that `delete_rows` empties and `count` looks into."""
        ...

    def count(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        """Rows of the subject, by entry of the data map."""
        ...

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        """Every Pixeltable table that may hold rows of the tenant, by name."""
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
