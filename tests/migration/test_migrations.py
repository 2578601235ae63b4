"""Laws of the migrations: they end in the declared schema, once, whoever applies them and however often."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import cloud
from cloud.kernel.errors import ConfigurationError
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.metadata import TENANT_TABLES, metadata
from cloud.storage.migrate import migrate
from cloud.storage.roles import CONTROL_DATABASE

HEAD = "0012"
IN_PUBLIC = "relnamespace = 'public'::regnamespace"
TABLE = "relkind IN ('r', 'p') AND NOT relispartition"
"""Partitions are made as months come; what holds for them is in the test of rights."""
SHAPE = {
    "columns": "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,"
    " pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
    " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
    f" WHERE {IN_PUBLIC} AND {TABLE} AND a.attnum > 0 AND NOT a.attisdropped",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    f" WHERE conrelid IN (SELECT oid FROM pg_class WHERE {IN_PUBLIC} AND {TABLE})",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes JOIN pg_class ON relname = tablename"
    f" WHERE schemaname = 'public' AND {IN_PUBLIC} AND {TABLE}",
    "comments": f"SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE {IN_PUBLIC} AND {TABLE}",
    "partitioned": "SELECT partrelid::regclass::text, pg_get_partkeydef(partrelid) FROM pg_partitioned_table",
}
"""What the metadata declares, as the database has it."""
REST = {
    "functions": "SELECT proname, pg_get_functiondef(oid), proacl::text FROM pg_proc"
    " WHERE pronamespace = 'public'::regnamespace",
    "grants": f"SELECT relname, relacl::text, relrowsecurity, relforcerowsecurity FROM pg_class WHERE {IN_PUBLIC}",
    "column_grants": "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute"
    " WHERE attacl IS NOT NULL AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)",
    "policies": "SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies",
    "database": "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
    "version": "SELECT version_num FROM alembic_version",
}
"""What the migrations add to it."""


def look(engine: sa.Engine, queries: dict[str, str]) -> dict[str, set[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {name: {tuple(row) for row in connection.execute(sa.text(query))} for name, query in queries.items()}


def without_version(shape: dict[str, set[tuple[object, ...]]]) -> dict[str, set[tuple[object, ...]]]:
    return {name: {row for row in rows if row[0] != "alembic_version"} for name, rows in shape.items()}


def test_the_migrations_end_in_the_declared_metadata(migrated: sa.Engine) -> None:
    with migrated.connect() as connection:
        partitions = set(connection.execute(sa.text("SELECT relname FROM pg_class WHERE relispartition")).scalars())
        opts = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in partitions,
        }
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata) == []


def test_what_the_metadata_creates_and_what_the_migrations_create_is_the_same(
    migrated: sa.Engine, server: EmbeddedPostgres
) -> None:
    """Also where Alembic does not look: checks, partial indexes, comments."""
    by_migrations = without_version(look(migrated, SHAPE))
    url = migrated.url.set(query={"host": str(server._server.home.socket)})
    admin = server._server.cluster.connect
    with admin("postgres") as connection:
        connection.execute(f"ALTER DATABASE {CONTROL_DATABASE} RENAME TO migrated".encode())
        connection.execute(f"CREATE DATABASE {CONTROL_DATABASE} OWNER luminescent_owner".encode())
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        metadata.create_all(engine)
        by_metadata = look(engine, SHAPE)
    finally:
        with admin("postgres") as connection:
            connection.execute(f"DROP DATABASE {CONTROL_DATABASE} WITH (FORCE)".encode())
            connection.execute(f"ALTER DATABASE migrated RENAME TO {CONTROL_DATABASE}".encode())
    assert by_migrations == by_metadata
    assert all(by_metadata.values()), "the comparison compared nothing"


def test_migrating_again_changes_nothing(migrated: sa.Engine, owner_url: sa.URL) -> None:
    before = look(migrated, SHAPE | REST)
    assert migrate(owner_url) == HEAD
    assert look(migrated, SHAPE | REST) == before
    assert before["version"] == {(HEAD,)}


def test_every_tenant_table_declares_its_row_level_security(migrated: sa.Engine) -> None:
    """A table with a column that names a tenant is a tenant table; there is no other list to forget it in."""
    named = {table.name for table in metadata.tables.values() if {"tenant_id", "log_id"} & set(table.columns.keys())}
    assert {table.name for table in TENANT_TABLES} == named
    with migrated.connect() as connection:
        rows = connection.execute(
            sa.text(f"SELECT relname FROM pg_class WHERE {TABLE} AND relrowsecurity AND {IN_PUBLIC}")
        )
        assert set(rows.scalars()) == named


@pytest.mark.parametrize("revision", ["9999", "ffff", ""])
def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    migrated: sa.Engine, owner_url: sa.URL, revision: str
) -> None:
    before = look(migrated, SHAPE | REST)
    with migrated.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
    try:
        with pytest.raises(ConfigurationError, match="revision"):
            migrate(owner_url)
        with migrated.connect() as connection:
            assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [revision]
    finally:
        with migrated.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": HEAD})
    assert look(migrated, SHAPE | REST) == before


MIGRATE = """
import sys
import time
import sqlalchemy as sa
from cloud.storage.migrate import migrate
sys.stdin.readline()
print(migrate(sa.make_url(sys.argv[1])))
"""


def test_processes_that_migrate_at_once_end_in_one_schema(
    migrated: sa.Engine, owner_url: sa.URL, renew: Callable[[], None]
) -> None:
    before = look(migrated, SHAPE | REST)
    renew()
    url = owner_url.render_as_string(hide_password=False)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(cloud.__file__).parents[1],
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate(timeout=60)[0].strip() for child in children] == [HEAD] * 3
    assert look(migrated, SHAPE | REST) == before


def test_an_upgrade_that_was_killed_leaves_nothing_half_done_and_is_run_again(
    migrated: sa.Engine, owner_url: sa.URL, renew: Callable[[], None]
) -> None:
    """Killed while it waits in the middle of a revision, with most of that revision's tables made."""
    before = look(migrated, SHAPE | REST)
    renew()
    url = owner_url.render_as_string(hide_password=False)
    obstacle = sa.create_engine(owner_url, poolclass=sa.NullPool)
    with obstacle.connect() as connection:
        # Not committed: whoever makes a table of that name waits for what becomes of this one.
        connection.execute(sa.text("CREATE TABLE intake (held integer)"))
        child = subprocess.Popen(
            [sys.executable, "-c", MIGRATE, url],
            stdin=subprocess.PIPE,
            cwd=Path(cloud.__file__).parents[1],
        )
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        waiting = sa.text("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        give_up_at = time.monotonic() + 60
        while not connection.execute(waiting).scalar():
            assert time.monotonic() < give_up_at, "it does not come to where it is to be killed"
            time.sleep(0.02)
        child.kill()
        child.communicate()
        connection.rollback()
    with obstacle.connect() as connection:
        tables = sa.text(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        assert connection.execute(tables).scalar() == 0
    assert migrate(owner_url) == HEAD
    assert look(migrated, SHAPE | REST) == before
