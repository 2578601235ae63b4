"""What the control plane knows of the erasure ledger, as the maintenance role; each look at people names a tenant."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.ledger import Entry, LedgerPlace, LedgerRecord
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import TenantPredicate
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import data_backups, erasure_ledger, subjects, tenants
from cloud.tenancy.model import TenantState
from cloud.tenancy.postgres import append_event


class PostgresLedgerView:
    """`LedgerView` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def place(self) -> LedgerPlace | None:
        rows = self._engine.rows(
            sa.select(erasure_ledger.c.records, erasure_ledger.c.size_bytes, erasure_ledger.c.line_hash)
        )
        return LedgerPlace(*rows[0]) if rows else None

    def keep_place(
        self, place: LedgerPlace, now: datetime, audit: AuditDraft | None, counts: Mapping[str, int]
    ) -> None:
        values = {
            "singleton": True,
            "records": place.records,
            "size_bytes": place.size_bytes,
            "line_hash": place.line_hash,
            "seen_at": now,
        }

        def work(connection: sa.Connection) -> None:
            statement = insert(erasure_ledger).values(values)
            connection.execute(statement.on_conflict_do_update(index_elements=["singleton"], set_=values))
            if audit is not None:
                append_event(connection, SYSTEM_LOG, audit, Outcome.ALLOWED, reason="replayed", counts=counts)

        self._engine.transaction(work)

    def back(self, predicate: TenantPredicate, subject_ids: Collection[str]) -> tuple[str, ...]:
        # Who is frozen is being erased here, too: that goes on by itself.
        return self._in_state("active", predicate, subject_ids)

    def frozen(self, predicate: TenantPredicate, subject_ids: Collection[str]) -> tuple[str, ...]:
        return self._in_state("frozen", predicate, subject_ids)

    def erased(self, predicate: TenantPredicate) -> tuple[str, ...]:
        query = sa.select(subjects.c.subject_id).where(
            subjects.c.tenant_id == predicate.tenant_id, subjects.c.state == "erased"
        )
        return tuple(str(row[0]) for row in self._engine.rows(query.order_by(subjects.c.erased_at)))

    def tenants(self, *, closed: bool) -> tuple[str, ...]:
        is_closed = tenants.c.state == TenantState.CLOSED.value
        query = sa.select(tenants.c.tenant_id).where(is_closed if closed else ~is_closed)
        return tuple(str(row[0]) for row in self._engine.rows(query.order_by(tenants.c.tenant_id)))

    def tenants_back(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        ended = (TenantState.CLOSING.value, TenantState.CLOSED.value)
        return self._tenants(tenant_ids, tenants.c.state.not_in(ended))

    def closing(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        return self._tenants(tenant_ids, tenants.c.state == TenantState.CLOSING.value)

    def kept_backups(self) -> Sequence[LedgerRecord]:
        query = sa.select(data_backups).where(data_backups.c.deleted_at.is_(None)).order_by(data_backups.c.made_at)
        return [
            LedgerRecord(
                Entry.BACKUP, row.made_at, reference=row.backup_id, expires_at=row.expires_at, location=row.location
            )
            for row in self._engine.rows(query)
        ]

    def add_backup(self, record: LedgerRecord) -> None:
        self._engine.transaction(
            lambda connection: connection.execute(
                insert(data_backups)
                .values(
                    backup_id=record.reference,
                    location=record.location or "",
                    made_at=record.at,
                    expires_at=record.expires_at,
                    complete=True,
                )
                .on_conflict_do_nothing()
            )
        )

    def backup_gone(self, record: LedgerRecord) -> None:
        self._engine.transaction(
            lambda connection: connection.execute(
                sa.update(data_backups)
                .where(data_backups.c.backup_id == record.reference, data_backups.c.deleted_at.is_(None))
                .values(deleted_at=record.at)
            )
        )

    def _in_state(self, state: str, predicate: TenantPredicate, subject_ids: Collection[str]) -> tuple[str, ...]:
        asked = sa.cast(sorted(subject_ids), sa.ARRAY(sa.Uuid(as_uuid=False)))
        query = (
            sa.select(subjects.c.subject_id)
            .where(subjects.c.tenant_id == predicate.tenant_id, subjects.c.state == state)
            .where(subjects.c.subject_id == sa.any_(asked))
        )
        return tuple(str(row[0]) for row in self._engine.rows(query.order_by(subjects.c.subject_id)))

    def _tenants(self, tenant_ids: Collection[str], condition: sa.ColumnElement[bool]) -> tuple[str, ...]:
        asked = sa.cast(sorted(tenant_ids), sa.ARRAY(sa.Text))
        query = sa.select(tenants.c.tenant_id).where(tenants.c.tenant_id == sa.any_(asked), condition)
        return tuple(str(row[0]) for row in self._engine.rows(query.order_by(tenants.c.tenant_id)))
