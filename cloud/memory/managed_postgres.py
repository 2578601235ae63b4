"""`ManagedLedger` and `PurgeLedger` on the control plane: server functions of revision 0003."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from cloud.audit.model import AuditDraft
from cloud.kernel.scope import TenantPredicate
from cloud.memory.managed_ports import (
    Retention,
    RevisionConflict,
    Superseded,
    Told,
    Undeleted,
    Updated,
    Whose,
)
from cloud.memory.model import SealedRow
from cloud.memory.placement_store import placements_of
from cloud.memory.ports import Absent, IdempotencyTag, KeyConflict, Stale, TenantRefused
from cloud.memory.postgres import EVENT, WHOSE, PostgresLedger, gone_or_refused
from cloud.storage import wire
from cloud.storage.engine import ControlEngine
from cloud.storage.wire import Kind, ServerFunction, array
from cloud.usage.ports import QuotaRefusal
from cloud.usage.postgres import quota_refusal
from src.memory.lifecycle import ChangeKind, MemoryChange

_ROW: Final[dict[str, Kind]] = {
    "type": wire.TEXT,
    "confidence": wire.DOUBLE,
    "created": wire.INSTANT,
    "expires": wire.INSTANT,
    "envelope": wire.BYTES,
}
_KEPT: Final = ("deleted", "expired", "superseded")

_UPDATE = ServerFunction("lc_update", **WHOSE, base=wire.INTEGER, expected=wire.INTEGER, **_ROW, **EVENT)
_SUPERSEDE = ServerFunction(
    "lc_supersede",
    **WHOSE,
    id=wire.UUID,
    subject=wire.UUID,
    **_ROW,
    key_tag=wire.BYTES,
    fingerprint=wire.BYTES,
    **EVENT,
)
_UNDELETE = ServerFunction("lc_undelete", **WHOSE, retention=wire.DOUBLE, **EVENT)
_HISTORY = ServerFunction("lc_history", **WHOSE, **EVENT)
_BEGIN = ServerFunction(
    "lc_purge_begin", tenant=wire.TEXT, batch=wire.INTEGER, **dict.fromkeys(_KEPT, wire.DOUBLE), **EVENT
)
_END = ServerFunction("lc_purge_end", tenant=wire.TEXT, ids=array(wire.UUID), rows=wire.BIGINT, **EVENT)
_RETAIN = ServerFunction("lc_retain", tenant=wire.TEXT, ids=array(wire.UUID), revisions=array(wire.INTEGER), **EVENT)
_TOUCH = ServerFunction("lc_touch", tenant=wire.TEXT, ids=array(wire.UUID), at=array(wire.INSTANT))
_PLANS: Final = sa.text("SELECT tenant_id, plan FROM tenants WHERE state = 'active' AND NOT held ORDER BY tenant_id")
_DUE = sa.text(
    "SELECT DISTINCT m.tenant_id FROM memories m"
    " JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active' AND NOT s.held"
    " JOIN tenants t ON t.tenant_id = m.tenant_id AND NOT t.held"
    " WHERE m.state <> 'active' AND lc_due(m, :deleted, :expired, :superseded)"
    " AND m.tenant_id = coalesce(CAST(:tenant AS text), m.tenant_id) ORDER BY m.tenant_id"
).bindparams(*(sa.bindparam(name, type_=sa.Double()) for name in _KEPT))


class PostgresManagedLedger(PostgresLedger):
    """`ManagedLedger` on the control plane. Each decision is one round trip."""

    def update(
        self, predicate: TenantPredicate, whose: Whose, row: SealedRow, *, expected: int | None, audit: AuditDraft
    ) -> Updated | RevisionConflict | Stale | Absent | QuotaRefusal | TenantRefused:
        parameters = {**_whose(predicate, whose), **_row(row), "base": row.revision - 1, "expected": expected}
        answer = self.call(_UPDATE, {**parameters, "event": audit.document()}, retry_parameter="retry")
        match answer["outcome"]:
            case "updated":
                return Updated(answer["revision"], answer.get("generation"))
            case "revision_conflict":
                return RevisionConflict(answer["expected"], answer["current"])
            case "stale":
                return Stale(answer["generation"])
            case _:
                return _absent_full_or_refused(answer)

    def supersede(
        self, predicate: TenantPredicate, whose: Whose, row: SealedRow, tag: IdempotencyTag | None, audit: AuditDraft
    ) -> Superseded | Absent | QuotaRefusal | KeyConflict | TenantRefused:
        parameters = {
            **_whose(predicate, whose),
            **_row(row),
            "id": row.memory_id,
            "subject": row.subject_id,
            "key_tag": tag.key if tag else None,
            "fingerprint": tag.fingerprint if tag else None,
        }
        answer = self.call(_SUPERSEDE, {**parameters, "event": audit.document()}, retry_parameter="retry")
        match answer["outcome"]:
            case "superseded":
                return Superseded(answer["ids"][0], answer.get("generation"))
            case "conflict":
                return KeyConflict()
            case _:
                return _absent_full_or_refused(answer)

    def undelete(
        self, predicate: TenantPredicate, whose: Whose, *, retention: timedelta, audit: AuditDraft
    ) -> Undeleted | Absent | QuotaRefusal | TenantRefused:
        parameters = {**_whose(predicate, whose), "retention": retention.total_seconds()}
        answer = self.call(_UNDELETE, {**parameters, "event": audit.document()}, retry_parameter="retry")
        if answer["outcome"] == "undeleted":
            return Undeleted()
        return _absent_full_or_refused(answer)

    def history(
        self, predicate: TenantPredicate, whose: Whose, audit: AuditDraft
    ) -> Told | QuotaRefusal | TenantRefused:
        parameters = {**_whose(predicate, whose), "event": audit.document()}
        answer = self.call(_HISTORY, parameters, retry_parameter="retry")
        if answer["outcome"] == "told":
            return Told(tuple(sorted((_change(line) for line in answer["lines"]), key=_place)))
        other = _absent_full_or_refused(answer)
        assert not isinstance(other, Absent)
        return other

    def touch(self, predicate: TenantPredicate, read_at: Mapping[str, datetime]) -> frozenset[str]:
        parameters = {"tenant": predicate.tenant_id, "ids": list(read_at), "at": list(read_at.values())}
        # No event: each of these reads has left its own, with these ids in it.
        held = self._engine.invoke(_TOUCH, parameters, retry_parameter=None)
        assert isinstance(held, str)
        # A list of UUIDs as a text: `{…,…}`.
        return frozenset(held[1:-1].split(",")) if held != "{}" else frozenset()


class PostgresPurgeLedger:
    """`PurgeLedger` on the control plane, as the maintenance role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def due(self, retention: Retention, *, tenant_id: str | None) -> list[str]:
        rows = self._engine.rows(_DUE, {**_kept(retention), "tenant": tenant_id})
        return [str(row[0]) for row in rows]

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def begin(
        self, predicate: TenantPredicate, retention: Retention, *, batch: int, audit: AuditDraft
    ) -> tuple[str, ...]:
        parameters = {"tenant": predicate.tenant_id, "batch": batch, **_kept(retention), "event": audit.document()}
        # A repeated attempt finds what the earlier one marked.
        answer = self._engine.invoke(_BEGIN, parameters, retry_parameter="retry")
        assert isinstance(answer, dict)
        return tuple(answer["ids"])

    def end(self, predicate: TenantPredicate, ids: Sequence[str], *, rows: int, audit: AuditDraft) -> int:
        parameters = {"tenant": predicate.tenant_id, "ids": list(ids), "rows": rows, "event": audit.document()}
        return int(str(self._engine.invoke(_END, parameters, retry_parameter="retry")))


