"""Tenants and API keys in the control plane, written as the maintenance role, looked up as the key role."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from cloud.audit.event_rows import is_recorded
from cloud.audit.model import AuditDraft, Outcome
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import Role
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import api_keys, placements, subjects, tenants, usage_counters
from cloud.tenancy.model import ApiKeyRecord, Tenant, TenantState

_APPEND = sa.text("SELECT lc_record(:log, :event, :outcome, :reason, :ids, :counts)").bindparams(
    sa.bindparam("event", type_=JSONB),
    sa.bindparam("counts", type_=JSONB),
    sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False)), value=[]),
)


_USED: Final = sa.text(
    # In one order, so that two processes that write at once do not wait for each other. The database's clock, or
    # hosts whose clocks differ would disagree about what was last.
    "UPDATE api_keys SET last_used_at = date_trunc('minute', clock_timestamp()) WHERE key_id IN"
    " (SELECT key_id FROM api_keys WHERE key_id = ANY(:ids) ORDER BY key_id FOR UPDATE)"
).bindparams(sa.bindparam("ids", type_=ARRAY(sa.Text())))


def append_event(
    connection: sa.Connection,
    log_id: str,
    draft: AuditDraft,
    outcome: Outcome,
    *,
    reason: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Append an event within the transaction that it describes; a repeated transaction does not append it twice."""
    connection.execute(
        _APPEND,
        {
            "log": log_id,
            "event": draft.document(),
            "outcome": outcome.value,
            "reason": reason,
            "counts": dict(counts or {}),
        },
    )


