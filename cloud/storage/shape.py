"""The shape of a table as the catalog tells it: what has to be made again so that another table can take its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloud.storage.upkeep import Session, quoted


@dataclass(frozen=True, slots=True)
class Shape:
    """A table of the schema `public`, without its rows.

    Attributes:
        columns: Name and type of each column, in order.
        key: Columns of its primary key.
        indexes: Name, definition, and `p` or `u` for one that belongs to a primary key or unique constraint.
        statements: What gives another table the same rights, options and comment; `{table}` stands for it.
        odd: What it has that is not made again: triggers, policies, foreign keys, and what depends on it.
    """

    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, str, str], ...]
    statements: tuple[str, ...]
    odd: tuple[str, ...]


_THIS: Final = "c.oid = to_regclass('public.' || quote_ident(%(table)s))"
_COLUMNS: Final = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), coalesce(i.indisprimary, false)"  # noqa: S608 - constants
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey)"
    f" WHERE {_THIS} ORDER BY a.attnum"
)
_INDEXES: Final = (
    "SELECT x.relname, pg_get_indexdef(i.indexrelid), coalesce(k.contype::text, '')"  # noqa: S608 - constants
    " FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class x ON x.oid = i.indexrelid"
    " LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u')"
    f" WHERE {_THIS} ORDER BY x.relname"
)
_TABLE_RIGHTS: Final = (
    "SELECT format('GRANT %%s ON {table} TO %%I%%s', g.privilege_type, r.rolname,"  # noqa: S608 - constants
    " CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
    " FROM pg_class c, aclexplode(c.relacl) g JOIN pg_roles r ON r.oid = g.grantee"
    f" WHERE {_THIS} AND g.grantee <> c.relowner ORDER BY 1"
)
_COLUMN_RIGHTS: Final = (
    "SELECT format('GRANT %%s (%%I) ON {table} TO %%I%%s', g.privilege_type, a.attname, r.rolname,"  # noqa: S608
    " CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped,"
    f" aclexplode(a.attacl) g JOIN pg_roles r ON r.oid = g.grantee WHERE {_THIS} ORDER BY 1"
)
_OPTIONS: Final = (
    "SELECT format('ALTER TABLE {table} SET (%%s)', array_to_string(c.reloptions, ', '))"  # noqa: S608 - constants
    f" FROM pg_class c WHERE {_THIS} AND c.reloptions IS NOT NULL UNION ALL"
    " SELECT format('COMMENT ON TABLE {table} IS %%L', obj_description(c.oid, 'pg_class'))"
    f" FROM pg_class c WHERE {_THIS} AND obj_description(c.oid, 'pg_class') IS NOT NULL"
)
_ODD: Final = (
    "SELECT 'trigger ' || t.tgname FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid"  # noqa: S608 - constants
    f" WHERE {_THIS} AND NOT t.tgisinternal"
    f" UNION ALL SELECT 'row-level security' FROM pg_class c WHERE {_THIS} AND c.relrowsecurity"
    " UNION ALL SELECT 'foreign key ' || k.conname FROM pg_class c JOIN pg_constraint k"
    f" ON k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid) WHERE {_THIS}"
    " UNION ALL SELECT 'partition or heir' FROM pg_class c JOIN pg_inherits h ON c.oid IN (h.inhrelid, h.inhparent)"
    f" WHERE {_THIS}"
    # Views, rules, functions that take or return its rows: whatever depends on it and does not go with it.
    " UNION ALL SELECT 'dependent ' || pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_class c"
    " JOIN pg_depend d ON d.deptype = 'n' AND (d.refclassid, d.refobjid) IN"
    f" (('pg_class'::regclass, c.oid), ('pg_type'::regclass, c.reltype)) WHERE {_THIS}"
    # Its own checks, which are copied.
    " AND NOT (d.classid = 'pg_constraint'::regclass"
    " AND EXISTS (SELECT FROM pg_constraint k WHERE k.oid = d.objid AND k.conrelid = c.oid AND k.contype = 'c'))"
)


def shape_of(connection: Session, table: str) -> Shape:
    """The shape of a table of the schema `public`; without columns if there is no such table."""

    def rows(query: str) -> list[tuple[str, ...]]:
        return connection.execute(query.encode(), {"table": table}).fetchall()

    columns = rows(_COLUMNS)
    statements = [row[0] for query in (_TABLE_RIGHTS, _COLUMN_RIGHTS, _OPTIONS) for row in rows(query)]
    return Shape(
        columns=tuple((row[0], row[1]) for row in columns),
        key=tuple(row[0] for row in columns if row[2]),
        indexes=tuple((row[0], row[1], row[2]) for row in rows(_INDEXES)),
        statements=tuple(statements),
        odd=tuple(row[0] for row in rows(_ODD)),
    )


def index_on(definition: str, name: str, table: str, *, new_name: str, new_table: str) -> str:
    """The statement that makes an index of `table` on another one, under another name.

    Args:
        definition: Of `pg_get_indexdef`: `CREATE [UNIQUE] INDEX name ON [schema.]table USING …`.
        name: The index's name.
        table: The table's.
        new_name: The other index's name.
        new_table: The other table's.
    """
    head, _, tail = definition.partition(" USING ")
    kind = head.partition(" INDEX ")[0]
    assert name in head and table in head, "a definition of another form"  # noqa: PT018 - one thing
    return f"{kind} INDEX {quoted(new_name)} ON public.{quoted(new_table)} USING {tail}"
