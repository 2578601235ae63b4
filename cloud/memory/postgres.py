"""`Ledger` on the control plane: server functions of `migrations/sql`, called as the request path's role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import sqlalchemy as sa

from cloud.audit.model import AuditDraft
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import Changes, LedgerRow, LedgerState, SealedRow
from cloud.memory.ports import (
    Absent,
    Deleted,
    IdempotencyTag,
    KeyConflict,
    Located,
    ReadAdmitted,
    Stale,
    Stored,
    SubjectGone,
    TenantRefused,
)
from cloud.storage import wire
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.wire import Kind, ServerFunction, array
from cloud.usage.model import Balance, Meter
from cloud.usage.ports import QuotaRefusal
from cloud.usage.postgres import quota_refusal

WHOSE: Final[dict[str, Kind]] = {
    "tenant": wire.TEXT,
    "memory": wire.UUID,
    "own": wire.UUID,
    "restricted": wire.BOOLEAN,
}
"""Which memory, and whose it has to be."""
EVENT: Final[dict[str, Kind]] = {"event": wire.JSON, "retry": wire.BOOLEAN}
"""The event of the operation, and whether an earlier attempt may have committed."""

_STORE = ServerFunction(
    "lc_store",
    tenant=wire.TEXT,
    ids=array(wire.UUID),
    subjects=array(wire.UUID),
    types=array(wire.TEXT),
    confidences=array(wire.DOUBLE),
    created=array(wire.INSTANT),
    expires=array(wire.INSTANT),
    envelopes=array(wire.BYTES),
    key_tag=wire.BYTES,
    fingerprint=wire.BYTES,
    **EVENT,
)
_READ = ServerFunction(
    "lc_read",
    tenant=wire.TEXT,
    subject=wire.UUID,
    generation=wire.BIGINT,
    floor=wire.BIGINT,
    ids=array(wire.UUID),
    include_invalid=wire.BOOLEAN,
    **EVENT,
)
_LOCATE = ServerFunction("lc_locate", **WHOSE)
_DELETE = ServerFunction("lc_delete", **WHOSE, **EVENT)
_STATE = ServerFunction("lc_enter", tenant=wire.TEXT)
_ENTER = sa.text("SELECT set_config('luminescent.tenant', :tenant, true)")
_SUBJECT = sa.text(
    "SELECT s.state, coalesce(s.generation, 0), t.placement, coalesce(s.purged_generation, 0), coalesce(p.model, ''),"
    " coalesce(p.read_column, 'embedding') FROM tenants t"
    " LEFT JOIN placements p ON p.placement = t.placement"
    " LEFT JOIN subjects s ON s.tenant_id = t.tenant_id AND s.subject_id = CAST(:subject AS uuid)"
    " WHERE t.tenant_id = :tenant"
)
_LEDGER = sa.text(
    "SELECT memory_id::text, revision, state, generation, created_at, expires_at FROM memories"
    " WHERE tenant_id = :tenant AND subject_id = CAST(:subject AS uuid) AND generation > :since"
)
INTAKE_COLUMNS: Final = (
    "memory_id::text, tenant_id, subject_id::text, revision, generation, memory_type, confidence,"
    " created_at, expires_at, envelope"
)
_WAITING = sa.text(
    f"SELECT {INTAKE_COLUMNS} FROM intake"  # noqa: S608 - constant
    " WHERE tenant_id = :tenant AND subject_id = CAST(:subject AS uuid) AND generation > :since"
)


class PostgresLedger:
    """`Ledger` on the control plane. Each decision is one round trip."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def store(
        self, predicate: TenantPredicate, rows: Sequence[SealedRow], tag: IdempotencyTag | None, audit: AuditDraft
    ) -> Stored | QuotaRefusal | KeyConflict | SubjectGone | TenantRefused:
        answer = self.call(
            _STORE,
            {
                "tenant": predicate.tenant_id,
                "ids": [row.memory_id for row in rows],
                "subjects": [row.subject_id for row in rows],
                "types": [row.memory_type for row in rows],
                "confidences": [row.confidence for row in rows],
                "created": [row.created_at for row in rows],
                "expires": [row.expires_at for row in rows],
                "envelopes": [row.envelope for row in rows],
                "key_tag": tag.key if tag else None,
                "fingerprint": tag.fingerprint if tag else None,
                "event": audit.document(),
            },
            retry_parameter="retry",
        )
        match answer["outcome"]:
            case "stored":
                return Stored(
                    ids=tuple(answer["ids"]),
                    generations=answer["generations"],
                    balances=_balances(answer.get("balances") or {}),
                )
            case "quota":
                return quota_refusal(answer)
            case "conflict":
                return KeyConflict()
            case _:
                return gone_or_refused(answer)

    def read(
        self,
        predicate: TenantPredicate,
        subject_id: str | None,
        *,
        generation: int,
        floor: int | None,
        ids: Sequence[str],
        include_invalid: bool,
        audit: AuditDraft,
    ) -> ReadAdmitted | QuotaRefusal | Stale | SubjectGone | TenantRefused:
        answer = self.call(
            _READ,
            {
                "tenant": predicate.tenant_id,
                "subject": subject_id,
                "generation": generation,
                "floor": floor,
                "ids": list(ids),
                "include_invalid": include_invalid,
                "event": audit.document(),
            },
            retry_parameter="retry",
        )
        match answer["outcome"]:
            case "allowed":
                return ReadAdmitted(tuple(answer["ids"]))
            case "quota":
                return quota_refusal(answer)
            case "stale":
                return Stale(answer["generation"])
            case _:
                return gone_or_refused(answer)

    def changes(self, predicate: TenantPredicate, subject_id: str, *, since: int) -> Changes:
        parameters = {"tenant": predicate.tenant_id, "subject": subject_id, "since": since}

        def work(connection: sa.Connection) -> Changes:
            connection.execute(_ENTER, {"tenant": predicate.tenant_id})
            subject = connection.execute(_SUBJECT, parameters).one_or_none()
            if subject is None:
                return Changes(state=None, generation=0, placement="", purged=0, ledger=(), waiting=())
            state, generation, placement, purged, model, column = subject
            ledger = connection.execute(_LEDGER, parameters).all()
            waiting = connection.execute(_WAITING, parameters).all()
            return Changes(
                state=state,
                generation=generation,
                placement=placement,
                purged=purged,
                ledger=tuple(LedgerRow(r[0], r[1], LedgerState(r[2]), *r[3:]) for r in ledger),
                waiting=tuple(sealed_row(row) for row in waiting),
                model=model,
                column=column,
            )

        # One view of both tables: a row that is materialized in between must not be missing from either.
        return self._engine.transaction(work, isolation="REPEATABLE READ")

    def locate(
        self, predicate: TenantPredicate, memory_id: str, *, restricted: bool, own_subject_id: str | None
    ) -> Located | TenantRefused:
        answer = self.call(
            _LOCATE,
            {
                "tenant": predicate.tenant_id,
                "memory": memory_id,
                "own": own_subject_id,
                "restricted": restricted,
            },
            retry_parameter=None,
        )
        return Located(answer["subject_id"], answer["generation"])

    def refusal(self, predicate: TenantPredicate) -> TenantRefused | None:
        state = self._engine.invoke(_STATE, {"tenant": predicate.tenant_id}, retry_parameter=None)
        if state == "active":
            return None
        return TenantRefused("unknown_tenant" if state == "unknown" else f"tenant_{state}")

    def delete(
        self,
        predicate: TenantPredicate,
        memory_id: str,
        *,
        restricted: bool,
        own_subject_id: str | None,
        audit: AuditDraft,
    ) -> Deleted | Absent | TenantRefused:
        answer = self.call(
            _DELETE,
            {
                "tenant": predicate.tenant_id,
                "memory": memory_id,
                "own": own_subject_id,
                "restricted": restricted,
                "event": audit.document(),
            },
            retry_parameter="retry",
        )
        match answer["outcome"]:
            case "deleted":
                return Deleted(answer.get("subject_id"), answer.get("generation"))
            case "absent":
                return Absent()
            case _:
                refused = gone_or_refused(answer)
                assert isinstance(refused, TenantRefused)
                return refused

    def call(
        self, function: ServerFunction, parameters: Mapping[str, object], *, retry_parameter: str | None
    ) -> dict[str, Any]:
        """The answer of a server function."""
        return cast("dict[str, Any]", self._engine.invoke(function, parameters, retry_parameter=retry_parameter))


def sealed_row(row: Row) -> SealedRow:
    """A row of `intake`, as `INTAKE_COLUMNS` selects it."""
    return SealedRow(**row._mapping)


def _balances(standing: Mapping[str, Mapping[str, int | None]]) -> tuple[Balance, ...]:
    return tuple(
        Balance(Meter(meter), used=balance["used"] or 0, limit=balance["limit"]) for meter, balance in standing.items()
    )


def gone_or_refused(answer: Mapping[str, Any]) -> SubjectGone | TenantRefused:
    """What is left of the answers of every function."""
    match answer["outcome"]:
        case "subject_gone":
            return SubjectGone()
        case "refused":
            return TenantRefused(answer["reason"])
        case _:
            raise ProviderUnavailableError("control plane", reason="answered what this version does not know")
