"""Tenants and API keys in the control plane, written as the maintenance role, looked up as the key role."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import Role
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import api_keys, tenants, usage_counters
from cloud.tenancy.model import ApiKeyRecord, Tenant, TenantState

_APPEND = sa.text("SELECT lc_record(:log, :event, :outcome, :reason, :ids, :counts)").bindparams(
    sa.bindparam("event", type_=JSONB),
    sa.bindparam("counts", type_=JSONB),
    sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False)), value=[]),
)


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
    """`TenantStore` on the control plane, as the maintenance role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

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
            # The stocks; `memories` is also the tenant's write lock.
            connection.execute(
                sa.insert(usage_counters).values(
                    [{"tenant_id": tenant.tenant_id, "meter": meter} for meter in ("memories", "stored_bytes")]
                )
            )
            append_event(connection, tenant.tenant_id, audit, Outcome.ALLOWED)
            return tenant

        return self._engine.transaction(work)

    def set_state(self, tenant_id: str, state: TenantState, audit: AuditDraft) -> bool:
        def work(connection: sa.Connection) -> bool:
            changed = connection.execute(
                sa.update(tenants)
                .where(tenants.c.tenant_id == tenant_id, tenants.c.state != TenantState.CLOSED.value)
                .values(state=state.value)
                .returning(tenants.c.tenant_id)
            ).scalar()
            if changed is None:
                append_event(connection, SYSTEM_LOG, audit, Outcome.DENIED, reason="unknown_tenant")
                return False
            append_event(connection, tenant_id, audit, Outcome.ALLOWED)
            return True

        return self._engine.transaction(work)

    def tenants(self) -> list[Tenant]:
        rows = self._engine.rows(sa.select(tenants).order_by(tenants.c.tenant_id))
        return [_tenant(row) for row in rows]

    def get(self, tenant_id: str) -> Tenant | None:
        rows = self._engine.rows(sa.select(tenants).where(tenants.c.tenant_id == tenant_id))
        return _tenant(rows[0]) if rows else None

    def add_key(self, record: ApiKeyRecord, audit: AuditDraft) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(
                sa.insert(api_keys).values(
                    key_id=record.key_id,
                    tenant_id=record.tenant_id,
                    secret_hash=record.secret_hash,
                    roles=sorted(role.value for role in record.roles),
                    subject_id=record.subject_id,
                    user_sealed=record.user_sealed,
                    expires_at=record.expires_at,
                )
            )
            append_event(connection, record.tenant_id, audit, Outcome.ALLOWED)

        self._engine.transaction(work)

    def revoke_key(self, tenant_id: str, key_id: str, audit: AuditDraft) -> bool:
        def work(connection: sa.Connection) -> bool:
            revoked = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.tenant_id == tenant_id, api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=sa.func.clock_timestamp())
                .returning(api_keys.c.key_id)
            ).scalar()
            log_id = tenant_id if revoked else SYSTEM_LOG
            append_event(connection, log_id, audit, Outcome.ALLOWED, reason=None if revoked else "not_found")
            return revoked is not None

        return self._engine.transaction(work)

    def keys(self, tenant_id: str) -> list[ApiKeyRecord]:
        query = sa.select(api_keys).where(api_keys.c.tenant_id == tenant_id).order_by(api_keys.c.key_id)
        return [_key(row) for row in self._engine.rows(query)]


class PostgresApiKeyLookup:
    """`ApiKeyLookup` as the role that can read API keys and nothing else."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def find(self, key_id: str) -> ApiKeyRecord | None:
        rows = self._engine.rows(sa.select(api_keys).where(api_keys.c.key_id == key_id))
        return _key(rows[0]) if rows else None


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
    )
