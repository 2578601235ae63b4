"""`RequestStore` on the control plane, as the maintenance role; each statement names the tenant.

A transaction that looks at a subject takes the tenant's lock first and the request's row after it, as every write does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from cloud.audit.event_rows import is_recorded
from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.levels import LevelState
from cloud.gdpr.model import Erasure, ErasurePreview, ErasureState
from cloud.gdpr.ports import Confirmation, Extension, Received, SealedTexts
from cloud.gdpr.request_rows import (
    NOW,
    OPEN,
    by_authority,
    change_request,
    close_tenant,
    ended_erasure,
    erasure_of,
    freeze_subject,
    insert_request,
    is_held,
    is_request,
    lock_open_tenant,
    locked_request,
    measured,
    next_due,
    of_request,
    open_request,
    preview_digest_now,
)
from cloud.gdpr.states import ENDED, MONTHS_EXTENDED, UNDER_WAY, months_later, require_move, sources
from cloud.kernel.errors import ErasureRequestError
from cloud.kernel.scope import TenantPredicate
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import (
    erasures,
)
from cloud.tenancy.postgres import append_event


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
            joined = open_request(connection, tenant_id, received)
            row = joined or insert_request(connection, tenant_id, received)
            if received.identity_method and row._mapping["state"] == ErasureState.RECEIVED.value:
                values = {
                    "state": ErasureState.IDENTITY_VERIFIED.value,
                    "identity_verified_at": NOW,
                    "identity_method": received.identity_method,
                }
                row = change_request(connection, tenant_id, erasure_of(row).erasure_id, values)
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, reason="joined" if joined else None)
            return erasure_of(row)

        return self._engine.transaction(work)

    def get(self, predicate: TenantPredicate, erasure_id: str) -> Erasure:
        rows = self._engine.rows(sa.select(erasures).where(is_request(predicate.tenant_id, erasure_id)))
        if not rows:
            raise ErasureRequestError("absent")
        return erasure_of(rows[0])

    def requests(self, predicate: TenantPredicate, *, owed: bool) -> list[Erasure]:
        deadline = sa.func.coalesce(erasures.c.extended_until, erasures.c.due_at)
        query = sa.select(erasures).where(erasures.c.tenant_id == predicate.tenant_id, ~erasures.c.whole_tenant)
        if owed:
            query = query.where(OPEN)
        return [erasure_of(row) for row in self._engine.rows(query.order_by(deadline, erasures.c.erasure_id))]

    def sealed(self, predicate: TenantPredicate, erasure_id: str) -> SealedTexts:
        columns = ("reason_sealed", "extension_reason_sealed", "closing_reason_sealed", "user_sealed")
        query = sa.select(*(erasures.c[name] for name in columns))
        rows = self._engine.rows(query.where(is_request(predicate.tenant_id, erasure_id)))
        if not rows:
            raise ErasureRequestError("absent")
        return SealedTexts(*rows[0])

    def of_strangers(self, predicate: TenantPredicate) -> list[tuple[str, bytes]]:
        query = sa.select(erasures.c.erasure_id, erasures.c.user_sealed).where(
            erasures.c.tenant_id == predicate.tenant_id,
            erasures.c.subject_id.is_(None),
            erasures.c.user_sealed.is_not(None),
            OPEN,
        )
        return [(str(erasure_id), bytes(sealed)) for erasure_id, sealed in self._engine.rows(query)]

    def verify_identity(self, predicate: TenantPredicate, erasure_id: str, method: str, audit: AuditDraft) -> Erasure:
        values = {"identity_verified_at": NOW, "identity_method": method}
        return self._moved(predicate, erasure_id, ErasureState.IDENTITY_VERIFIED, values, audit)

    def previewed(
        self, predicate: TenantPredicate, erasure_id: str, preview: ErasurePreview, audit: AuditDraft
    ) -> Erasure:
        values = {"previewed_at": NOW, "preview_digest": preview.digest}
        return self._moved(predicate, erasure_id, ErasureState.PREVIEWED, values, audit, preview.counts)

    def refuse(
        self,
        predicate: TenantPredicate,
        erasure_id: str,
        state: ErasureState,
        reason_sealed: bytes | None,
        audit: AuditDraft,
    ) -> Erasure:
        values = {"closing_reason_sealed": reason_sealed, "user_sealed": None, "completed_at": NOW}
        return self._moved(predicate, erasure_id, state, values, audit)

    def extend(self, predicate: TenantPredicate, erasure_id: str, extension: Extension, audit: AuditDraft) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(locked_request(connection, tenant_id, erasure_id))
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
            row = change_request(connection, tenant_id, erasure_id, values)
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
            row = open_request(connection, tenant_id, received)
            if row is not None and erasure_of(row).state in UNDER_WAY:
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="joined")
                return erasure_of(row)
            done = ended_erasure(connection, tenant_id, subject_id)
            if row is None and done is not None:
                # Another process was faster: who was looked up before is nobody any more.
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="joined")
                return erasure_of(done)
            if row is None:
                row = insert_request(connection, tenant_id, received)
            found = erasure_of(row)
            if confirmation.seen is None:
                values = by_authority(found)
            else:
                values = {}
                require_move(found.state, ErasureState.CONFIRMED)
                if preview_digest_now(connection, tenant_id, subject_id) != confirmation.seen:
                    raise ErasureRequestError("stale_preview", state=found.state.value)
            values |= {
                # Somebody of whom nothing was kept may have come meanwhile.
                "subject_id": subject_id,
                "confirmed_at": NOW,
                "confirmed_by": confirmation.by,
                "commitment_sealed": found.commitment_sealed or confirmation.commitment,
            }
            if not confirmation.again and is_held(connection, tenant_id, subject_id):
                held = change_request(
                    connection, tenant_id, found.erasure_id, {**values, "state": ErasureState.HELD.value}
                )
                append_event(connection, tenant_id, audit, Outcome.DENIED, reason="legal_hold")
                return erasure_of(held)
            return freeze_subject(connection, tenant_id, subject_id, found.erasure_id, values, intent)

        return self._engine.transaction(work)

    def freeze_released(
        self, predicate: TenantPredicate, erasure: Erasure, *, intent: AuditDraft, audit: AuditDraft
    ) -> Erasure:
        tenant_id = predicate.tenant_id
        assert erasure.subject_id is not None
        subject_id = erasure.subject_id

        def work(connection: sa.Connection) -> Erasure:
            lock_open_tenant(connection, tenant_id, intent)
            found = erasure_of(locked_request(connection, tenant_id, erasure.erasure_id))
            if found.state is not ErasureState.CONFIRMED:
                return found
            if is_held(connection, tenant_id, subject_id):
                row = change_request(connection, tenant_id, found.erasure_id, {"state": ErasureState.HELD.value})
                append_event(connection, tenant_id, audit, Outcome.DENIED, reason="legal_hold")
                return erasure_of(row)
            return freeze_subject(connection, tenant_id, subject_id, found.erasure_id, {}, intent)

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
            found = erasure_of(locked_request(connection, erasure.tenant_id, erasure.erasure_id))
            if certificate is not None and found.certificate != erasure.certificate:
                # Another process has certified it since: this one would be a second of the same number.
                return found
            ended = found.state in ENDED
            # Of what is over, the certificate tells the counts, and when the rest is due.
            values = measured(found, [level for level in levels if level.reached_at is not None or not ended])
            if counts is not None and not ended:
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
                    if found.levels == erasure.levels:
                        values["next_level_at"] = next_due(found.levels)
            return erasure_of(change_request(connection, erasure.tenant_id, erasure.erasure_id, values))

        return self._engine.transaction(work)

    def finish(
        self, erasure: Erasure, state: ErasureState, audit: AuditDraft, levels: Sequence[LevelState] = ()
    ) -> Erasure:
        def work(connection: sa.Connection) -> Erasure:
            found = erasure_of(locked_request(connection, erasure.tenant_id, erasure.erasure_id))
            if found.state in ENDED:
                # Another process was faster. This one's operation has its event all the same.
                event = of_request(audit, found.erasure_id)
                append_event(connection, erasure.tenant_id, event, Outcome.ALLOWED, reason="joined")
                return found
            values: dict[str, object] = {"state": state.value, "completed_at": NOW, **measured(found, levels)}
            failed = state is ErasureState.FAILED
            values |= {"failed_step": ErasureState.VERIFIED.value} if failed else {"user_sealed": None}
            row = change_request(connection, erasure.tenant_id, erasure.erasure_id, values)
            if found.whole_tenant and not failed:
                close_tenant(connection, erasure.tenant_id)
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
            found = erasure_of(locked_request(connection, erasure.tenant_id, erasure.erasure_id))
            row = change_request(connection, erasure.tenant_id, erasure.erasure_id, measured(found, levels))
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
            row = open_request(connection, tenant_id, received) or insert_request(connection, tenant_id, received)
            found = erasure_of(row)
            if confirmation.seen is None:
                values = by_authority(found)
            else:
                values = {}
                require_move(found.state, ErasureState.CONFIRMED)
                if ErasurePreview(tenant_id, None, {}).digest != confirmation.seen:
                    raise ErasureRequestError("stale_preview", state=found.state.value)
            values |= {
                "state": ErasureState.VERIFIED.value,
                "confirmed_at": NOW,
                "confirmed_by": confirmation.by,
                "commitment_sealed": found.commitment_sealed or confirmation.commitment,
                "completed_at": NOW,
                "user_sealed": None,
                **measured(found, levels),
            }
            done = change_request(connection, tenant_id, found.erasure_id, values)
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
            | (erasures.c.state.in_(states) & (erasures.c.changed_at < NOW - untouched))
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
        query = sa.select(erasures).where(erasures.c.next_level_at <= now, ~OPEN)
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
            found = locked_request(connection, tenant_id, erasure_id)
            if is_recorded(connection, tenant_id, audit):
                return erasure_of(found)
            require_move(erasure_of(found).state, state)
            row = change_request(connection, tenant_id, erasure_id, {**values, "state": state.value})
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, counts=counts)
            return erasure_of(row)

        return self._engine.transaction(work)
