"""Looks for places that the data map does not list: tables, columns, files, caches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

import sqlalchemy as sa

from cloud.gdpr.catalog import CATALOG, Kind, Place

Columns = Mapping[str, Set[str]]
"""Names of columns by name of the table."""

PIXELTABLES_OWN = frozenset({"systeminfo", "dirs", "tables", "tableversions", "tableschemaversions", "pendingtableops"})
"""Pixeltable's catalog: names, types and expressions of our tables, no rows of theirs."""
QUEUES = frozenset({"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "JoinableQueue", "deque"})
CACHE_NAME = re.compile(r"cache|hot|snapshot|readtimes", re.IGNORECASE)


def listed(kind: Kind) -> dict[str, Place]:
    """Entries of one kind by location."""
    return {place.location: place for place in CATALOG if place.kind is kind}


def unlisted_columns(found: Columns, places: Mapping[str, Place]) -> set[str]:
    """Tables and columns that are there and not listed, or listed and not there."""
    wrong = {f"table {name}" for name in found.keys() ^ places.keys()}
    for name in found.keys() & places.keys():
        wrong |= {f"column {name}.{column}" for column in found[name] ^ places[name].columns.keys()}
    return wrong


def relations(connection: sa.Connection) -> dict[str, set[str]]:
    """Everything in a database that can hold or show rows, outside PostgreSQL's own schemas, with its columns."""
    rows = connection.execute(
        sa.text(
            "SELECT n.nspname, c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            # A partition holds rows of its table, and is made as they come.
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            " AND n.nspname NOT LIKE 'pg_toast%'"
        )
    )
    found: dict[str, set[str]] = {}
    for schema, table, column in rows:
        name = str(table) if schema == "public" else f"{schema}.{table}"
        found.setdefault(name, set()).add(str(column))
    return found


def unowned_storage(connection: sa.Connection, known: Set[str]) -> set[str]:
    """Everything of a database that has a file, outside PostgreSQL's own schemas, and belongs to no known table.

    An index and a TOAST table belong to the table whose values they hold, an index of a TOAST table to that of the
    TOAST table; a partition to the table that it is a part of; everything else to itself.
    """
    rows = connection.execute(
        sa.text(
            "WITH RECURSIVE stored AS ("
            " SELECT c.oid, coalesce(i.indrelid, t.oid, c.oid) AS owner FROM pg_class c"
            " LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.reltoastrelid = c.oid"
            " WHERE pg_relation_filenode(c.oid) IS NOT NULL AND c.relkind <> 'S'),"
            " owned AS (SELECT oid, owner FROM stored WHERE oid = owner UNION"
            " SELECT s.oid, o.owner FROM stored s JOIN owned o ON s.owner = o.oid)"
            " SELECT n.nspname, c.relname, coalesce(pg_partition_root(o.owner), o.owner)::regclass::text, w.nspname"
            " FROM owned o"
            " JOIN pg_class c ON c.oid = o.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_class r ON r.oid = o.owner JOIN pg_namespace w ON w.oid = r.relnamespace"
        )
    ).all()
    assert (
        len(rows)
        == connection.execute(
            sa.text("SELECT count(*) FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL AND relkind <> 'S'")
        ).scalar()
    ), "some storage belongs to nothing"
    return {
        f"{schema}.{name} of {owner}"
        for schema, name, owner, owners in rows
        if owners not in ("pg_catalog", "information_schema") and owner not in known
    }


def unlisted_data_tables(connection: sa.Connection, known: Set[str]) -> set[str]:
    """Tables of the data database that are neither Pixeltable's catalog nor the rows of a known table.

    Args:
        connection: A connection to the data database.
        known: Names of the physical tables of what is listed.
    """
    return relations(connection).keys() - known - PIXELTABLES_OWN


def unlisted_files(home: Path, places: Iterable[Place]) -> set[str]:
    """Files and directories of a home that lie under no entry."""
    roots = [home / place.location for place in places]
    return {
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path not in roots and not any(root in path.parents for root in roots)
    }


def queues(source: str, module: str) -> set[str]:
    """What a source keeps a queue in: attributes and variables to which one is assigned."""
    return {f"{module}.{name}" for name in _queues(ast.parse(source), "")}


def _queues(node: ast.AST, within: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef(name=name):
                yield from _queues(child, f"{within}{name}.")
            case (
                ast.Assign(targets=[target, *_], value=ast.Call(func=made))
                | ast.AnnAssign(target=target, value=ast.Call(func=made))
            ):
                if (made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")) in QUEUES:
                    yield f"{within}{target.attr if isinstance(target, ast.Attribute) else getattr(target, 'id', '?')}"
            case _:
                yield from _queues(child, within)


def caches(source: str, module: str) -> set[str]:
    """Classes, attributes, variables and remembering functions of a source that are caches by their name."""
    return {f"{module}.{name}" for name in _names(ast.parse(source), "") if CACHE_NAME.search(name.rpartition(".")[2])}


def _names(node: ast.AST, within: str) -> Iterator[str]:
    """What a source names, qualified by the class that it is in; imports and arguments are no names of its own."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef(name=name):
                yield f"{within}{name}"
                yield from _names(child, f"{within}{name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in child.decorator_list:
                    remembers = {
                        one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "")
                        for one in ast.walk(decorator)
                    } & {"cache", "lru_cache", "cached_property"}
                    if remembers:
                        yield f"{within}{child.name}.cache"
                for one in ast.walk(child):
                    if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store):
                        yield f"{within}{one.attr}"
            case ast.Assign(targets=targets):
                yield from (f"{within}{target.id}" for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield f"{within}{name}"
            case _:
                yield from _names(child, within)
