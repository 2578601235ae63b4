"""Reservations: units of a flow that work under way holds, and later commits or releases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cloud.audit.model import AuditDraft
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    InvalidFilterError,
    PermissionDeniedError,
    ReservationClosedError,
)
from cloud.kernel.ids import new_event_id
from cloud.usage.model import MAX_LIMIT, Kind, Meter, Reservation
from cloud.usage.ports import QuotaRefusal, Settled, TenantNotServed, UsageStore

DEFAULT_TTL_S: Final = 300.0
_MAX_TTL_S: Final = 86_400.0
_UNKNOWN: Final = datetime.min.replace(tzinfo=UTC)


class Reservations:
    """Holds and settles for admitted callers; each call leaves one event, in the transaction that decides."""

    def __init__(self, store: UsageStore, admission: Admission, audit: TransactionalAuditLogger) -> None:
        self._store = store
        self._admission = admission
        self._audit = audit

    def reserve(self, tenant_id: str, meter: Meter | str, amount: int, *, ttl_s: float) -> Reservation:
        """As `CloudUsageTracker.reserve`."""
        draft = self._admitted(tenant_id, Action.USAGE_RESERVE)
        with recorded_failure(self._audit, draft, tenant_id):
            wanted = Reservation(new_event_id(), tenant_id, _flow(meter), _units("amount", amount, least=1), _UNKNOWN)
            if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s <= _MAX_TTL_S:
                raise InvalidFilterError(place="ttl_s", reason="must be seconds, more than 0 and at most a day")
            answer = self._store.reserve(wanted, ttl_s=float(ttl_s), audit=draft)
        match answer:
            case Reservation():
                return answer
            case QuotaRefusal():
                raise answer.error()
            case TenantNotServed(reason=reason):
                raise PermissionDeniedError(action=draft.action.value, reason=reason)

    def commit(self, reservation: Reservation, actual: int | None) -> int:
        """As `CloudUsageTracker.commit`."""
        draft = self._admitted(reservation.tenant_id, Action.USAGE_COMMIT)
        with recorded_failure(self._audit, draft, reservation.tenant_id):
            used = None if actual is None else _units("actual", actual, least=0)
            answer = self._settle(reservation, draft, commit=True, actual=used)
        if answer.state != "committed":
            raise ReservationClosedError(answer.state)
        return answer.actual

    def release(self, reservation: Reservation) -> None:
        """As `CloudUsageTracker.release`."""
        draft = self._admitted(reservation.tenant_id, Action.USAGE_RELEASE)
        with recorded_failure(self._audit, draft, reservation.tenant_id):
            answer = self._settle(reservation, draft, commit=False, actual=None)
        if answer.state == "absent":
            raise ReservationClosedError(answer.state)

    def _settle(self, reservation: Reservation, draft: AuditDraft, *, commit: bool, actual: int | None) -> Settled:
        answer = self._store.settle(
            reservation.tenant_id, reservation.reservation_id, commit=commit, actual=actual, audit=draft
        )
        if isinstance(answer, TenantNotServed):
            raise PermissionDeniedError(action=draft.action.value, reason=answer.reason)
        return answer

    def _admitted(self, tenant_id: str, action: Action) -> AuditDraft:
        return self._audit.draft(self._admission.admit_to(tenant_id, action), action)


def _flow(meter: Meter | str) -> Meter:
    try:
        found = Meter(meter)
    except ValueError:
        found = Meter.MEMORIES
    if found.kind is not Kind.FLOW:
        # A stock is what the memories are: nothing else can take part of it.
        flows = ", ".join(meter.value for meter in Meter if meter.kind is Kind.FLOW)
        raise InvalidFilterError(place="meter", reason=f"must be one that can be reserved: {flows}")
    return found


def _units(place: str, value: int, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_LIMIT:
        raise InvalidFilterError(place=place, reason=f"must be a whole number from {least}")
    return value