class PostgresRetentionLedger:
    """`RetentionLedger` on the control plane, as the maintenance role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def plans(self) -> list[tuple[str, str]]:
        return [(str(tenant_id), str(plan)) for tenant_id, plan in self._engine.rows(_PLANS)]

    def placements(self, predicate: TenantPredicate) -> tuple[str, ...]:
        return placements_of(self._engine, predicate.tenant_id)

    def retain(self, predicate: TenantPredicate, seen: Mapping[str, int], audit: AuditDraft) -> int:
        parameters = {
            "tenant": predicate.tenant_id,
            "ids": list(seen),
            "revisions": list(seen.values()),
            "event": audit.document(),
        }
        return int(str(self._engine.invoke(_RETAIN, parameters, retry_parameter="retry")))


def _whose(predicate: TenantPredicate, whose: Whose) -> dict[str, object]:
    return {
        "tenant": predicate.tenant_id,
        "memory": whose.memory_id,
        "own": whose.own_subject_id,
        "restricted": whose.restricted,
    }


def _row(row: SealedRow) -> dict[str, object]:
    return {
        "type": row.memory_type,
        "confidence": row.confidence,
        "created": row.created_at,
        "expires": row.expires_at,
        "envelope": row.envelope,
    }


def _kept(retention: Retention) -> dict[str, float]:
    return {
        "deleted": retention.deleted.total_seconds(),
        "expired": retention.expired.total_seconds(),
        "superseded": retention.superseded.total_seconds(),
    }


def _change(line: Mapping[str, Any]) -> MemoryChange:
    return MemoryChange(
        revision=line["revision"],
        kind=ChangeKind(line["kind"]),
        at=datetime.fromisoformat(line["at"]),
        actor=line["actor"] or None,
        successor=line["successor"],
    )


def _place(change: MemoryChange) -> tuple[int, bool]:
    """Where a change stands among those told in the order of their times: a clock may have been set back between two.

    A revision begins with what made it.
    """
    return change.revision, change.kind not in (ChangeKind.STORED, ChangeKind.UPDATED)


def _absent_full_or_refused(answer: Mapping[str, Any]) -> Absent | QuotaRefusal | TenantRefused:
    match answer["outcome"]:
        case "absent":
            return Absent()
        case "quota":
            return quota_refusal(answer)
        case _:
            other = gone_or_refused(answer)
            assert isinstance(other, TenantRefused)
            return other
