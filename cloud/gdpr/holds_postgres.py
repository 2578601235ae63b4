"""`HoldStore` on the control plane, as the maintenance role.

What a purge must know stands on the rows that it reads anyway: `held` of the subject and of the tenant. The tenant's
lock is held from the look at the subject until the commit, so a hold and a freeze never pass each other.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.event_rows import is_recorded
from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.model import ErasureState
from cloud.gdpr.ports import SealedHold
from cloud.gdpr.request_rows import lock_open_tenant, lock_tenant
from cloud.kernel.errors import ErasureRequestError
from cloud.kernel.scope import TenantPredicate
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import erasures, legal_holds, subjects, tenants
from cloud.tenancy.postgres import append_event

_NOW: Final = sa.func.clock_timestamp()


class PostgresHoldStore:
    """`HoldStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def place(self, predicate: TenantPredicate, hold: SealedHold, audit: AuditDraft) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            lock_open_tenant(connection, tenant_id, audit)
            if is_recorded(connection, tenant_id, audit):
                return
            if hold.subject_id is None:
                _hold_tenant(connection, tenant_id, held=True)
            else:
                _hold_subject(connection, tenant_id, hold.subject_id)
            connection.execute(
                sa.insert(legal_holds).values(
                    hold_id=hold.hold_id,
                    tenant_id=tenant_id,
                    subject_id=hold.subject_id,
                    reason_sealed=hold.reason,
                    authority_sealed=hold.authority,
                    review_at=hold.review_at,
                    placed_at=hold.placed_at,
                )
            )
            append_event(connection, tenant_id, audit, Outcome.ALLOWED)

        self._engine.transaction(work)

    def release(
        self, predicate: TenantPredicate, hold_id: str, reason_sealed: bytes | None, audit: AuditDraft
    ) -> SealedHold:
        tenant_id = predicate.tenant_id
        mine = (legal_holds.c.tenant_id == tenant_id) & (legal_holds.c.hold_id == hold_id)

        def work(connection: sa.Connection) -> SealedHold:
            lock_tenant(connection, tenant_id)
            row = connection.execute(sa.select(legal_holds).where(mine).with_for_update()).one_or_none()
            if row is not None and is_recorded(connection, tenant_id, audit):
                return _hold(row)
            if row is None or row._mapping["released_at"] is not None:
                raise ErasureRequestError("absent")
            released = connection.execute(
                sa.update(legal_holds)
                .where(mine)
                .values(released_at=_NOW, release_reason_sealed=reason_sealed)
                .returning(legal_holds)
            ).one()
            _follow(connection, tenant_id, _hold(row).subject_id)
            going_on = _confirm_released(connection, tenant_id)
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, counts={"released_requests": going_on})
            return _hold(released)

        return self._engine.transaction(work)

    def holds(self, predicate: TenantPredicate) -> list[SealedHold]:
        query = sa.select(legal_holds).where(legal_holds.c.tenant_id == predicate.tenant_id)
        order = (legal_holds.c.released_at.is_not(None), legal_holds.c.review_at, legal_holds.c.hold_id)
        return [_hold(row) for row in self._engine.rows(query.order_by(*order))]


def _hold_tenant(connection: sa.Connection, tenant_id: str, *, held: bool) -> None:
    connection.execute(sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(held=held))


def _hold_subject(connection: sa.Connection, tenant_id: str, subject_id: str) -> None:
    # Also of a person without a memory yet: what comes is kept.
    held = connection.execute(
        insert(subjects)
        .values(subject_id=subject_id, tenant_id=tenant_id, state="active", held=True)
        .on_conflict_do_update(
            index_elements=["subject_id"],
            set_={"held": True},
            where=(subjects.c.tenant_id == tenant_id) & (subjects.c.state == "active"),
        )
        .returning(subjects.c.subject_id)
    ).scalar()
    if held is None:
        raise ErasureRequestError("wrong_state", state=ErasureState.FROZEN.value)


def _follow(connection: sa.Connection, tenant_id: str, subject_id: str | None) -> None:
    """`held` of the subject or the tenant is whether any of their holds is left."""
    left = sa.select(sa.func.count()).select_from(legal_holds)
    left = left.where(legal_holds.c.tenant_id == tenant_id, legal_holds.c.released_at.is_(None))
    if subject_id is None:
        held = connection.execute(left.where(legal_holds.c.subject_id.is_(None))).scalar_one() > 0
        _hold_tenant(connection, tenant_id, held=held)
        return
    held = connection.execute(left.where(legal_holds.c.subject_id == subject_id)).scalar_one() > 0
    mine = (subjects.c.tenant_id == tenant_id) & (subjects.c.subject_id == subject_id)
    connection.execute(sa.update(subjects).where(mine).values(held=held))


def _confirm_released(connection: sa.Connection, tenant_id: str) -> int:
    """Held requests that nothing keeps any more are as confirmed as they were; returns how many."""
    of_tenant = sa.select(tenants.c.held).where(tenants.c.tenant_id == tenant_id).scalar_subquery()
    kept = sa.select(subjects.c.subject_id).where(subjects.c.tenant_id == tenant_id, subjects.c.held)
    statement = (
        sa.update(erasures)
        .where(
            erasures.c.tenant_id == tenant_id,
            erasures.c.state == ErasureState.HELD.value,
            erasures.c.subject_id.not_in(kept),
            ~of_tenant,
        )
        .values(state=ErasureState.CONFIRMED.value, changed_at=_NOW)
    )
    return int(connection.execute(statement).rowcount)


def _hold(row: Row) -> SealedHold:
    values = row._mapping
    subject_id = values["subject_id"]
    return SealedHold(
        hold_id=str(values["hold_id"]),
        subject_id=None if subject_id is None else str(subject_id),
        reason=values["reason_sealed"],
        authority=values["authority_sealed"],
        review_at=values["review_at"],
        placed_at=values["placed_at"],
        released_at=values["released_at"],
    )
