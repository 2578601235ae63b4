"""Rows of requests and of those they are about: what the transactions of `cloud.gdpr.requests_postgres` are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.model import PREVIEWED, Erasure, ErasurePreview, ErasureState
from cloud.gdpr.ports import Received
from cloud.gdpr.states import ENDED, SHORT_WAY, require_move
from cloud.gdpr.subject_rows import ROWS
from cloud.kernel.errors import ErasureRequestError, PermissionDeniedError
from cloud.storage.engine import Row
from cloud.storage.metadata import (
    erasures,
    subjects,
    tenants,
    usage_counters,
)
from cloud.tenancy.model import TenantState
from cloud.tenancy.postgres import append_event

NOW: Final = sa.func.clock_timestamp()
"""The moment of the statement, not of its transaction."""
OPEN: Final = erasures.c.state.not_in(sorted(state.value for state in ENDED))
"""The condition for requests that are not over."""


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


def measured(found: Erasure, levels: Sequence[LevelState]) -> dict[str, object]:
    """The columns of what was measured: a level that was reached stays so, with the time and evidence of then.

    The steps are done again where an erasure was cut off, and twice where two processes go on with one: what they find
    then is what the first left, and a certificate may tell of the first already. Where there is a certificate, what was
    due stays so until one tells what was measured.
    """
    if not levels:
        return {}
    now = dict(found.levels)
    for level in levels:
        before = now.get(level.level)
        if before is None or before.reached_at is None:
            now[level.level] = level
    told = {
        level.value: {
            "reached_at": state.reached_at.isoformat() if state.reached_at else None,
            "due_at": state.due_at.isoformat() if state.due_at else None,
            "evidence": dict(state.evidence),
        }
        for level, state in now.items()
    }
    return {"levels": told} if found.certificate is not None else {"levels": told, "next_level_at": next_due(now)}


def next_due(levels: Mapping[Level, LevelState]) -> datetime | None:
    """When the next of these levels is due, if one is."""
    due = [state.due_at for state in levels.values() if state.reached_at is None and state.due_at is not None]
    return min(due, default=None)


def by_authority(found: Erasure) -> dict[str, object]:
    """What the short way records of the steps that nobody took before."""
    state = found.state
    for following in SHORT_WAY[SHORT_WAY.index(state) + 1 : -1] if state in SHORT_WAY else ():
        require_move(state, following)
        state = following
    values: dict[str, object] = {}
    if found.identity_verified_at is None:
        values |= {"identity_verified_at": NOW, "identity_method": "caller"}
    return values if found.previewed_at else values | {"previewed_at": NOW}


def preview_digest_now(connection: sa.Connection, tenant_id: str, subject_id: str) -> str:
    """What a preview made in this transaction would be confirmed with."""
    return ErasurePreview(tenant_id, subject_id, stable_counts(connection, tenant_id, subject_id)).digest


def freeze_subject(
    connection: sa.Connection,
    tenant_id: str,
    subject_id: str,
    erasure_id: str,
    values: Mapping[str, object],
    intent: AuditDraft,
) -> Erasure:
    """The request, once its subject is frozen for it: no write is accepted and no read answered from the commit on."""
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
    row = change_request(connection, tenant_id, erasure_id, {**values, "state": ErasureState.FROZEN.value})
    append_event(connection, tenant_id, of_request(intent, erasure_id), Outcome.ALLOWED, reason="intent")
    return erasure_of(row)


def close_tenant(connection: sa.Connection, tenant_id: str) -> None:
    """The tenant is closed, and with it every request of its people."""
    connection.execute(
        sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(state=TenantState.CLOSED.value)
    )
    # What its people asked for is done with it. How deep, its own row says; theirs have no event of an end to certify.
    connection.execute(
        sa.update(erasures)
        .where(erasures.c.tenant_id == tenant_id, OPEN)
        .values(
            state=ErasureState.VERIFIED.value,
            user_sealed=None,
            levels={},
            next_level_at=None,
            completed_at=NOW,
            changed_at=NOW,
        )
    )


def open_request(connection: sa.Connection, tenant_id: str, received: Received) -> Row | None:
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


def ended_erasure(connection: sa.Connection, tenant_id: str, subject_id: str) -> Row | None:
    """The erasure of a subject that is over."""
    states = (ErasureState.VERIFIED.value, ErasureState.CERTIFIED.value)
    query = sa.select(erasures).where(
        erasures.c.tenant_id == tenant_id, erasures.c.subject_id == subject_id, erasures.c.state.in_(states)
    )
    return connection.execute(query.limit(1)).first()


def insert_request(connection: sa.Connection, tenant_id: str, received: Received) -> Row:
    """A new request's row."""
    names = set(Received.__dataclass_fields__) - {"identity_method"}
    values = {name: getattr(received, name) for name in names}
    statement = sa.insert(erasures).values(tenant_id=tenant_id, state=ErasureState.RECEIVED.value, **values)
    return connection.execute(statement.returning(erasures)).one()


def change_request(connection: sa.Connection, tenant_id: str, erasure_id: str, values: Mapping[str, object]) -> Row:
    """The row of a request with these values; the caller holds its lock."""
    statement = sa.update(erasures).where(is_request(tenant_id, erasure_id)).values(**values, changed_at=NOW)
    return connection.execute(statement.returning(erasures)).one()


def locked_request(connection: sa.Connection, tenant_id: str, erasure_id: str) -> Row:
    """The row of a request, held until the transaction ends.

    Raises:
        ErasureRequestError: The tenant has no such request.
    """
    row = connection.execute(
        sa.select(erasures).where(is_request(tenant_id, erasure_id)).with_for_update()
    ).one_or_none()
    if row is None:
        raise ErasureRequestError("absent")
    return row


def is_request(tenant_id: str, erasure_id: str) -> sa.ColumnElement[bool]:
    """The condition for one request of one tenant."""
    return (erasures.c.tenant_id == tenant_id) & (erasures.c.erasure_id == erasure_id)
