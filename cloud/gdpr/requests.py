"""The people's part of a request: it is received, its person identified, looked at, confirmed, or refused.

Erasing itself is `cloud.gdpr.erasing`. A request that a legal hold keeps goes on by itself when the last hold is
released: the worker does it within a minute, the next start at the latest, `resume` at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.model import Erasure, ErasurePreview, ErasureState, ToldRequest
from cloud.gdpr.places import DataMap
from cloud.gdpr.ports import Confirmation, ErasureStore, Extension, Received
from cloud.gdpr.sealing import opened_text, person_of, sealed_person, sealed_text, stranger_of
from cloud.gdpr.states import MONTHS, MONTHS_EXTENDED, UNDER_WAY, months_later, require_move
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, ErasureRequestError, LegalHoldError
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig
from cloud.tenancy.administration import Administration
from cloud.tenancy.admission import Admitted
from src.memory.schemas import as_utc
from src.memory.validation import check_user_id

_T = TypeVar("_T")
_METHOD: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


class ErasureRequests:
    """Requests for erasure as administrators see them.

    Args:
        store: Keeps them.
        erasing: Does what is confirmed.
        config: The installation.
        admissions: The door.
        audit: The log.
    """

    def __init__(
        self,
        store: ErasureStore,
        erasing: Erasing,
        config: PixeltableConfig,
        admissions: Administration,
        audit: TransactionalAuditLogger,
    ) -> None:
        self._store = store
        self._erasing = erasing
        self._config = config
        self._admissions = admissions
        self._audit = audit
        self._map = DataMap(store, config)

    def receive(
        self, user_id: str, tenant_id: str, *, reason: str | None, received_at: datetime | None, method: str | None
    ) -> Erasure:
        """Keep a request for the erasure of a person, or join the one that is open."""
        admitted = self._admitted(tenant_id, Action.ERASURE_REQUEST, user_id)

        def work() -> Erasure:
            check_user_id(user_id)
            checked = None if method is None else _checked_method(method)
            received = self._received(admitted, user_id, reason, received_at)
            draft = self._about(admitted, received.subject_id)
            return self._store.receive(admitted.predicate, replace(received, identity_method=checked), draft)

        return self._recorded(admitted, work)

    def list(self, tenant_id: str, *, due_only: bool) -> list[Erasure]:
        """The tenant's requests, what is due first before."""
        admitted = self._admitted(tenant_id, Action.ERASURE_LIST)
        found = self._recorded(admitted, lambda: self._store.requests(admitted.predicate, owed=due_only))
        self._audit.record(tenant_id, self._about(admitted), Outcome.ALLOWED, counts={"requests": len(found)})
        return [self._erasing.handed_out(one) for one in found]

    def show(self, erasure_id: str, tenant_id: str) -> ToldRequest:
        """One request, with what people wrote about it."""
        admitted = self._admitted(tenant_id, Action.ERASURE_SHOW)

        def work() -> ToldRequest:
            erasure = self._get(admitted, erasure_id)
            texts = self._store.sealed(admitted.predicate, erasure.erasure_id)
            kinds = {"reason": texts.reason, "extension_reason": texts.extension_reason}
            kinds["closing_reason"] = texts.closing_reason
            opened = {
                kind: opened_text(self._config, tenant_id, erasure.erasure_id, kind, sealed)
                for kind, sealed in kinds.items()
            }
            return ToldRequest(self._erasing.handed_out(erasure), **opened)

        told = self._recorded(admitted, work)
        draft = self._about(admitted, told.erasure.subject_id, told.erasure.erasure_id)
        self._audit.record(tenant_id, draft, Outcome.ALLOWED)
        return told

    def certificate(self, erasure_id: str, tenant_id: str) -> str:
        """The newest certificate of an erasure, as it is handed out."""
        admitted = self._admitted(tenant_id, Action.ERASURE_CERTIFICATE)

        def work() -> Erasure:
            found = self._get(admitted, erasure_id)
            if found.certificate is None:
                raise ErasureRequestError("not_certified", state=found.state.value)
            return self._erasing.handed_out(found)

        found = self._recorded(admitted, work)
        self._audit.record(tenant_id, self._about(admitted, found.subject_id, found.erasure_id), Outcome.ALLOWED)
        assert found.certificate is not None
        return found.certificate

    def verify_identity(self, erasure_id: str, tenant_id: str, method: str) -> Erasure:
        """Record that the person who asks was found to be that person, and how."""
        admitted = self._admitted(tenant_id, Action.ERASURE_VERIFY)

        def work() -> Erasure:
            checked, found = _checked_method(method), self._get(admitted, erasure_id)
            draft = self._about(admitted, found.subject_id, found.erasure_id)
            return self._store.verify_identity(admitted.predicate, found.erasure_id, checked, draft)

        return self._recorded(admitted, work)

    def preview(self, erasure_id: str, tenant_id: str) -> ErasurePreview:
        """What the request would remove; nothing of it changes, and what was seen is recorded."""
        admitted = self._admitted(tenant_id, Action.ERASURE_PREVIEW)

        def work() -> ErasurePreview:
            found = self._get(admitted, erasure_id)
            require_move(found.state, ErasureState.PREVIEWED)
            subject_id = self._subject_of(admitted, found)
            counts = {} if subject_id is None else self._map.counts(admitted.predicate, subject_id)
            seen = ErasurePreview(tenant_id, subject_id, counts)
            draft = self._about(admitted, subject_id, found.erasure_id)
            self._store.previewed(admitted.predicate, found.erasure_id, seen, draft)
            return seen

        return self._recorded(admitted, work)

    def confirm(self, erasure_id: str, tenant_id: str, seen: str) -> Erasure:
        """Erase the person of a request, of whom what was seen is what there is; done when this returns."""
        admitted = self._admitted(tenant_id, Action.ERASURE)

        def work() -> Erasure:
            found = self._get(admitted, erasure_id)
            if found.state not in UNDER_WAY:
                require_move(found.state, ErasureState.CONFIRMED)
            sealed = self._store.sealed(admitted.predicate, found.erasure_id).user
            user_id = person_of(self._config, found, sealed)
            received = replace(_as_received(found), subject_id=self._subject_of(admitted, found))
            return self.erase(admitted, received, user_id, seen=seen)

        return self._recorded(admitted, work)

    def erase_person(self, user_id: str, tenant_id: str, reason: str | None) -> Erasure:
        """The short way: the caller's authority stands for every step before the freeze."""
        admitted = self._admitted(tenant_id, Action.ERASURE, user_id)

        def work() -> Erasure:
            check_user_id(user_id)
            received = self._received(admitted, user_id, reason, None)
            if received.subject_id is None:
                # An erasure that stopped after the key was destroyed has nobody's name: this may be its caller again.
                mine = [one for one in self._store.unfinished() if one.tenant_id == tenant_id]
                self._erasing.finish(mine)
                self._erasing.certify_what_is_not(tenant_id)
            return self.erase(admitted, received, user_id, seen=None)

        return self._recorded(admitted, work)

    def erase(self, admitted: Admitted, received: Received, user_id: str | None, *, seen: str | None) -> Erasure:
        """Freeze, and take every step after it.

        Raises:
            LegalHoldError: A hold keeps it; the request is held, and goes on when that is released.
        """
        predicate, subject_id = admitted.predicate, received.subject_id
        # While somebody names the person: afterwards nobody can.
        commitment = self._erasing.commit(predicate.tenant_id, subject_id, user_id)
        confirmation = Confirmation(admitted.draft.actor.id, seen, commitment)
        audit = self._about(admitted, subject_id)
        if subject_id is None:
            levels = self._erasing.levels_of_nobody()
            done = self._store.nobody(predicate, received, confirmation, levels, audit)
            return self._erasing.certify(done, user_id)
        intent = self._audit.draft(
            admitted.scope,
            Action.ERASURE_STEP,
            subject_id=subject_id,
            category=Category.ADMINISTRATION,
            details={"erasure_id": received.erasure_id},
        )
        erasure = self._store.freeze(predicate, received, confirmation, intent=intent, audit=audit)
        if erasure.state is ErasureState.HELD:
            raise LegalHoldError(erasure.erasure_id)
        if erasure.is_done:
            return self._erasing.joined(erasure, audit)
        erasure = self._erasing.counted(predicate, erasure)
        return self._erasing.complete(predicate, erasure, audit, user_id)

    def refuse(self, erasure_id: str, tenant_id: str, reason: str, *, state: ErasureState) -> Erasure:
        """Reject or cancel a request that was not confirmed."""
        rejected = state is ErasureState.REJECTED
        admitted = self._admitted(tenant_id, Action.ERASURE_REJECT if rejected else Action.ERASURE_CANCEL)

        def work() -> Erasure:
            found = self._get(admitted, erasure_id)
            sealed = self._written(found, "closing_reason", reason)
            draft = self._about(admitted, found.subject_id, found.erasure_id)
            return self._store.refuse(admitted.predicate, found.erasure_id, state, sealed, draft)

        return self._recorded(admitted, work)

    def extend(
        self, erasure_id: str, tenant_id: str, *, reason: str, notified_at: datetime, until: datetime | None
    ) -> Erasure:
        """Give a request more time, by two months unless `until` says less."""
        admitted = self._admitted(tenant_id, Action.ERASURE_EXTEND)

        def work() -> Erasure:
            found = self._get(admitted, erasure_id)
            assert found.received_at is not None
            told_at = as_utc(notified_at)
            if told_at > self._config.clock():
                raise ConfigurationError("an extension holds once the person was told of it: give the time of that")
            longest = months_later(found.received_at, MONTHS_EXTENDED)
            sealed = self._written(found, "extension_reason", reason)
            extension = Extension(as_utc(until) if until else longest, told_at, sealed)
            draft = self._about(admitted, found.subject_id, found.erasure_id)
            return self._store.extend(admitted.predicate, found.erasure_id, extension, draft)

        return self._recorded(admitted, work)

    def resume(self, erasure_id: str, tenant_id: str) -> Erasure:
        """Go on at once with an erasure that failed, was cut off, or was released from a hold."""
        admitted = self._admitted(tenant_id, Action.ERASURE)

        def work() -> Erasure:
            found = self._get(admitted, erasure_id)
            if found.state not in UNDER_WAY and found.state is not ErasureState.CONFIRMED:
                if found.state is ErasureState.HELD:
                    raise LegalHoldError(found.erasure_id)
                raise ErasureRequestError("wrong_state", state=found.state.value)
            return self._erasing.go_on(
                admitted.predicate, found, self._about(admitted, found.subject_id, found.erasure_id)
            )

        return self._recorded(admitted, work)

    def _received(self, admitted: Admitted, user_id: str, reason: str | None, received_at: datetime | None) -> Received:
        """The request as it comes in; the id is that of the one it joins, where only a sealed name tells that."""
        # Before anything is sealed: a closed tenant has no key.
        self._store.require_open(admitted.predicate, admitted.draft)
        tenant_id, now = admitted.scope.tenant_id, self._config.clock()
        received_at = as_utc(received_at) if received_at else now
        if received_at > now:
            raise ConfigurationError("a request cannot have been received in the future")
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
        erasure_id = self._joined(admitted.predicate, user_id) or new_event_id()
        return Received(
            erasure_id=erasure_id,
            subject_id=person.subject_id if person else None,
            received_at=received_at,
            due_at=months_later(received_at, MONTHS),
            reason_sealed=None
            if reason is None
            else sealed_text(self._config, tenant_id, erasure_id, "reason", reason),
            user_sealed=sealed_person(self._config, tenant_id, erasure_id, user_id, person),
        )

    def _joined(self, predicate: TenantPredicate, user_id: str) -> str | None:
        tenant_id = predicate.tenant_id
        for erasure_id, sealed in self._store.of_strangers(predicate):
            if stranger_of(self._config, tenant_id, erasure_id, sealed) == user_id:
                return erasure_id
        return None

    def _subject_of(self, admitted: Admitted, found: Erasure) -> str | None:
        """Whose data a request means now: somebody of whom nothing was kept may have come since."""
        if found.subject_id is not None:
            return found.subject_id
        tenant_id = admitted.scope.tenant_id
        sealed = self._store.sealed(admitted.predicate, found.erasure_id).user
        user_id = stranger_of(self._config, tenant_id, found.erasure_id, sealed)
        if user_id is None:
            return None
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
        return person.subject_id if person else None

    def _get(self, admitted: Admitted, erasure_id: str) -> Erasure:
        return self._store.get(admitted.predicate, checked_id(erasure_id))

    def _written(self, found: Erasure, kind: str, text: str) -> bytes:
        if not text.strip():
            raise ConfigurationError("a reason is needed: it is what the person, or a court, is told")
        return sealed_text(self._config, found.tenant_id, found.erasure_id, kind, text)

    def _admitted(self, tenant_id: str, action: Action, user_id: str | None = None) -> Admitted:
        return self._admissions.administer(tenant_id, action, user_id=user_id)

    def _recorded(self, admitted: Admitted, work: Callable[[], _T]) -> _T:
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            return work()

    @staticmethod
    def _about(admitted: Admitted, subject_id: str | None = None, erasure_id: str | None = None) -> AuditDraft:
        details = {"erasure_id": erasure_id} if erasure_id else {}
        return replace(admitted.draft, subject_id=subject_id, category=Category.ADMINISTRATION, details=dict(details))


def checked_id(text: str) -> str:
    """A request's or hold's id.

    Raises:
        ErasureRequestError: It can be none.
    """
    try:
        return str(UUID(text))
    except ValueError:
        raise ErasureRequestError("absent") from None


def _checked_method(method: str) -> str:
    if _METHOD.fullmatch(method) is None:
        raise ConfigurationError(
            "how a person was identified is a short code of a-z, 0-9, _, . and -, such as passport: no name, no number"
        )
    return method


def _as_received(found: Erasure) -> Received:
    assert found.received_at is not None
    assert found.due_at is not None
    return Received(found.erasure_id, found.subject_id, found.received_at, found.due_at, None, None)
