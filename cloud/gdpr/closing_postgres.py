"""`ClosingStore` on the control plane, as the maintenance role; each statement names the predicate's tenant."""

from __future__ import annotations

import sqlalchemy as sa

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.ports import Received
from cloud.gdpr.request_rows import erasure_of, lock_tenant, of_request
from cloud.kernel.errors import LegalHoldError
from cloud.kernel.scope import TenantPredicate
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import erasures, legal_holds, tenants
from cloud.tenancy.model import TenantState
from cloud.tenancy.postgres import append_event


class PostgresClosingStore:
    """`ClosingStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def freeze(self, predicate: TenantPredicate, closing: Received, audit: AuditDraft, *, held_too: bool) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            # A write looks at the state again once it holds this lock, so none commits after the freeze.
            lock_tenant(connection, tenant_id)
            row = connection.execute(_of(tenant_id)).one_or_none()
            found = None if row is None else erasure_of(row)
            if found is None or not found.is_done:
                if not held_too and _is_held(connection, tenant_id):
                    raise LegalHoldError()
                connection.execute(
                    sa.update(tenants).where(tenants.c.tenant_id == tenant_id).values(state=TenantState.CLOSING.value)
                )
            reason = "intent" if found is None else "resumed"
            frozen = found or _begun(connection, tenant_id, closing, audit.actor.id)
            append_event(connection, tenant_id, of_request(audit, frozen.erasure_id), Outcome.ALLOWED, reason=reason)
            return frozen

        return self._engine.transaction(work)

    def get(self, predicate: TenantPredicate) -> Erasure | None:
        rows = self._engine.rows(_of(predicate.tenant_id))
        return erasure_of(rows[0]) if rows else None

    def unfinished(self) -> list[str]:
        query = sa.select(tenants.c.tenant_id).where(tenants.c.state == TenantState.CLOSING.value)
        return [str(tenant_id) for (tenant_id,) in self._engine.rows(query.order_by(tenants.c.tenant_id))]


def _of(tenant_id: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(erasures).where(erasures.c.tenant_id == tenant_id, erasures.c.whole_tenant)


def _begun(connection: sa.Connection, tenant_id: str, closing: Received, by: str | None) -> Erasure:
    statement = sa.insert(erasures).values(
        erasure_id=closing.erasure_id,
        tenant_id=tenant_id,
        whole_tenant=True,
        state=ErasureState.FROZEN.value,
        received_at=closing.received_at,
        due_at=closing.due_at,
        confirmed_at=sa.func.clock_timestamp(),
        confirmed_by=by,
    )
    return erasure_of(connection.execute(statement.returning(erasures)).one())


def _is_held(connection: sa.Connection, tenant_id: str) -> bool:
    """Whether a legal hold keeps the tenant or anybody of it."""
    held = sa.select(sa.func.count()).select_from(legal_holds)
    held = held.where(legal_holds.c.tenant_id == tenant_id, legal_holds.c.released_at.is_(None))
    return connection.execute(held).scalar_one() > 0