class PostgresTenantStore:
    """`TenantStore` on the control plane, as the maintenance role.

    Args:
        engine: Engine of that role.
        first_model: The embedding model that a table begins with.
    """

    def __init__(self, engine: ControlEngine, *, first_model: str = "") -> None:
        self._engine = engine
        self._first_model = first_model

    def create(self, tenant: Tenant, audit: AuditDraft) -> Tenant:
        def work(connection: sa.Connection) -> Tenant:
            added = connection.execute(
                insert(tenants)
                .values(
                    tenant_id=tenant.tenant_id,
                    state=tenant.state.value,
                    plan=tenant.plan,
                    limits=tenant.limits,
                    placement=tenant.placement,
                    created_at=tenant.created_at,
                )
                .on_conflict_do_nothing()
                .returning(tenants.c.tenant_id)
            ).scalar()
            if added is None:
                row = connection.execute(sa.select(tenants).where(tenants.c.tenant_id == tenant.tenant_id)).one()
                existing = _tenant(row)
                outcome = Outcome.ALLOWED if existing.same_terms(tenant) else Outcome.DENIED
                append_event(connection, tenant.tenant_id, audit, outcome, reason="exists")
                return existing
            connection.execute(
                insert(placements).values(placement=tenant.placement, model=self._first_model).on_conflict_do_nothing()
            )
            # The stocks; `memories` is also the tenant's write lock.
            connection.execute(
                sa.insert(usage_counters).values(
                    [{"tenant_id": tenant.tenant_id, "meter": meter} for meter in ("memories", "stored_bytes")]
                )
            )
            append_event(connection, tenant.tenant_id, audit, Outcome.ALLOWED)
            return tenant

        return self._engine.transaction(work)

    def set_state(self, tenant_id: str, state: TenantState, audit: AuditDraft) -> Tenant | None:
        return self._engine.transaction(lambda c: _changed(c, tenant_id, audit, lambda _: {"state": state.value}))

    def change(
        self,
        tenant_id: str,
        audit: AuditDraft,
        *,
        plan: str | None,
        limits: Mapping[str, int | None],
        drop_limits: Collection[str],
    ) -> Tenant | None:
        def terms(tenant: Tenant) -> dict[str, object]:
            kept = {meter: limit for meter, limit in tenant.limits.items() if meter not in drop_limits}
            return {"plan": plan or tenant.plan, "limits": {**kept, **limits}}

        return self._engine.transaction(lambda connection: _changed(connection, tenant_id, audit, terms))

    def tenants(self) -> list[Tenant]:
        rows = self._engine.rows(sa.select(tenants).order_by(tenants.c.tenant_id))
        return [_tenant(row) for row in rows]

    def get(self, tenant_id: str) -> Tenant | None:
        rows = self._engine.rows(sa.select(tenants).where(tenants.c.tenant_id == tenant_id))
        return _tenant(rows[0]) if rows else None

    def add_key(self, record: ApiKeyRecord, audit: AuditDraft) -> str | None:
        def work(connection: sa.Connection) -> str | None:
            barred = _barred(connection, record)
            if _is_kept(connection, record):
                return None
            if barred is not None:
                append_event(connection, record.tenant_id, audit, Outcome.DENIED, reason=barred)
                return barred
            _insert_key(connection, record)
            append_event(connection, record.tenant_id, audit, Outcome.ALLOWED)
            return None

        return self._engine.transaction(work)

    def revoke_key(self, tenant_id: str, key_id: str, audit: AuditDraft) -> bool:
        def work(connection: sa.Connection) -> bool:
            revoked = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.tenant_id == tenant_id, api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=sa.func.clock_timestamp())
                .returning(api_keys.c.key_id)
            ).scalar()
            if revoked is None and is_recorded(connection, tenant_id, audit):
                return True
            log_id = tenant_id if revoked else SYSTEM_LOG
            append_event(connection, log_id, audit, Outcome.ALLOWED, reason=None if revoked else "not_found")
            return revoked is not None

        return self._engine.transaction(work)

    def rotate_key(
        self, tenant_id: str, key_id: str, successor: ApiKeyRecord, *, ends_at: datetime, audit: AuditDraft
    ) -> bool:
        def work(connection: sa.Connection) -> bool:
            key = api_keys.c
            barred = _barred(connection, successor)
            if _is_kept(connection, successor):
                return True
            if barred is not None:
                append_event(connection, tenant_id, audit, Outcome.DENIED, reason=barred)
                return False
            rotated = connection.execute(
                sa.update(api_keys)
                .where(
                    key.tenant_id == tenant_id,
                    key.key_id == key_id,
                    key.revoked_at.is_(None),
                    key.successor_id.is_(None),
                    sa.or_(key.expires_at.is_(None), key.expires_at > sa.func.clock_timestamp()),
                )
                .values(expires_at=sa.func.least(key.expires_at, ends_at), successor_id=successor.key_id)
                .returning(key.key_id)
            ).scalar()
            if rotated is None:
                append_event(connection, SYSTEM_LOG, audit, Outcome.DENIED, reason="not_found")
                return False
            _insert_key(connection, successor)
            append_event(connection, tenant_id, audit, Outcome.ALLOWED)
            return True

        return self._engine.transaction(work)

    def keys(self, tenant_id: str) -> list[ApiKeyRecord]:
        query = sa.select(api_keys).where(api_keys.c.tenant_id == tenant_id).order_by(api_keys.c.key_id)
        return [_key(row) for row in self._engine.rows(query)]

    def all_keys(self) -> list[ApiKeyRecord]:
        query = sa.select(api_keys).order_by(api_keys.c.tenant_id, api_keys.c.key_id)
        return [_key(row) for row in self._engine.rows(query)]


class PostgresApiKeyLookup:
    """`ApiKeyLookup` as the role that can read API keys and nothing else."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def find(self, key_id: str) -> ApiKeyRecord | None:
        rows = self._engine.rows(sa.select(api_keys).where(api_keys.c.key_id == key_id))
        return _key(rows[0]) if rows else None


class PostgresKeyUse:
    """`KeyUseStore` as the role that looks keys up, which may write this one column of them."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def used(self, key_ids: Sequence[str]) -> None:
        self._engine.transaction(lambda connection: connection.execute(_USED, {"ids": list(key_ids)}))


