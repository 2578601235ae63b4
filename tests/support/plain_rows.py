"""`Rows` on plain PostgreSQL tables: the way out if Pixeltable takes away the tables that forget (ADR-020).

It is kept here, and not in the product, because nothing uses it; the tests that it stands in show that it would do.
One table per placement, in the data database, owned by the role that owns Pixeltable's. What the computed column does
is done as the rows are written, by the same function, so the sealed vectors are the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.kernel.errors import TenantIsolationError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import LedgerRow, SealedRow, named_revisions
from cloud.memory.vectors import Vectorizer
from cloud.storage.engine import ControlEngine

_PLACEMENT = re.compile(r"[a-z0-9_]{1,48}")


class PlainRows:
    """`Rows` on plain tables.

    Args:
        engine: The data database, as the role that may make tables in it.
        vectorizer: Makes the sealed vectors.
    """

    def __init__(self, engine: ControlEngine, vectorizer: Vectorizer) -> None:
        self._engine = engine
        self._vectorizer = vectorizer
        self._metadata = sa.MetaData()
        self._made: set[str] = set()

    def newer(
        self,
        predicate: TenantPredicate,
        placement: str,
        subject_id: str,
        *,
        since: int,
        column: str = "embedding",
        known: Mapping[str, LedgerRow] | None = None,
        without: Collection[str] = (),
    ) -> list[SealedRow]:
        assert column == "embedding", "plain tables have one model"
        table = self._table(placement)
        query = sa.select(table).where(self._mine(table, (predicate,)))
        query = query.where(table.c.subject_id == subject_id, table.c.generation > since)
        found = self._engine.rows(query.where(table.c.memory_id.not_in(list(without))))
        rows = [SealedRow(**row._mapping) for row in found]
        return rows if known is None else list(named_revisions(rows, known))

    def older(
        self, predicate: TenantPredicate, placement: str, memory_type: str, before: datetime, *, after: str, limit: int
    ) -> dict[str, int]:
        table = self._table(placement)
        query = sa.select(table.c.memory_id, table.c.revision).where(self._mine(table, (predicate,)))
        query = query.where(table.c.memory_type == memory_type, table.c.created_at < before, table.c.memory_id > after)
        found = self._engine.rows(query.order_by(table.c.memory_id).limit(limit))
        return {str(memory_id): int(revision) for memory_id, revision in found}

    def revisions(
        self, predicates: Sequence[TenantPredicate], placement: str, memory_ids: Collection[str]
    ) -> dict[str, int]:
        table = self._table(placement)
        query = sa.select(table.c.memory_id, table.c.revision).where(self._mine(table, predicates))
        found = self._engine.rows(query.where(table.c.memory_id.in_(list(memory_ids))))
        return {str(memory_id): int(revision) for memory_id, revision in found}

    def write(self, placement: str, inserts: Sequence[SealedRow], updates: Sequence[SealedRow]) -> None:
        rows = [*inserts, *updates]
        if not rows:
            return
        table = self._table(placement)
        vectors = self._vectorizer.seal_batch(
            [row.tenant_id for row in rows],
            [row.subject_id for row in rows],
            [row.memory_id for row in rows],
            [row.envelope for row in rows],
        )
        # One statement, one transaction; what a killed process had written already is not written again.
        statement = insert(table)
        changed = {name: statement.excluded[name] for name in _names(table) if name != "memory_id"}
        statement = statement.on_conflict_do_update(
            index_elements=["memory_id"], set_=changed, where=table.c.revision < statement.excluded.revision
        )
        values = [_record(row, table) | {"embedding": vector} for row, vector in zip(rows, vectors, strict=True)]
        self._engine.transaction(lambda connection: connection.execute(statement, values))

    def remove_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        table = self._table(placement)
        condition = self._mine(table, (predicate,)) & (table.c.subject_id == subject_id)
        return self._engine.transaction(
            lambda connection: connection.execute(sa.delete(table).where(condition)).rowcount
        )

    def count_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        table = self._table(placement)
        query = sa.select(sa.func.count()).select_from(table).where(self._mine(table, (predicate,)))
        ((count,),) = self._engine.rows(query.where(table.c.subject_id == subject_id))
        return int(count)

    @staticmethod
    def _mine(table: sa.Table, predicates: Sequence[TenantPredicate]) -> sa.ColumnElement[bool]:
        if not predicates or not all(isinstance(predicate, TenantPredicate) for predicate in predicates):
            raise TenantIsolationError("missing_scope")
        return table.c.tenant_id.in_([predicate.tenant_id for predicate in predicates])

    def _table(self, placement: str) -> sa.Table:
        if not _PLACEMENT.fullmatch(placement):
            raise TenantIsolationError("malformed")
        name = f"plain_{placement}"
        table = self._metadata.tables.get(name)
        if table is None:
            table = sa.Table(
                name,
                self._metadata,
                sa.Column("memory_id", sa.Text, primary_key=True),
                sa.Column("tenant_id", sa.Text, nullable=False),
                sa.Column("subject_id", sa.Text, nullable=False, index=True),
                sa.Column("revision", sa.Integer, nullable=False),
                sa.Column("generation", sa.BigInteger, nullable=False),
                sa.Column("memory_type", sa.Text, nullable=False),
                sa.Column("confidence", sa.Double, nullable=False),
                sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
                sa.Column("expires_at", sa.DateTime(timezone=True)),
                sa.Column("envelope", sa.LargeBinary, nullable=False),
                sa.Column("embedding", sa.LargeBinary),
            )
        if name not in self._made:
            self._engine.transaction(lambda connection: table.create(connection, checkfirst=True))
            self._made.add(name)
        return table


def _names(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns]


def _record(row: SealedRow, table: sa.Table) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _names(table)}


def move_subject(source: Any, target: Any, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
    """Move a person's rows from one store to another, and count them there before they are removed here.

    The caller holds the placement's lock, so nobody writes meanwhile; done again after a crash, it goes on.
    """
    rows = source.newer(predicate, placement, subject_id, since=0)
    target.write(placement, rows, [])
    there = target.revisions((predicate,), placement, [row.memory_id for row in rows])
    assert there == {row.memory_id: row.revision for row in rows}
    source.remove_subject(predicate, placement, subject_id)
    return len(rows)
