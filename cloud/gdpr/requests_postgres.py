"""`RequestStore` on the control plane, as the maintenance role; each statement names the tenant.

A transaction that looks at a subject takes the tenant's lock first and the request's row after it, as every write does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.model import PREVIEWED, Erasure, ErasurePreview, ErasureState
from cloud.gdpr.ports import Confirmation, Extension, Received, SealedTexts
from cloud.gdpr.states import ENDED, MONTHS_EXTENDED, SHORT_WAY, UNDER_WAY, months_later, require_move, sources
from cloud.gdpr.subject_rows import ROWS
from cloud.kernel.errors import ErasureRequestError, PermissionDeniedError
from cloud.kernel.scope import TenantPredicate
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import (
    audit_events,
    erasures,
    subjects,
    tenants,
    usage_counters,
)
from cloud.tenancy.model import TenantState
from cloud.tenancy.postgres import append_event

_NOW: Final = sa.func.clock_timestamp()
_OPEN: Final = erasures.c.state.not_in(sorted(state.value for state in ENDED))


class PostgresRequestStore:
    """`RequestStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def require_open(self, predicate: TenantPredicate, audit: AuditDraft) -> None:
        self._engine.transaction(lambda connection: lock_open_tenant(connection, predicate.tenant_id, audit))

    def receive(self, predicate: TenantPredicate, received: Received, audit: AuditDraft) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            lock_open_tenant(connection, tenant_id, audit)
            joined = _open_request(connection, tenant_id, received)
            row = joined or _insert(connection, tenant_id, received)
            if received.identity_method and row._mapping["state"] == ErasureState.RECEIVED.value:
                values = {
                    "state": ErasureState.IDENTITY_VERIFIED.value,
                    "identity_verified_at": _NOW,
                    "identity_method": received.identity_method,
                }
                row = _update(connection, tenant_id, erasure_of(row).erasure_id, values)
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, reason="joined" if joined else None)
            return erasure_of(row)

        return self._engine.transaction(work)

    def get(self, predicate: TenantPredicate, erasure_id: str) -> Erasure:
        rows = self._engine.rows(sa.select(erasures).where(_is(predicate.tenant_id, erasure_id)))
        if not rows:
            raise ErasureRequestError("absent")
        return erasure_of(rows[0])

    def requests(self, predicate: TenantPredicate, *, owed: bool) -> list[Erasure]:
        deadline = sa.func.coalesce(erasures.c.extended_until, erasures.c.due_at)
        query = sa.select(erasures).where(erasures.c.tenant_id == predicate.tenant_id, ~erasures.c.whole_tenant)
        if owed:
            query = query.where(_OPEN)
        return [erasure_of(row) for row in self._engine.rows(query.order_by(deadline, erasures.c.erasure_id))]

    def sealed(self, predicate: TenantPredicate, erasure_id: str) -> SealedTexts:
        columns = ("reason_sealed", "extension_reason_sealed", "closing_reason_sealed", "user_sealed")
        query = sa.select(*(erasures.c[name] for name in columns))
        rows = self._engine.rows(query.where(_is(predicate.tenant_id, erasure_id)))
        if not rows:
            raise ErasureRequestError("absent")
        return SealedTexts(*rows[0])

    def of_strangers(self, predicate: TenantPredicate) -> list[tuple[str, bytes]]:
        query = sa.select(erasures.c.erasure_id, erasures.c.user_sealed).where(
            erasures.c.tenant_id == predicate.tenant_id,
            erasures.c.subject_id.is_(None),
            erasures.c.user_sealed.is_not(None),
            _OPEN,
        )
        return [(str(erasure_id), bytes(sealed)) for erasure_id, sealed in self._engine.rows(query)]

    def verify_identity(self, predicate: TenantPredicate, erasure_id: str, method: str, audit: AuditDraft) -> Erasure:
        values = {"identity_verified_at": _NOW, "identity_method": method}
        return self._moved(predicate, erasure_id, ErasureState.IDENTITY_VERIFIED, values, audit)

    def previewed(
        self, predicate: TenantPredicate, erasure_id: str, preview: ErasurePreview, audit: AuditDraft
    ) -> Erasure:
        values = {"previewed_at": _NOW, "preview_digest": preview.digest}
        return self._moved(predicate, erasure_id, ErasureState.PREVIEWED, values, audit, preview.counts)

    def refuse(
        self,
        predicate: TenantPredicate,
        erasure_id: str,
        state: ErasureState,
        reason_sealed: bytes | None,
        audit: AuditDraft,
    ) -> Erasure:
        values = {"closing_reason_sealed": reason_sealed, "user_sealed": None, "completed_at": _NOW}
        return self._moved(predicate, erasure_id, state, values, audit)

    def extend(self, predicate: TenantPredicate, erasure_id: str, extension: Extension, audit: AuditDraft) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(_locked(connection, tenant_id, erasure_id))
            if is_recorded(connection, tenant_id, audit):
                return found
            if found.state in ENDED or found.extended_until is not None:
                raise ErasureRequestError("wrong_state", state=found.state.value)
            assert found.received_at is not None
            assert found.due_at is not None
            longest = months_later(found.received_at, MONTHS_EXTENDED)
            if extension.notified_at > found.due_at or not found.due_at < extension.until <= longest:
                raise ErasureRequestError("overdue", state=found.state.value)
            values = {
                "extended_until": extension.until,
                "extension_notified_at": extension.notified_at,
                "extension_reason_sealed": extension.reason_sealed,
            }
            row = _update(connection, tenant_id, erasure_id, values)
            append_event(connection, tenant_id, audit, Outcome.ALLOWED)
            return erasure_of(row)

        return self._engine.transaction(work)

    def freeze(
        self,
        predicate: TenantPredicate,
        received: Received,
        confirmation: Confirmation,
        *,
        intent: AuditDraft,
        audit: AuditDraft,
    ) -> Erasure:
        tenant_id = predicate.tenant_id
        assert received.subject_id is not None
        subject_id = received.subject_id

        def work(connection: sa.Connection) -> Erasure:
            lock_open_tenant(connection, tenant_id, audit)
            row = _open_request(connection, tenant_id, received)
            if row is not None and erasure_of(row).state in UNDER_WAY:
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="joined")
                return erasure_of(row)
            done = _done(connection, tenant_id, subject_id)
            if row is None and done is not None:
                # Another process was faster: who was looked up before is nobody any more.
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="joined")
                return erasure_of(done)
            if row is None:
                row = _insert(connection, tenant_id, received)
            found = erasure_of(row)
            if confirmation.seen is None:
                values = _by_authority(found)
            else:
                values = {}
                require_move(found.state, ErasureState.CONFIRMED)
                if _seen_now(connection, tenant_id, subject_id) != confirmation.seen:
                    raise ErasureRequestError("stale_preview", state=found.state.value)
            values |= {
                # Somebody of whom nothing was kept may have come meanwhile.
                "subject_id": subject_id,
                "confirmed_at": _NOW,
                "confirmed_by": confirmation.by,
                "commitment_sealed": found.commitment_sealed or confirmation.commitment,
            }
            if not confirmation.again and is_held(connection, tenant_id, subject_id):
                held = _update(connection, tenant_id, found.erasure_id, {**values, "state": ErasureState.HELD.value})
                append_event(connection, tenant_id, audit, Outcome.DENIED, reason="legal_hold")
                return erasure_of(held)
            return _frozen(connection, tenant_id, subject_id, found.erasure_id, values, intent)

        return self._engine.transaction(work)

    def freeze_released(
        self, predicate: TenantPredicate, erasure: Erasure, *, intent: AuditDraft, audit: AuditDraft
    ) -> Erasure:
        tenant_id = predicate.tenant_id
        assert erasure.subject_id is not None
        subject_id = erasure.subject_id

        def work(connection: sa.Connection) -> Erasure:
            lock_open_tenant(connection, tenant_id, intent)
            found = erasure_of(_locked(connection, tenant_id, erasure.erasure_id))
            if found.state is not ErasureState.CONFIRMED:
                return found
            if is_held(connection, tenant_id, subject_id):
                row = _update(connection, tenant_id, found.erasure_id, {"state": ErasureState.HELD.value})
                append_event(connection, tenant_id, audit, Outcome.DENIED, reason="legal_hold")
                return erasure_of(row)
            return _frozen(connection, tenant_id, subject_id, found.erasure_id, {}, intent)

        return self._engine.transaction(work)

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
        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(_locked(connection, erasure.tenant_id, erasure.erasure_id))
            values = _measured(found, levels)
            if counts is not None:
                values["counts"] = {name: max(count, found.counts.get(name, 0)) for name, count in counts.items()}
            if found.state in sources(state) and (state is not found.state or failed_step or certificate):
                # Another process may be further with the same erasure: what is recorded only moves forward.
                values["state"] = state.value
                values["failed_step"] = failed_step.value if failed_step else None
                if state is ErasureState.KEY_DESTROYED:
                    # Nobody can open it any more; as a row version it would outlive the person's rows.
                    values["user_sealed"] = None
                if certificate is not None:
                    values["certificate"] = certificate
            return erasure_of(_update(connection, erasure.tenant_id, erasure.erasure_id, values))

        return self._engine.transaction(work)

    def finish(
        self, erasure: Erasure, state: ErasureState, audit: AuditDraft, levels: Sequence[LevelState] = ()
    ) -> Erasure:
        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(_locked(connection, erasure.tenant_id, erasure.erasure_id))
            if found.state in ENDED:
                # Another process was faster. This one's operation has its event all the same.
                event = of_request(audit, found.erasure_id)
                append_event(connection, erasure.tenant_id, event, Outcome.ALLOWED, reason="joined")
                return found
            values: dict[str, object] = {"state": state.value, "completed_at": _NOW, **_measured(found, levels)}
            failed = state is ErasureState.FAILED
            values |= {"failed_step": ErasureState.VERIFIED.value} if failed else {"user_sealed": None}
            row = _update(connection, erasure.tenant_id, erasure.erasure_id, values)
            if found.whole_tenant and not failed:
                _close_tenant(connection, erasure.tenant_id)
            append_event(
                connection,
                erasure.tenant_id,
                of_request(audit, found.erasure_id),
                Outcome.FAILED if failed else Outcome.ALLOWED,
                reason="erasure_incomplete" if failed else None,
                counts=found.counts,
            )
            return erasure_of(row)

        return self._engine.transaction(work)

    def note_level(self, erasure: Erasure, levels: Sequence[LevelState], audit: AuditDraft) -> Erasure:
        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(_locked(connection, erasure.tenant_id, erasure.erasure_id))
            row = _update(connection, erasure.tenant_id, erasure.erasure_id, _measured(found, levels))
            append_event(connection, erasure.tenant_id, audit, Outcome.ALLOWED)
            return erasure_of(row)

        return self._engine.transaction(work)

    def nobody(
        self,
        predicate: TenantPredicate,
        received: Received,
        confirmation: Confirmation,
        levels: Sequence[LevelState],
        audit: AuditDraft,
    ) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            lock_open_tenant(connection, tenant_id, audit)
            row = _open_request(connection, tenant_id, received) or _insert(connection, tenant_id, received)
            found = erasure_of(row)
            if confirmation.seen is None:
                values = _by_authority(found)
            else:
                values = {}
                require_move(found.state, ErasureState.CONFIRMED)
                if ErasurePreview(tenant_id, None, {}).digest != confirmation.seen:
                    raise ErasureRequestError("stale_preview", state=found.state.value)
            values |= {
                "state": ErasureState.VERIFIED.value,
                "confirmed_at": _NOW,
                "confirmed_by": confirmation.by,
                "commitment_sealed": found.commitment_sealed or confirmation.commitment,
                "completed_at": _NOW,
                "user_sealed": None,
                **_measured(found, levels),
            }
            done = _update(connection, tenant_id, found.erasure_id, values)
            event = of_request(audit, found.erasure_id)
            append_event(connection, tenant_id, event, Outcome.ALLOWED, reason="nothing_found")
            return erasure_of(done)

        return self._engine.transaction(work)

    def unfinished(self) -> list[Erasure]:
        states = sorted(state.value for state in (*UNDER_WAY, ErasureState.CONFIRMED))
        query = sa.select(erasures).where(erasures.c.state.in_(states))
        return [erasure_of(row) for row in self._engine.rows(query.order_by(erasures.c.requested_at))]

    def stuck(self, untouched: timedelta) -> list[Erasure]:
        states = sorted(state.value for state in UNDER_WAY)
        query = sa.select(erasures).where(
            (erasures.c.state == ErasureState.CONFIRMED.value)
            | (erasures.c.state.in_(states) & (erasures.c.changed_at < _NOW - untouched))
        )
        return [erasure_of(row) for row in self._engine.rows(query.order_by(erasures.c.requested_at))]

    def uncertified(self) -> list[Erasure]:
        query = sa.select(erasures).where(
            erasures.c.state == ErasureState.VERIFIED.value,
            # What was erased before levels were measured cannot be certified afterwards.
            erasures.c.levels != sa.text("'{}'::jsonb"),
        )
        return [erasure_of(row) for row in self._engine.rows(query.order_by(erasures.c.requested_at))]

    def due_levels(self, now: datetime) -> list[Erasure]:
        query = sa.select(erasures).where(erasures.c.next_level_at <= now, ~_OPEN)
        return [erasure_of(row) for row in self._engine.rows(query.order_by(erasures.c.next_level_at))]

    def _moved(
        self,
        predicate: TenantPredicate,
        erasure_id: str,
        state: ErasureState,
        values: Mapping[str, object],
        audit: AuditDraft,
        counts: Mapping[str, int] | None = None,
    ) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            found = _locked(connection, tenant_id, erasure_id)
            if is_recorded(connection, tenant_id, audit):
                return erasure_of(found)
            require_move(erasure_of(found).state, state)
            row = _update(connection, tenant_id, erasure_id, {**values, "state": state.value})
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, counts=counts)
            return erasure_of(row)

        return self._engine.transaction(work)


def lock_tenant(connection: sa.Connection, tenant_id: str) -> None:
    """Hold the tenant's lock until the transaction ends: nothing is written for it meanwhile."""
    connection.execute(
        sa.select(usage_counters.c.used)
        .where(usage_counters.c.tenant_id == tenant_id, usage_counters.c.meter == "memories")
        .with_for_update()
    )


def lock_open_tenant(connection: sa.Connection, tenant_id: str, audit: AuditDraft) -> None:
    """As `lock_tenant`, of one that is not closed or being closed.

    Raises:
        PermissionDeniedError: It is: all of its people are erased with it.
    """
    lock_tenant(connection, tenant_id)
    state = connection.execute(sa.select(tenants.c.state).where(tenants.c.tenant_id == tenant_id)).scalar()
    if state in (TenantState.CLOSING.value, TenantState.CLOSED.value):
        raise PermissionDeniedError(action=audit.action.value, reason=f"tenant_{state}")


def is_recorded(connection: sa.Connection, tenant_id: str, audit: AuditDraft) -> bool:
    """Whether an earlier attempt of this transaction was committed, and its answer lost."""
    mine = (audit_events.c.log_id == tenant_id) & (audit_events.c.event_id == audit.event_id)
    return connection.execute(sa.select(audit_events.c.event_id).where(mine)).scalar() is not None


def is_held(connection: sa.Connection, tenant_id: str, subject_id: str) -> bool:
    """Whether a legal hold keeps the subject or its tenant; the caller holds the tenant's lock."""
    of_tenant = sa.select(tenants.c.held).where(tenants.c.tenant_id == tenant_id)
    of_subject = sa.select(subjects.c.held).where(
        subjects.c.tenant_id == tenant_id, subjects.c.subject_id == subject_id
    )
    return bool(connection.execute(of_tenant).scalar()) or bool(connection.execute(of_subject).scalar())


def of_request(audit: AuditDraft, erasure_id: str) -> AuditDraft:
    """The event with the request that it is of: a certificate is looked up by it, and the one joined is the one."""
    return replace(audit, details={**audit.details, "erasure_id": erasure_id})


def stable_counts(connection: sa.Connection, tenant_id: str, subject_id: str) -> dict[str, int]:
    """What a preview's digest answers for, counted in this transaction."""
    return {place: ROWS[place].find(connection, tenant_id, subject_id) for place in PREVIEWED}


def erasure_of(row: Row) -> Erasure:
    """The request that a row holds."""
    names = set(Erasure.__dataclass_fields__) - {"erasure_id", "subject_id", "state", "levels"}
    values = row._mapping
    subject_id = values["subject_id"]
    return Erasure(
        erasure_id=str(values["erasure_id"]),
        subject_id=None if subject_id is None else str(subject_id),
        state=ErasureState(values["state"]),
        # In the order in which they are reached; JSON keeps none.
        levels={
            level: _level(level, values["levels"][level.value]) for level in Level if level.value in values["levels"]
        },
        **{name: values[name] for name in names},
    )


def _level(level: Level, told: Mapping[str, Any]) -> LevelState:
    reached, due = told["reached_at"], told["due_at"]
    return LevelState(
        level,
        datetime.fromisoformat(reached) if reached else None,
        datetime.fromisoformat(due) if due else None,
        told["evidence"],
    )


def _measured(found: Erasure, levels: Sequence[LevelState]) -> dict[str, object]:
    """The columns of what was measured: a level that was reached stays so."""
    if not levels:
        return {}
    now = dict(found.levels)
    for level in levels:
        before = now.get(level.level)
        if before is None or before.reached_at is None or level.reached_at is not None:
            now[level.level] = level
    told = {
        level.value: {
            "reached_at": state.reached_at.isoformat() if state.reached_at else None,
            "due_at": state.due_at.isoformat() if state.due_at else None,
            "evidence": dict(state.evidence),
        }
        for level, state in now.items()
    }
    due = [state.due_at for state in now.values() if state.reached_at is None and state.due_at is not None]
    return {"levels": told, "next_level_at": min(due, default=None)}


def _by_authority(found: Erasure) -> dict[str, object]:
    """What the short way records of the steps that nobody took before."""
    state = found.state
    for following in SHORT_WAY[SHORT_WAY.index(state) + 1 : -1] if state in SHORT_WAY else ():
        require_move(state, following)
        state = following
    values: dict[str, object] = {}
    if found.identity_verified_at is None:
        values |= {"identity_verified_at": _NOW, "identity_method": "caller"}
    return values if found.previewed_at else values | {"previewed_at": _NOW}


def _seen_now(connection: sa.Connection, tenant_id: str, subject_id: str) -> str:
    return ErasurePreview(tenant_id, subject_id, stable_counts(connection, tenant_id, subject_id)).digest


def _frozen(
    connection: sa.Connection,
    tenant_id: str,
    subject_id: str,
    erasure_id: str,
    values: Mapping[str, object],
    intent: AuditDraft,
) -> Erasure:
    # Also for a person without a memory yet: a first write that is in flight must find the subject frozen.
    connection.execute(
        insert(subjects)
        .values(subject_id=subject_id, tenant_id=tenant_id, state="frozen")
        .on_conflict_do_update(
            index_elements=["subject_id"],
            set_={"state": "frozen", "generation": subjects.c.generation + 1},
            where=(subjects.c.tenant_id == tenant_id) & (subjects.c.state == "active"),
        )
    )
    row = _update(connection, tenant_id, erasure_id, {**values, "state": ErasureState.FROZEN.value})
    append_event(connection, tenant_id, of_request(intent, erasure_id), Outcome.ALLOWED, reason="intent")
    return erasure_of(row)


def _close_tenant(connection: sa.Connection, tenant_id: str) -> None:
    connection.execute(
        sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(state=TenantState.CLOSED.value)
    )
    # What its people asked for is done with it. How deep, its own row says; theirs have no event of an end to certify.
    connection.execute(
        sa.update(erasures)
        .where(erasures.c.tenant_id == tenant_id, _OPEN)
        .values(
            state=ErasureState.VERIFIED.value,
            user_sealed=None,
            levels={},
            next_level_at=None,
            completed_at=_NOW,
            changed_at=_NOW,
        )
    )


def _open_request(connection: sa.Connection, tenant_id: str, received: Received) -> Row | None:
    """The request that this one is, or joins, locked."""
    is_it = erasures.c.erasure_id == received.erasure_id
    if received.subject_id is not None:
        is_it = is_it | (erasures.c.subject_id == received.subject_id)
    # Of two, the one that knows the subject: the other was received before anything was kept of the person.
    query = sa.select(erasures).where(erasures.c.tenant_id == tenant_id, is_it)
    query = query.order_by(erasures.c.subject_id.asc().nulls_last())
    rows = connection.execute(query.with_for_update()).all()
    for row in rows:
        if str(row._mapping["erasure_id"]) == received.erasure_id and ErasureState(row._mapping["state"]) in ENDED:
            raise ErasureRequestError("wrong_state", state=row._mapping["state"])
    return next((row for row in rows if ErasureState(row._mapping["state"]) not in ENDED), None)


def _done(connection: sa.Connection, tenant_id: str, subject_id: str) -> Row | None:
    """The erasure of a subject that is over."""
    states = (ErasureState.VERIFIED.value, ErasureState.CERTIFIED.value)
    query = sa.select(erasures).where(
        erasures.c.tenant_id == tenant_id, erasures.c.subject_id == subject_id, erasures.c.state.in_(states)
    )
    return connection.execute(query.limit(1)).first()


def _insert(connection: sa.Connection, tenant_id: str, received: Received) -> Row:
    names = set(Received.__dataclass_fields__) - {"identity_method"}
    values = {name: getattr(received, name) for name in names}
    statement = sa.insert(erasures).values(tenant_id=tenant_id, state=ErasureState.RECEIVED.value, **values)
    return connection.execute(statement.returning(erasures)).one()


def _update(connection: sa.Connection, tenant_id: str, erasure_id: str, values: Mapping[str, object]) -> Row:
    statement = sa.update(erasures).where(_is(tenant_id, erasure_id)).values(**values, changed_at=_NOW)
    return connection.execute(statement.returning(erasures)).one()


def _locked(connection: sa.Connection, tenant_id: str, erasure_id: str) -> Row:
    row = connection.execute(sa.select(erasures).where(_is(tenant_id, erasure_id)).with_for_update()).one_or_none()
    if row is None:
        raise ErasureRequestError("absent")
    return row


def _is(tenant_id: str, erasure_id: str) -> sa.ColumnElement[bool]:
    return (erasures.c.tenant_id == tenant_id) & (erasures.c.erasure_id == erasure_id)
