"""`Columns` on Pixeltable: how the model of a computed column is exchanged while the table is in use.

Rules
1. A column is given a model without computing anything, which takes milliseconds. Pixeltable's own way of filling one
   holds an exclusive lock on the table until the last row is computed, and every reader waits.
2. Rows are computed in pages, by an update that changes nothing: Pixeltable computes what depends on the envelope
   again, in one transaction, from the envelope that is there at that moment. A revision that comes in between stays.
3. Rows written meanwhile are computed by whoever writes them, in both columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud.kernel.scope import TenantPredicate
from cloud.memory.pixeltable_handles import Tables, TenantTable, embedding_of
from cloud.memory.vectors import installed

if TYPE_CHECKING:
    from pixeltable import Table
    from pixeltable.exprs import Expr

_ADDING_S = 600.0
"""Adding a column, which only tables of the first release need once: about 7,000 rows a second."""


class PixeltableColumns:
    """`Columns` over the tables of the placements."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def name(self, placement: str, column: str, model: str) -> None:
        def call() -> None:
            self._tables.written(placement)
            table = self._tables.existing(placement, column=column)
            assert table is not None
            if column not in table.columns():
                models = installed()
                assert models is not None
                with models.withheld(model):
                    table.add_computed_column(**{column: embedding_of(table, model)}, if_exists="ignore")
            else:
                table.alter_computed_column(recompute=False, **{column: embedding_of(table, model)})

        self._tables.repeatable(call, deadline_s=_ADDING_S)

    def compute(self, predicate: TenantPredicate, placement: str, column: str, *, after: str, limit: int) -> str | None:
        return self._page(predicate, placement, column, after, limit, has_vector=False)

    def empty(self, predicate: TenantPredicate, placement: str, column: str, *, after: str, limit: int) -> str | None:
        return self._page(predicate, placement, column, after, limit, has_vector=True)

    def lacking(self, predicate: TenantPredicate, placement: str, column: str, *, beside: str) -> int:
        def call() -> int:
            table = self._tables.existing(placement, column=column)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            lacks = _has(table, column, vector=False) & _has(table, beside, vector=True)
            return int(table.where(mine.where(lacks)).count())

        return self._tables.repeatable(call)

    def _page(
        self, predicate: TenantPredicate, placement: str, column: str, after: str, limit: int, *, has_vector: bool
    ) -> str | None:
        def call() -> str | None:
            table = self._tables.existing(placement, column=column)
            if table is None:
                return None
            mine = TenantTable(table, (predicate,))
            found = (
                table.where(mine.where(_has(table, column, vector=has_vector) & (table.memory_id > after)))
                .order_by(table.memory_id)
                .limit(limit)
                .select(table.memory_id)
                .collect()
            )
            ids = [row["memory_id"] for row in found]
            if not ids:
                return None
            table.update({"envelope": table.envelope}, where=mine.where(table.memory_id.isin(ids)))
            return str(ids[-1])

        return self._tables.repeatable(call)


def _has(table: Table, column: str, *, vector: bool) -> Expr:
    values = getattr(table, column)
    return values != None if vector else values == None  # noqa: E711 - an expression of Pixeltable's