def _barred(connection: sa.Connection, record: ApiKeyRecord) -> str | None:
    """Why no key may be added, as a code: its tenant or its person is being erased, or was since the key was made.

    The lock is the one under which they are frozen and their rows deleted, so no row comes after that.
    """
    tenant_id, counter = record.tenant_id, usage_counters.c
    lock = sa.select(counter.used).where(counter.tenant_id == tenant_id, counter.meter == "memories")
    connection.execute(lock.with_for_update())
    state = connection.execute(sa.select(tenants.c.state).where(tenants.c.tenant_id == tenant_id)).scalar()
    if state in (TenantState.CLOSING.value, TenantState.CLOSED.value):
        return f"tenant_{state}"
    if record.subject_id is None:
        return None
    mine = (subjects.c.tenant_id == tenant_id) & (subjects.c.subject_id == record.subject_id)
    person = connection.execute(sa.select(subjects.c.state).where(mine)).scalar()
    return None if person in (None, "active") else "erasure_in_progress"


def _is_kept(connection: sa.Connection, record: ApiKeyRecord) -> bool:
    """Whether an earlier attempt of this transaction was committed, and its answer lost: each call makes a new key."""
    key = api_keys.c
    mine = (key.tenant_id == record.tenant_id) & (key.key_id == record.key_id) & (key.secret_hash == record.secret_hash)
    return connection.execute(sa.select(key.key_id).where(mine)).scalar() is not None


def _insert_key(connection: sa.Connection, record: ApiKeyRecord) -> None:
    connection.execute(
        sa.insert(api_keys).values(
            key_id=record.key_id,
            tenant_id=record.tenant_id,
            secret_hash=record.secret_hash,
            roles=sorted(role.value for role in record.roles),
            subject_id=record.subject_id,
            user_sealed=record.user_sealed,
            expires_at=record.expires_at,
            ip_ranges=[str(one) for one in record.ip_ranges],
            ranges_sealed=record.ranges_sealed,
        )
    )


def _changed(
    connection: sa.Connection, tenant_id: str, audit: AuditDraft, change: Callable[[Tenant], Mapping[str, object]]
) -> Tenant | None:
    """The tenant after the change and its event; as it was if it is being closed; `None` if there is none."""
    row = connection.execute(sa.select(tenants).where(tenants.c.tenant_id == tenant_id).with_for_update()).one_or_none()
    if row is None:
        append_event(connection, SYSTEM_LOG, audit, Outcome.DENIED, reason="unknown_tenant")
        return None
    tenant = _tenant(row)
    if is_recorded(connection, tenant_id, audit):
        # Done already, by an attempt whose answer was lost: done again it would undo what others changed since.
        return tenant
    if tenant.state in (TenantState.CLOSING, TenantState.CLOSED):
        append_event(connection, tenant_id, audit, Outcome.DENIED, reason=f"tenant_{tenant.state.value}")
        return tenant
    changed = connection.execute(
        sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(**change(tenant)).returning(tenants)
    ).one()
    append_event(connection, tenant_id, audit, Outcome.ALLOWED)
    return _tenant(changed)


def _tenant(row: Row) -> Tenant:
    values = row._mapping
    return Tenant(
        tenant_id=values["tenant_id"],
        state=TenantState(values["state"]),
        plan=values["plan"],
        limits=values["limits"],
        placement=values["placement"],
        created_at=values["created_at"],
    )


def _key(row: Row) -> ApiKeyRecord:
    values = row._mapping
    return ApiKeyRecord(
        key_id=values["key_id"],
        tenant_id=values["tenant_id"],
        secret_hash=values["secret_hash"],
        roles=frozenset(Role(role) for role in values["roles"]),
        subject_id=str(values["subject_id"]) if values["subject_id"] else None,
        user_sealed=values["user_sealed"],
        expires_at=values["expires_at"],
        revoked_at=values["revoked_at"],
        ip_ranges=tuple(values["ip_ranges"]),
        ranges_sealed=values["ranges_sealed"],
        created_at=values["created_at"],
        last_used_at=values["last_used_at"],
        successor_id=values["successor_id"],
    )
