"""`Rows` on Pixeltable: queries of rows, each through a handle that cannot be built without a tenant."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import pixeltable as pxt
from pixeltable.func import Batch

from cloud.kernel import failpoints
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import LedgerRow, SealedRow, named_revisions
from cloud.memory.pixeltable_handles import BATCH, FIRST_COLUMN, SCHEMA, Tables, TenantTable
from cloud.memory.vectors import installed

if TYPE_CHECKING:
    from pixeltable import Table
    from pixeltable.exprs import Expr

_IDS_AT_ONCE: Final = 500
_WRITING_S: Final = 600.0
"""A batch of long texts takes minutes where the processors are busy. Whoever gave up waiting would let the placement's
lock go, and what is written afterwards might be of somebody who was erased meanwhile."""
_OF_THE_LEDGER: Final = ("generation", "created_at", "expires_at")
_LEFT_OUT: Final = 5_000
"""Rows that a statement names as of no interest: each takes a hundredth of what reading it would."""


@pxt.udf(batch_size=BATCH)  # type: ignore[untyped-decorator]
def sealed_embedding(
    tenant_id: Batch[pxt.String],
    subject_id: Batch[pxt.String],
    memory_id: Batch[pxt.String],
    envelope: Batch[pxt.String],
) -> Batch[pxt.Binary | None]:
    """Sealed vectors of sealed envelopes of the process's first model; never raises (see `Vectorizer.seal_batch`).

    Tables made by the first release have it; the first write to one replaces it by `sealed_embedding_of`.
    """
    models = installed()
    if models is None:
        return [None] * len(envelope)
    return models.column(None, tenant_id, subject_id, memory_id, envelope)


class PixeltableRows:
    """`Rows` on Pixeltable.

    Args:
        tables: The tables of the placements.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def newer(
        self,
        predicate: TenantPredicate,
        placement: str,
        subject_id: str,
        *,
        since: int,
        column: str = FIRST_COLUMN,
        known: Mapping[str, LedgerRow] | None = None,
        without: Collection[str] = (),
    ) -> list[SealedRow]:
        # Each cell takes its time, so what is known is not read.
        columns_known = ("tenant_id", "subject_id", *(_OF_THE_LEDGER if known is not None else ()))

        def call() -> list[SealedRow]:
            table = self._tables.existing(placement, column=column)
            if table is None:
                return []
            mine = TenantTable(table, (predicate,))
            columns = _columns(table, known=columns_known)
            wanted = (table.subject_id == subject_id) & (table.generation > since)
            if without:
                wanted &= ~table.memory_id.isin(list(islice(without, _LEFT_OUT)))
            found = table.where(mine.where(wanted)).select(*columns, **_vector(table, column)).collect()
            whose = {"subject_id": subject_id}
            if known is None:
                return [_sealed(predicate, whose | row) for row in found]
            there = ((known.get(row["memory_id"]), row) for row in found)
            rows = (_sealed(predicate, whose | row | _of_ledger(ledger)) for ledger, row in there if ledger is not None)
            return list(named_revisions(rows, known))

        return self._tables.repeatable(call)

    def page(self, predicate: TenantPredicate, placement: str, *, after: str, limit: int) -> list[SealedRow]:
        def call() -> list[SealedRow]:
            table = self._tables.existing(placement)
            if table is None:
                return []
            mine = TenantTable(table, (predicate,))
            found = (
                table.where(mine.where(table.memory_id > after))
                .order_by(table.memory_id)
                .limit(limit)
                .select(*_columns(table))
                .collect()
            )
            return [_sealed(predicate, row) for row in found]

        return self._tables.repeatable(call)

    def named(
        self,
        predicate: TenantPredicate,
        placement: str,
        memory_ids: Collection[str],
        *,
        column: str | None = FIRST_COLUMN,
    ) -> list[SealedRow]:
        ids = list(memory_ids)

        def call(chunk: Sequence[str]) -> list[SealedRow]:
            table = self._tables.existing(placement, column=column or FIRST_COLUMN)
            if table is None:
                return []
            mine = TenantTable(table, (predicate,))
            vector = _vector(table, column) if column is not None else {}
            found = table.where(mine.where(table.memory_id.isin(chunk))).select(*_columns(table), **vector).collect()
            return [_sealed(predicate, row) for row in found]

        chunks = [ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE)]
        return [row for chunk in chunks for row in self._tables.repeatable(partial(call, chunk))]

    def older(
        self, predicate: TenantPredicate, placement: str, memory_type: str, before: datetime, *, after: str, limit: int
    ) -> dict[str, int]:
        def call() -> dict[str, int]:
            table = self._tables.existing(placement)
            if table is None:
                return {}
            mine = TenantTable(table, (predicate,))
            due = (table.memory_type == memory_type) & (table.created_at < before) & (table.memory_id > after)
            ids = table.memory_id
            found = table.where(mine.where(due)).order_by(ids).limit(limit).select(ids, table.revision).collect()
            return {row["memory_id"]: row["revision"] for row in found}

        return self._tables.repeatable(call)

    def all_revisions(self, predicate: TenantPredicate, placement: str) -> dict[str, int]:
        def call() -> dict[str, int]:
            table = self._tables.existing(placement)
            if table is None:
                return {}
            mine = TenantTable(table, (predicate,))
            found = table.where(mine.all).select(table.memory_id, table.revision).collect()
            return {row["memory_id"]: row["revision"] for row in found}

        return self._tables.repeatable(call)

    def remove(self, predicate: TenantPredicate, placement: str, memory_ids: Collection[str]) -> int:
        def call() -> int:
            table = self._tables.existing(placement)
            if table is None or not memory_ids:
                return 0
            mine = TenantTable(table, (predicate,))
            status = table.delete(where=mine.where(table.memory_id.isin(list(memory_ids))))
            return int(status.row_count_stats.del_rows)

        return self._tables.repeatable(call)

    def remove_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        def call() -> int:
            table = self._tables.existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            status = table.delete(where=mine.all)
            return int(status.row_count_stats.del_rows)

        return self._tables.repeatable(call)

    def count_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        def call() -> int:
            table = self._tables.existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            return int(table.where(mine.all).count())

        return self._tables.repeatable(call)

    def revisions(
        self, predicates: Sequence[TenantPredicate], placement: str, memory_ids: Collection[str]
    ) -> dict[str, int]:
        def call() -> dict[str, int]:
            table = self._tables.existing(placement)
            if table is None or not memory_ids:
                return {}
            mine = TenantTable(table, predicates)
            found = (
                table.where(mine.where(table.memory_id.isin(list(memory_ids))))
                .select(table.memory_id, table.revision)
                .collect()
            )
            return {row["memory_id"]: row["revision"] for row in found}

        return self._tables.repeatable(call)

    def write(self, placement: str, inserts: Sequence[SealedRow], updates: Sequence[SealedRow]) -> None:
        def call() -> None:
            table = self._tables.written(placement)
            if inserts:
                _check(table.insert([_record(row) for row in inserts]))
            if updates:
                # Not by an update in place: a process that fell behind, its lock lost to another one, would put an old
                # revision over a newer one. Taking out what is older and inserting refuses that: ids are unique.
                alike: dict[tuple[str, int], list[SealedRow]] = {}
                for row in updates:
                    alike.setdefault((row.tenant_id, row.revision), []).append(row)
                for (_, revision), rows in alike.items():
                    mine, ids = TenantTable.of_row(table, rows[0]), [row.memory_id for row in rows]
                    table.delete(where=mine.where(table.memory_id.isin(ids) & (table.revision < revision)))
                failpoints.reach("materializer.replaced")
                _check(table.insert([_record(row) for row in updates]))

        self._tables.run(call, deadline_s=_WRITING_S)

    def remove_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        def call() -> int:
            table = self._tables.existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            status = table.delete(where=mine.where(table.subject_id == subject_id))
            return int(status.row_count_stats.del_rows)

        return self._tables.repeatable(call)

    def count_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        def call() -> int:
            table = self._tables.existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            return int(table.where(mine.where(table.subject_id == subject_id)).count())

        return self._tables.repeatable(call)


def _columns(table: Table, known: Collection[str] = ("tenant_id",)) -> list[Expr]:
    """What a row is made of, without what is known, such as the tenant, which the predicate names, and vectors."""
    return [getattr(table, name) for name in SCHEMA if name not in known]


def _vector(table: Table, column: str) -> dict[str, Expr]:
    # Tables of the first release have no second column until their model is changed.
    return {"embedding": getattr(table, column)} if column in table.columns() else {}


def _of_ledger(row: LedgerRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _OF_THE_LEDGER}


def _sealed(predicate: TenantPredicate, row: Mapping[str, Any]) -> SealedRow:
    return SealedRow(tenant_id=predicate.tenant_id, **{**row, "envelope": b64decode(row["envelope"])})


def _record(row: SealedRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SCHEMA} | {"envelope": b64encode(row.envelope).decode("ascii")}


def _check(status: Any) -> None:
    # Errors of computed columns do not raise by themselves; a row without a vector would be one that nothing finds.
    if status.row_count_stats.num_excs:
        raise ProviderUnavailableError("pixeltable", reason="could not compute a column")
