"""`ErasureStore` on the control plane, as the maintenance role; each statement names the predicate's tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from cloud.audit.model import Outcome
from cloud.gdpr.log_reading import events_of
from cloud.gdpr.request_rows import lock_tenant
from cloud.gdpr.requests_postgres import PostgresRequestStore
from cloud.gdpr.subject_rows import ERASED_ROWS, ROWS
from cloud.kernel.access import Action
from cloud.kernel.scope import TenantPredicate
from cloud.memory.placement_store import placements_of
from cloud.storage.metadata import erasures, memories, subjects

_ABOUT_PEOPLE: Final = (*(ROWS[place].table for place in ERASED_ROWS), subjects)
"""What a closing empties: what an erasure does, and the rows that refuse late writes, which the tenant itself does."""

_GIVE_BACK: Final = sa.text("SELECT lc_charge(:tenant, :event, :deltas, :subjects)").bindparams(
    *(sa.bindparam(name, type_=JSONB) for name in ("event", "deltas", "subjects"))
)


class PostgresErasureStore(PostgresRequestStore):
    """`ErasureStore` on the control plane."""

    def delete_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            # The same order of locks as a write's: the tenant's counter first.
            lock_tenant(connection, tenant_id)
            stock, size_bytes = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(memories.c.size_bytes), 0))
                .where(memories.c.tenant_id == tenant_id, memories.c.subject_id == subject_id)
                .where(memories.c.state == "active")
            ).one()
            for place in ERASED_ROWS:
                ROWS[place].erase(connection, tenant_id, subject_id)
            if stock:
                give_back(connection, tenant_id, Action.ERASURE, stock, int(size_bytes), {subject_id: -stock})
            connection.execute(
                sa.update(subjects)
                .where(subjects.c.tenant_id == tenant_id, subjects.c.subject_id == subject_id)
                .values(state="erased", erased_at=sa.func.clock_timestamp())
            )

        self._engine.transaction(work)

    def delete_tenant(self, predicate: TenantPredicate) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            lock_tenant(connection, tenant_id)
            stock, size_bytes = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(memories.c.size_bytes), 0))
                .where(memories.c.tenant_id == tenant_id)
                .where(memories.c.state == "active")
            ).one()
            for table in _ABOUT_PEOPLE:
                connection.execute(sa.delete(table).where(table.c.tenant_id == tenant_id))
            # Of requests that are open: as row versions they would outlive their people's rows.
            connection.execute(
                sa.update(erasures)
                .where(erasures.c.tenant_id == tenant_id, erasures.c.user_sealed.is_not(None))
                .values(user_sealed=None)
            )
            if stock:
                give_back(connection, tenant_id, Action.TENANT_CLOSE, stock, int(size_bytes))

        self._engine.transaction(work)

    def count_tenant(self, predicate: TenantPredicate) -> dict[str, int]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, int]:
            found = {}
            for table in _ABOUT_PEOPLE:
                query = sa.select(sa.func.count()).select_from(table).where(table.c.tenant_id == tenant_id)
                found[f"control.{table.name}"] = int(connection.execute(query).scalar_one())
            return found

        return self._engine.transaction(work)

    def erased_places(self) -> Collection[str]:
        return ERASED_ROWS

    def count(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, int]:
            return {place: ROWS[place].find(connection, tenant_id, subject_id) for place in ERASED_ROWS}

        return self._engine.transaction(work)

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def facts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, list[dict[str, object]]]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, list[dict[str, object]]]:
            found = {}
            for rows in ROWS.values():
                if not rows.told:
                    continue
                query = rows.tell(tenant_id, subject_id)
                if rows.table is memories:
                    # What is being purged may have left Pixeltable already.
                    query = query.where(memories.c.purge_started_at.is_(None))
                found[rows.table.name] = [dict(row._mapping) for row in connection.execute(query)]
            return found

        # One moment for all of them: what is deleted meanwhile must not be in one table and missing from another.
        return self._engine.transaction(work, isolation="REPEATABLE READ")

    def events(self, predicate: TenantPredicate, subject_id: str) -> Iterator[dict[str, object]]:
        def about(event: Any) -> sa.ColumnElement[bool]:
            return sa.or_(
                event["subject_id"].as_string() == subject_id,
                event["subject_ids"].contains([subject_id]),
                event["actor"]["id"].as_string() == subject_id,
            )

        return events_of(self._engine, predicate.tenant_id, about)

    def exports_of_everybody(self, predicate: TenantPredicate, subject_id: str) -> Iterator[dict[str, object]]:
        tenant_id = predicate.tenant_id
        known = sa.select(subjects.c.created_at).where(
            subjects.c.tenant_id == tenant_id, subjects.c.subject_id == subject_id
        )
        found = self._engine.rows(known)

        def wanted(event: Any) -> sa.ColumnElement[bool]:
            return sa.and_(
                event["action"].as_string() == Action.MEMORY_EXPORT_ALL.value,
                event["outcome"].as_string() == Outcome.ALLOWED.value,
            )

        # Nothing was ever stored of somebody without a row, so no export held anything.
        return events_of(self._engine, tenant_id, wanted, since=found[0][0]) if found else iter(())


def give_back(
    connection: sa.Connection,
    tenant_id: str,
    action: Action,
    memories: int,
    stored_bytes: int,
    subjects: Mapping[str, int] | None = None,
) -> None:
    """Take memories that are erased out of the tenant's stock, and out of that of people who stay known."""
    deltas = {"memories": -memories, "stored_bytes": -stored_bytes}
    connection.execute(
        _GIVE_BACK,
        {"tenant": tenant_id, "event": {"action": action.value}, "deltas": deltas, "subjects": dict(subjects or {})},
    )
