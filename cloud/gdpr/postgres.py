"""`ErasureStore` on the control plane, as the maintenance role; each statement names the predicate's tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from cloud.gdpr.requests_postgres import PostgresRequestStore, about_subject, lock_tenant, stable_counts
from cloud.kernel.access import Action
from cloud.kernel.scope import TenantPredicate
from cloud.memory.placement_store import placements_of
from cloud.storage.metadata import (
    api_keys,
    audit_events,
    erasures,
    idempotency_keys,
    intake,
    legal_holds,
    memories,
    memory_changes,
    subjects,
)

_PAGE: Final = 1_000
_GIVE_BACK: Final = sa.text("SELECT lc_charge(:tenant, :event, :deltas, :subjects)").bindparams(
    *(sa.bindparam(name, type_=JSONB) for name in ("event", "deltas", "subjects"))
)
_FACTS: Final[Mapping[sa.Table, tuple[str, ...]]] = {
    subjects: ("subject_id", "state", "created_at", "erased_at", "held"),
    memories: (
        "memory_id",
        "state",
        "revision",
        "size_bytes",
        "stored_at",
        "last_accessed_at",
        "deleted_at",
        "superseded_at",
        "superseded_by",
    ),
    memory_changes: ("memory_id", "revision", "change", "changed_at", "event_id"),
    api_keys: ("key_id", "roles", "created_at", "expires_at", "revoked_at", "last_used_at", "ranges_sealed"),
    idempotency_keys: ("memory_ids", "created_at"),
    erasures: (
        "erasure_id",
        "state",
        "counts",
        "received_at",
        "requested_at",
        "due_at",
        "extended_until",
        "extension_notified_at",
        "identity_verified_at",
        "identity_method",
        "previewed_at",
        "confirmed_at",
        "completed_at",
    ),
    legal_holds: ("hold_id", "review_at", "placed_at", "released_at"),
}
"""What is told of a person; what is left out opens something, or can be compared and not read."""


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
            for table in (intake, memory_changes, memories, api_keys):
                connection.execute(
                    sa.delete(table).where(table.c.tenant_id == tenant_id, table.c.subject_id == subject_id)
                )
            connection.execute(about_subject(sa.delete(idempotency_keys), tenant_id, subject_id))
            if stock:
                give_back(connection, tenant_id, Action.ERASURE, stock, int(size_bytes), {subject_id: -stock})
            connection.execute(
                sa.update(subjects)
                .where(subjects.c.tenant_id == tenant_id, subjects.c.subject_id == subject_id)
                .values(state="erased", erased_at=sa.func.clock_timestamp())
            )

        self._engine.transaction(work)

    def count(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, int]:
            waiting = sa.select(sa.func.count()).select_from(intake)
            waiting = waiting.where(intake.c.tenant_id == tenant_id, intake.c.subject_id == subject_id)
            return {
                **stable_counts(connection, tenant_id, subject_id),
                "control.intake": int(connection.execute(waiting).scalar_one()),
            }

        return self._engine.transaction(work)

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def facts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, list[dict[str, object]]]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, list[dict[str, object]]]:
            found = {}
            for table, names in _FACTS.items():
                query = sa.select(*(table.c[name] for name in names)).where(table.c.tenant_id == tenant_id)
                if table is idempotency_keys:
                    query = about_subject(query, tenant_id, subject_id)
                else:
                    query = query.where(table.c.subject_id == subject_id)
                if table is memories:
                    # What is being purged may have left Pixeltable already.
                    query = query.where(memories.c.purge_started_at.is_(None))
                rows = connection.execute(query.order_by(*table.primary_key))
                found[table.name] = [dict(row._mapping) for row in rows]
            return found

        # One moment for all of them: what is deleted meanwhile must not be in one table and missing from another.
        return self._engine.transaction(work, isolation="REPEATABLE READ")

    def events(self, predicate: TenantPredicate, subject_id: str) -> Iterator[dict[str, object]]:
        event = audit_events.c.event
        after: tuple[object, object] | None = None
        while True:
            query = (
                sa.select(event, audit_events.c.occurred_at, audit_events.c.event_id)
                .where(audit_events.c.log_id == predicate.tenant_id)
                .where(
                    (event["subject_id"].as_string() == subject_id)
                    | event["subject_ids"].contains([subject_id])
                    | (event["actor"]["id"].as_string() == subject_id)
                )
                .order_by(audit_events.c.occurred_at, audit_events.c.event_id)
                .limit(_PAGE)
            )
            if after is not None:
                place = sa.tuple_(audit_events.c.occurred_at, audit_events.c.event_id)
                query = query.where(place > sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
            page = self._engine.rows(query)
            for row in page:
                yield cast("dict[str, object]", row[0])
            if len(page) < _PAGE:
                return
            after = (page[-1][1], page[-1][2])


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
