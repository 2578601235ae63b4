"""A look at an installation's books that goes around the product."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg

Json = dict[str, Any]


class Books:
    """What both databases of a home say, read as the backup's role."""

    def __init__(self, home: Path) -> None:
        self._socket = home / "postgres/socket"
        self._password = json.loads((home / "secrets/postgres.json").read_text())["luminescent_backup"]

    def query(self, statement: str, parameters: Iterable[object] = (), *, database: str = "control") -> list[Any]:
        """All rows of a query."""
        with psycopg.connect(
            host=str(self._socket),
            user="luminescent_backup",
            password=self._password,
            dbname=f"luminescent_{database}",
            connect_timeout=10,
        ) as connection:
            return connection.execute(statement.encode(), list(parameters)).fetchall()

    def ledger(self, tenant_id: str) -> dict[str, str]:
        """State by memory id."""
        return dict(self.query("SELECT memory_id::text, state FROM memories WHERE tenant_id = %s", [tenant_id]))

    def waiting(self, tenant_id: str) -> list[str]:
        """Ids in intake."""
        return [row[0] for row in self.query("SELECT memory_id::text FROM intake WHERE tenant_id = %s", [tenant_id])]

    def used(self, tenant_id: str) -> int:
        """The counter of memories."""
        ((used,),) = self.query(
            "SELECT used FROM usage_counters WHERE tenant_id = %s AND meter = 'memories'", [tenant_id]
        )
        return int(used)

    def events(self, tenant_id: str) -> list[Json]:
        """The tenant's audit events."""
        rows = self.query("SELECT event FROM audit_events WHERE log_id = %s ORDER BY occurred_at", [tenant_id])
        return [row[0] for row in rows]

    def rows_pending(self, log_id: str) -> int:
        """The log's events that have no leaf yet."""
        ((count,),) = self.query("SELECT count(*) FROM audit_pending WHERE log_id = %s", [log_id])
        return int(count)

    def placement(self, tenant_id: str) -> tuple[str, str, str]:
        """The tenant's table, the model that is read in it, and the state of its columns."""
        ((name, model, state),) = self.query(
            "SELECT t.placement, p.model, p.state FROM tenants t JOIN placements p USING (placement)"
            " WHERE t.tenant_id = %s",
            [tenant_id],
        )
        return name, model, state

    def moves(self, tenant_id: str) -> list[tuple[str, str, str]]:
        """(source, target, state) of every move of the tenant, in order."""
        return [tuple(row) for row in self.query(
            "SELECT source, target, state FROM placement_moves WHERE tenant_id = %s ORDER BY started_at", [tenant_id]
        )]  # fmt: skip

    def erasures(self, tenant_id: str) -> list[tuple[str, str]]:
        """(subject id, state) of every erasure."""
        return [tuple(row) for row in self.query(
            "SELECT subject_id::text, state FROM erasures WHERE tenant_id = %s", [tenant_id]
        )]  # fmt: skip

    def tenant_state(self, tenant_id: str) -> str:
        """Whether the tenant is served."""
        ((state,),) = self.query("SELECT state FROM tenants WHERE tenant_id = %s", [tenant_id])
        return str(state)

    def rows_in_pixeltable(self, tenant_id: str) -> int:
        """How many rows of the tenant are in Pixeltable's physical tables, with a vector or without."""
        return sum(
            int(count)
            for table, columns in self._placements()
            for (count,) in self.query(
                f"SELECT count(*) FROM {table} WHERE {columns['tenant_id']} = %s", [tenant_id], database="data"
            )
        )

    def materialized(self, tenant_id: str) -> Counter[str]:
        """How often each memory id is in Pixeltable's physical tables; a row without a vector fails."""
        found: Counter[str] = Counter()
        for table, columns in self._placements():
            for memory_id, has_vector in self.query(
                f"SELECT {columns['memory_id']}, coalesce({columns['embedding']}, {columns['embedding_2']}) IS NOT NULL"
                f" FROM {table}"
                f" WHERE {columns['tenant_id']} = %s",
                [tenant_id],
                database="data",
            ):
                assert has_vector, "a row without a vector"
                found[memory_id] += 1
        return found

    def revisions(self, tenant_id: str) -> dict[str, int]:
        """Revision by memory id of everything in Pixeltable."""
        found: dict[str, int] = {}
        for table, columns in self._placements():
            query = (
                f"SELECT {columns['memory_id']}, {columns['revision']} FROM {table} WHERE {columns['tenant_id']} = %s"
            )
            for memory_id, revision in self.query(query, [tenant_id], database="data"):
                assert memory_id not in found, "a memory is there twice"
                found[memory_id] = revision
        return found

    def rows_naming(self, subject_id: str) -> dict[str, int]:
        """Rows that hold a subject id anywhere, by table, of both databases."""
        found = {}
        for database in ("control", "data"):
            tables = self.query(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
                " AND relnamespace = 'public'::regnamespace",
                database=database,
            )
            for (table,) in tables:
                ((count,),) = self.query(
                    f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE %s', [f"%{subject_id}%"], database=database
                )
                if count:
                    found[table] = count
        return found

    def _placements(self) -> list[tuple[str, dict[str, str]]]:
        tables = self.query(
            "SELECT relname FROM pg_class WHERE relname LIKE 'tbl\\_%%' AND relkind = 'r'", database="data"
        )
        # The columns of `cloud.memory.pixeltable_handles.SCHEMA`, in order, and the computed ones behind them.
        columns = {
            "memory_id": "col_0",
            "tenant_id": "col_1",
            "revision": "col_3",
            "embedding": "col_10",
            "embedding_2": "col_11",
        }
        return [(name, columns) for (name,) in tables]
