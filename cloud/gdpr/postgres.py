"""`ErasureStore` on the control plane, as the maintenance role; each statement names the predicate's tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.gdpr.log_reading import events_of
from cloud.gdpr.model import Erasure, ErasureState
from cloud.kernel.access import Action
from cloud.kernel.scope import TenantPredicate
from cloud.memory.placement_store import placements_of
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import (
    api_keys,
    erasures,
    idempotency_keys,
    intake,
    memories,
    memory_changes,
    subjects,
    usage_counters,
)
from cloud.tenancy.postgres import append_event

_GIVE_BACK: Final = sa.text("SELECT lc_charge(:tenant, :event, :deltas, :subjects)").bindparams(
    *(sa.bindparam(name, type_=JSONB) for name in ("event", "deltas", "subjects"))
)
_FACTS: Final[Mapping[sa.Table, tuple[str, ...]]] = {
    subjects: ("subject_id", "state", "created_at", "erased_at"),
    memories: (
        "memory_id",
        "state",
        "revision",
        "size_bytes",
        "stored_at",
        "stored_event",
        "last_accessed_at",
        "deleted_at",
        "superseded_at",
        "superseded_by",
    ),
    memory_changes: ("memory_id", "revision", "change", "changed_at", "event_id"),
    api_keys: ("key_id", "roles", "created_at", "expires_at", "revoked_at", "last_used_at", "ranges_sealed"),
    idempotency_keys: ("memory_ids", "created_at"),
    erasures: ("erasure_id", "state", "counts", "requested_at", "completed_at"),
}
"""What is told of a person; what is left out opens something, or can be compared and not read."""


class PostgresErasureStore:
    """`ErasureStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def freeze(
        self,
        predicate: TenantPredicate,
        subject_id: str,
        *,
        reason_sealed: bytes | None,
        erasure_id: str,
        audit: AuditDraft,
    ) -> Erasure:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> Erasure:
            _lock_tenant(connection, tenant_id)
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
            under_way = connection.execute(
                sa.select(erasures)
                .where(erasures.c.tenant_id == tenant_id, erasures.c.subject_id == subject_id)
                .where(erasures.c.state != ErasureState.VERIFIED.value)
            ).first()
            if under_way is not None:
                append_event(connection, tenant_id, audit, Outcome.ALLOWED, reason="joined")
                return _erasure(under_way)
            row = connection.execute(
                sa.insert(erasures)
                .values(
                    erasure_id=erasure_id,
                    tenant_id=tenant_id,
                    subject_id=subject_id,
                    state=ErasureState.FROZEN.value,
                    reason_sealed=reason_sealed,
                )
                .returning(erasures)
            ).one()
            append_event(connection, tenant_id, audit, Outcome.ALLOWED, reason="intent")
            return _erasure(row)

        return self._engine.transaction(work)

    def mark(self, erasure: Erasure, state: ErasureState, counts: Mapping[str, int]) -> Erasure:
        kept = {name: max(count, erasure.counts.get(name, 0)) for name, count in counts.items()} or dict(erasure.counts)
        self._engine.transaction(
            lambda connection: connection.execute(
                sa.update(erasures)
                .where(erasures.c.tenant_id == erasure.tenant_id, erasures.c.erasure_id == erasure.erasure_id)
                .values(state=state.value, counts=kept)
            )
        )
        return replace(erasure, state=state, counts=kept)

    def finish(self, erasure: Erasure, state: ErasureState, audit: AuditDraft) -> Erasure:
        def work(connection: sa.Connection) -> Erasure:
            row = connection.execute(
                sa.update(erasures)
                .where(erasures.c.tenant_id == erasure.tenant_id, erasures.c.erasure_id == erasure.erasure_id)
                .values(state=state.value, completed_at=sa.func.clock_timestamp())
                .returning(erasures)
            ).one()
            outcome = Outcome.ALLOWED if state is ErasureState.VERIFIED else Outcome.FAILED
            append_event(
                connection,
                erasure.tenant_id,
                audit,
                outcome,
                reason=None if outcome is Outcome.ALLOWED else "erasure_incomplete",
                counts=erasure.counts,
            )
            return _erasure(row)

        return self._engine.transaction(work)

    def delete_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> None:
            # The same order of locks as a write's: the tenant's counter first.
            _lock_tenant(connection, tenant_id)
            stock, size_bytes = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(memories.c.size_bytes), 0))
                .where(memories.c.tenant_id == tenant_id, memories.c.subject_id == subject_id)
                .where(memories.c.state == "active")
            ).one()
            for table in (intake, memory_changes, memories, api_keys):
                connection.execute(
                    sa.delete(table).where(table.c.tenant_id == tenant_id, table.c.subject_id == subject_id)
                )
            connection.execute(_idempotent(sa.delete(idempotency_keys), tenant_id, subject_id))
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
            counts = {}
            for table in (memories, memory_changes, intake, api_keys):
                query = (
                    sa.select(sa.func.count())
                    .select_from(table)
                    .where(table.c.tenant_id == tenant_id, table.c.subject_id == subject_id)
                )
                counts[f"control.{table.name}"] = int(connection.execute(query).scalar_one())
            keys = _idempotent(sa.select(sa.func.count()).select_from(idempotency_keys), tenant_id, subject_id)
            counts["control.idempotency_keys"] = int(connection.execute(keys).scalar_one())
            return counts

        return self._engine.transaction(work)

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def unfinished(self) -> list[Erasure]:
        query = sa.select(erasures).where(erasures.c.state != ErasureState.VERIFIED.value)
        return [_erasure(row) for row in self._engine.rows(query.order_by(erasures.c.requested_at))]

    def facts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, list[dict[str, object]]]:
        tenant_id = predicate.tenant_id

        def work(connection: sa.Connection) -> dict[str, list[dict[str, object]]]:
            found = {}
            for table, names in _FACTS.items():
                query = sa.select(*(table.c[name] for name in names)).where(table.c.tenant_id == tenant_id)
                if table is idempotency_keys:
                    query = _idempotent(query, tenant_id, subject_id)
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


def _lock_tenant(connection: sa.Connection, tenant_id: str) -> None:
    connection.execute(
        sa.select(usage_counters.c.used)
        .where(usage_counters.c.tenant_id == tenant_id, usage_counters.c.meter == "memories")
        .with_for_update()
    )


def _idempotent(statement: Any, tenant_id: str, subject_id: str) -> Any:
    return statement.where(
        idempotency_keys.c.tenant_id == tenant_id,
        sa.literal(subject_id, sa.Uuid(as_uuid=False)) == sa.any_(idempotency_keys.c.subject_ids),
    )


def _erasure(row: Row) -> Erasure:
    values = row._mapping
    return Erasure(
        erasure_id=str(values["erasure_id"]),
        tenant_id=values["tenant_id"],
        subject_id=str(values["subject_id"]),
        state=ErasureState(values["state"]),
        counts=values["counts"],
        requested_at=values["requested_at"],
        completed_at=values["completed_at"],
    )
