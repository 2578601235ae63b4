"""Legal holds: what a court or an authority wants kept is neither erased nor purged, retained or closed.

A hold waits for whoever is removing rows of the tenant at this moment; what they had taken away by then is gone, and
from then on nothing more goes. What a person deletes stays kept with it. A hold does not stop reading and writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.model import LegalHold
from cloud.gdpr.ports import ErasureStore, HoldStore, SealedHold
from cloud.gdpr.removal import Removal
from cloud.gdpr.requests import checked_id
from cloud.gdpr.sealing import opened_text, sealed_text
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.ids import new_event_id
from cloud.memory.config import PixeltableConfig
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from cloud.tenancy.admission import Admitted
from src.memory.schemas import as_utc
from src.memory.validation import check_user_id

_T = TypeVar("_T")
_REASON: Final = "hold_reason"
_AUTHORITY: Final = "hold_authority"
_RELEASE: Final = "release_reason"


class LegalHolds:
    """Places, releases and lists legal holds.

    Args:
        store: Keeps them.
        rows: Tells in which placements a tenant has rows.
        engine: Engine that holds the placements' locks while a hold is placed.
        config: The installation.
        admissions: The door.
        audit: The log.
    """

    def __init__(
        self,
        store: HoldStore,
        rows: ErasureStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        admissions: Administration,
        audit: TransactionalAuditLogger,
    ) -> None:
        self._store = store
        self._rows = rows
        self._config = config
        self._admissions = admissions
        self._audit = audit
        self._removal = Removal(engine, "legal hold")

    def place(
        self, tenant_id: str, *, user_id: str | None, reason: str, authority: str, review_at: datetime
    ) -> LegalHold:
        """Keep a person's data, or the whole tenant's."""
        admitted = self._admissions.administer(tenant_id, Action.HOLD_PLACE, user_id=user_id)

        def work() -> LegalHold:
            # Before anything is sealed: a closed tenant has no key.
            self._rows.require_open(admitted.predicate, admitted.draft)
            now, hold_id = self._config.clock(), new_event_id()
            if not reason.strip() or not authority.strip():
                raise ConfigurationError("a hold needs its reason and the authority that demands it")
            if as_utc(review_at) <= now:
                raise ConfigurationError("a hold is reviewed in the future: give the date of that")
            subject_id = None if user_id is None else self._subject(tenant_id, check_user_id(user_id))
            hold = SealedHold(
                hold_id=hold_id,
                subject_id=subject_id,
                reason=sealed_text(self._config, tenant_id, hold_id, _REASON, reason),
                authority=sealed_text(self._config, tenant_id, hold_id, _AUTHORITY, authority),
                review_at=as_utc(review_at),
                placed_at=now,
            )
            draft = self._about(admitted, hold)
            with self._removal.turn():
                # Whoever removes rows holds these locks from the choice of the rows to the end.
                self._removal.under_locks(
                    lambda: self._rows.placements(admitted.predicate),
                    lambda _: self._store.place(admitted.predicate, hold, draft),
                )
            return self._opened(tenant_id, hold)

        return self._recorded(admitted, work)

    def release(self, hold_id: str, tenant_id: str, reason: str | None) -> LegalHold:
        """End a hold; what only it kept back goes on."""
        admitted = self._admissions.administer(tenant_id, Action.HOLD_RELEASE)

        def work() -> LegalHold:
            known = checked_id(hold_id)
            sealed = None if reason is None else sealed_text(self._config, tenant_id, known, _RELEASE, reason)
            draft = self._about(admitted, None, known)
            return self._opened(tenant_id, self._store.release(admitted.predicate, known, sealed, draft))

        return self._recorded(admitted, work)

    def list(self, tenant_id: str) -> list[LegalHold]:
        """The tenant's holds, those that hold still first."""
        admitted = self._admissions.administer(tenant_id, Action.HOLD_LIST)

        def work() -> list[LegalHold]:
            return [self._opened(tenant_id, hold) for hold in self._store.holds(admitted.predicate)]

        found = self._recorded(admitted, work)
        self._audit.record(tenant_id, self._about(admitted, None), Outcome.ALLOWED, counts={"holds": len(found)})
        return found

    def _subject(self, tenant_id: str, user_id: str) -> str:
        # Also of somebody of whom nothing is kept yet: what comes is to be kept.
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=True)
        assert person is not None
        return person.subject_id

    def _opened(self, tenant_id: str, hold: SealedHold) -> LegalHold:
        return LegalHold(
            hold_id=hold.hold_id,
            tenant_id=tenant_id,
            subject_id=hold.subject_id,
            reason=opened_text(self._config, tenant_id, hold.hold_id, _REASON, hold.reason),
            authority=opened_text(self._config, tenant_id, hold.hold_id, _AUTHORITY, hold.authority),
            review_at=hold.review_at,
            placed_at=hold.placed_at,
            released_at=hold.released_at,
        )

    def _recorded(self, admitted: Admitted, work: Callable[[], _T]) -> _T:
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            return work()

    @staticmethod
    def _about(admitted: Admitted, hold: SealedHold | None, hold_id: str | None = None) -> AuditDraft:
        known = hold.hold_id if hold else hold_id
        return replace(
            admitted.draft,
            subject_id=hold.subject_id if hold else None,
            category=Category.ADMINISTRATION,
            details={"hold_id": known} if known else {},
        )
