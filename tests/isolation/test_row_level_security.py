"""Row-level security itself, tried with plain SQL as each role: what the database refuses when the code errs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ConfigurationError
from cloud.storage.engine import ControlEngine, check_role
from cloud.storage.metadata import TENANT_TABLES, revoked_tokens
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE, ROLE_DATABASES
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker

APP, WORKER, KEYS = "luminescent_app", "luminescent_worker", "luminescent_keys"
BACKUP, MAINTENANCE = "luminescent_backup", "luminescent_maintenance"
SERVING_ROLES = tuple(
    role for role, databases in ROLE_DATABASES.items() if CONTROL_DATABASE in databases and role != OWNER_ROLE
)
_TENANT_COLUMN = {table.name: "log_id" if table.name.startswith("audit_") else "tenant_id" for table in TENANT_TABLES}
_TREES = {"audit_events", "audit_pending", "audit_intents", "audit_leaves", "audit_tiles", "audit_trees"}

WITHOUT_TENANT = {
    "plan_limits": "limits of the plans, the same for every tenant",
    "alembic_version": "which migrations have run",
    "placements": "tables and embedding models, the same for every tenant",
    "refusals": "counts of strangers, who belong to no tenant",
    "keyring_state": "which keyring was seen last; the request path may not read it",
    "data_backups": "ids, times and places of backups; the request path may not read it",
    "erasure_ledger": "a place in a file; the request path may not read it",
    "keyring_backups": "ids and times of backups; the request path may not read it",
}
"""Tables without row-level security, and why they need none."""

READABLE: dict[str, set[str]] = {
    APP: {
        "tenants",
        "usage_counters",
        "usage_events",
        "usage_reservations",
        "subjects",
        "memories",
        "memory_changes",
        "intake",
        "idempotency_keys",
        "audit_events",
        "revoked_tokens",
    },
    WORKER: {
        "tenants",
        "usage_counters",
        "usage_reservations",
        "subjects",
        "memories",
        "intake",
        "placement_moves",
        *_TREES,
    },
    KEYS: {"api_keys"},
    BACKUP: set(_TENANT_COLUMN),
    MAINTENANCE: set(_TENANT_COLUMN),
}
"""Tenant tables that each role may read at all."""

_OFTEN_EMPTY = {"intake", "erasures", "revoked_tokens", "placement_moves", "audit_archives"}
_OFTEN_EMPTY |= {"audit_pending", "audit_intents"}

CROSSING_TENANTS = {WORKER, KEYS, BACKUP, MAINTENANCE}
"""Roles whose duty has no one tenant: the worker's batches, keys before a tenant is known, backup, administration."""


_WAITING = (
    b"INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type, confidence,"
    b" created_at, envelope) SELECT memory_id, tenant_id, subject_id, 'x', 1, 1, 'fact', 1, now(), 'x' FROM memories"
)


@pytest.fixture(scope="module")
async def two_tenants(runtime: CloudRuntime) -> tuple[str, str]:
    """Two tenants with a row in every table that may be looked for one in."""
    names = ("rls-one", "rls-two")
    for name in names:
        runtime.tenants.create(name, plan="team")
        runtime.api_keys.create(name, roles={"service"})
        with request_context(tenant_id=name, roles={"service"}):
            memory_id = await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "once"})
            await runtime.memory.update(memory_id, {"content": "Uses spaces"})
            runtime.usage.track("query", 3, {})
            runtime.usage.reserve(name, "tokens", 5)
        with request_context(tenant_id=name, roles={"tenant_admin"}):
            review_at = datetime.now(UTC) + timedelta(days=30)
            await runtime.gdpr.hold(name, user_id="alice", review_at=review_at, reason="a claim", authority="a court")
        revoked = sa.insert(revoked_tokens).values(tenant_id=name, token_tag=b"t", expires_at=datetime.now(UTC))
        maintenance = runtime._installation.engines.maintenance
        maintenance.transaction(lambda connection, row=revoked: connection.execute(row))  # type: ignore[misc]
    await runtime.drain()
    return names


@pytest.fixture
def app(onlooker: Onlooker) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with onlooker.connected_as(APP) as connection:
        yield connection


def select(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> set[str]:
    """Tenants whose rows the connection sees in a table."""
    statement = sql.SQL("SELECT DISTINCT {} FROM {}").format(
        sql.Identifier(_TENANT_COLUMN[table]), sql.Identifier(table)
    )
    return {row[0] for row in connection.execute(statement)}


def name_tenant(connection: psycopg.Connection[tuple[Any, ...]], tenant_id: str) -> None:
    connection.execute("SELECT set_config('luminescent.tenant', %s, true)", [tenant_id])


def test_every_table_carries_row_level_security_or_says_why_not(onlooker: Onlooker) -> None:
    query = (
        "SELECT relname::text, relrowsecurity FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'f', 'm', 'v')"
        " AND NOT (relispartition AND relrowsecurity)"
    )
    tables = dict(onlooker.rows(query))
    assert set(tables) == set(_TENANT_COLUMN) | set(WITHOUT_TENANT)
    assert {name for name, secured in tables.items() if not secured} == set(WITHOUT_TENANT)


def test_every_serving_role_is_classified() -> None:
    assert set(SERVING_ROLES) == set(READABLE)


@pytest.mark.parametrize("role", SERVING_ROLES)
@pytest.mark.parametrize("table", _TENANT_COLUMN)
@pytest.mark.usefixtures("two_tenants")
def test_a_role_reads_the_tables_of_its_duty_alone(onlooker: Onlooker, role: str, table: str) -> None:
    with onlooker.connected_as(role) as connection:
        if table in READABLE[role]:
            seen = select(connection, table)
            assert table in _OFTEN_EMPTY or bool(seen) is (role in CROSSING_TENANTS)
            assert not seen or role in CROSSING_TENANTS
        else:
            with pytest.raises(InsufficientPrivilege):
                select(connection, table)


@pytest.mark.parametrize("table", sorted(READABLE[APP]))
def test_the_request_path_sees_the_tenant_it_named(
    app: psycopg.Connection[tuple[Any, ...]], two_tenants: tuple[str, str], table: str
) -> None:
    for tenant_id in two_tenants:
        name_tenant(app, tenant_id)
        if table == "intake":
            # What waits is soon materialized; this row ends with the transaction.
            app.execute(_WAITING)
        assert select(app, table) == {tenant_id}
    name_tenant(app, "")
    assert select(app, table) == set()
    for nobody in ("", "rls", "rls-on_", "%", "_system", "rls-one,rls-two"):
        name_tenant(app, nobody)
        assert select(app, table) == set()


def test_a_name_ends_with_its_transaction(
    app: psycopg.Connection[tuple[Any, ...]], two_tenants: tuple[str, str]
) -> None:
    name_tenant(app, two_tenants[0])
    app.commit()
    assert select(app, "memories") == set()


def test_without_a_name_nothing_is_seen(app: psycopg.Connection[tuple[Any, ...]], two_tenants: tuple[str, str]) -> None:
    assert all(select(app, table) == set() for table in READABLE[APP])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO subjects (subject_id, tenant_id) VALUES (gen_random_uuid(), 'rls-two')",
        "INSERT INTO usage_events (event_id, tenant_id, operation, tokens)"
        " VALUES (gen_random_uuid(), 'rls-two', 'query', 1)",
        "INSERT INTO audit_events (event_id, log_id, event) VALUES (gen_random_uuid(), 'rls-two', '{}')",
        "INSERT INTO idempotency_keys (tenant_id, key_tag, fingerprint, subject_ids, memory_ids)"
        " VALUES ('rls-two', 'x', 'x', '{}', '{}')",
        "INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, generation)"
        " SELECT gen_random_uuid(), 'rls-two', subject_id, 1, now(), 1 FROM subjects LIMIT 1",
        "INSERT INTO memory_changes (memory_id, event_id, tenant_id, subject_id, revision, change)"
        " SELECT memory_id, gen_random_uuid(), 'rls-two', subject_id, 2, 'updated' FROM memories LIMIT 1",
        _WAITING.decode().replace("SELECT memory_id, tenant_id", "SELECT memory_id, 'rls-two'"),
    ],
    ids=lambda statement: statement.split()[2],
)
def test_a_row_of_another_tenant_cannot_be_written(
    app: psycopg.Connection[tuple[Any, ...]], two_tenants: tuple[str, str], statement: str
) -> None:
    name_tenant(app, two_tenants[0])
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        app.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_counters SET used = 0 WHERE tenant_id = 'rls-two'",
        "UPDATE usage_reservations SET state = 'released' WHERE tenant_id = 'rls-two'",
        "UPDATE memories SET state = 'deleted' WHERE tenant_id = 'rls-two'",
        "UPDATE subjects SET generation = 99 WHERE tenant_id = 'rls-two'",
    ],
)
def test_a_row_of_another_tenant_cannot_be_changed(
    app: psycopg.Connection[tuple[Any, ...]], two_tenants: tuple[str, str], statement: str
) -> None:
    name_tenant(app, two_tenants[0])
    assert app.execute(statement.encode()).rowcount == 0
    own = statement.replace("rls-two", "rls-one").encode()
    assert app.execute(own).rowcount > 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenants SET state = 'active'",
        "UPDATE tenants SET limits = '{}'",
        "UPDATE memories SET tenant_id = 'rls-two'",
        "UPDATE memories SET subject_id = gen_random_uuid()",
        "UPDATE subjects SET state = 'active'",
        "DELETE FROM memories",
        "DELETE FROM subjects",
        "DELETE FROM intake",
        "DELETE FROM usage_counters",
        "DELETE FROM usage_reservations",
        "UPDATE usage_reservations SET amount = 1",
        "INSERT INTO tenants (tenant_id, plan, placement) VALUES ('rls-three', 'team', 'pool_00')",
        "INSERT INTO api_keys (key_id, tenant_id, secret_hash, roles) VALUES ('x', 'rls-one', 'x', '{service}')",
        "TRUNCATE memories",
    ],
)
@pytest.mark.usefixtures("two_tenants")
def test_what_the_request_path_never_does_it_cannot_do(
    app: psycopg.Connection[tuple[Any, ...]], statement: str
) -> None:
    name_tenant(app, "rls-one")
    with pytest.raises(InsufficientPrivilege):
        app.execute(statement.encode())


@pytest.mark.parametrize("role", SERVING_ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_events SET tokens = 0",
        "TRUNCATE usage_events",
        "UPDATE audit_events SET event = '{}'",
        "UPDATE audit_events SET occurred_at = now()",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY",
        "DROP TABLE audit_events",
        "UPDATE audit_leaves SET leaf_hash = ''",
        "DELETE FROM audit_leaves",
        "UPDATE audit_archives SET sha256 = ''",
        "DELETE FROM audit_archives",
        "SELECT lc_audit_month(now())",
        "TRUNCATE audit_trees",
    ],
)
def test_no_serving_role_changes_a_ledger_row_or_an_audit_event_or_deletes_one(
    onlooker: Onlooker, role: str, statement: str
) -> None:
    with onlooker.connected_as(role) as connection:
        name_tenant(connection, "rls-one")
        with pytest.raises(InsufficientPrivilege):
            connection.execute(statement.encode())


@pytest.mark.usefixtures("two_tenants")
def test_the_request_path_writes_the_system_log_and_cannot_read_it(
    app: psycopg.Connection[tuple[Any, ...]],
) -> None:
    app.execute("INSERT INTO audit_events (event_id, log_id, event) VALUES (gen_random_uuid(), '_system', '{}')")
    assert select(app, "audit_events") == set()
    name_tenant(app, "_system")
    assert select(app, "audit_events") == set()


@pytest.mark.parametrize("role", SERVING_ROLES)
def test_a_serving_role_passes_the_check_at_start_up(onlooker: Onlooker, role: str) -> None:
    engine = ControlEngine(onlooker.installation.server.url(role, CONTROL_DATABASE), pool_size=1)
    try:
        check_role(engine)
    finally:
        engine.close()


def test_a_role_that_owns_the_tables_is_refused_at_start_up(onlooker: Onlooker) -> None:
    engine = ControlEngine(onlooker.installation.server.url(OWNER_ROLE, CONTROL_DATABASE), pool_size=1)
    try:
        with pytest.raises(ConfigurationError, match="owns tenant tables"):
            check_role(engine)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("above", "below", "complaint"),
    [
        ("ALTER ROLE luminescent_backup SUPERUSER", "ALTER ROLE luminescent_backup NOSUPERUSER", "bypasses"),
        ("ALTER ROLE luminescent_backup BYPASSRLS", "ALTER ROLE luminescent_backup NOBYPASSRLS", "bypasses"),
        ("GRANT luminescent_owner TO luminescent_backup", "REVOKE luminescent_owner FROM luminescent_backup", "owns"),
    ],
    ids=["superuser", "bypassrls", "member of the owner"],
)
def test_a_role_above_row_level_security_is_refused_at_start_up(
    onlooker: Onlooker, above: str, below: str, complaint: str
) -> None:
    # The backup role, for nothing here is connected as it.
    server = onlooker.installation.server
    engine = ControlEngine(server.url(BACKUP, CONTROL_DATABASE), pool_size=1)
    with server._server.cluster.connect(CONTROL_DATABASE) as superuser:
        superuser.execute(above.encode())
        try:
            with pytest.raises(ConfigurationError, match=complaint):
                check_role(engine)
        finally:
            superuser.execute(below.encode())
            engine.close()


def test_a_table_that_lost_its_protection_stops_the_start(onlooker: Onlooker) -> None:
    engine = ControlEngine(onlooker.installation.server.url(APP, CONTROL_DATABASE), pool_size=1)
    owner = ControlEngine(onlooker.installation.server.url(OWNER_ROLE, CONTROL_DATABASE), pool_size=1)
    try:
        with owner.connection() as connection:
            connection.execute(sa.text("ALTER TABLE usage_events DISABLE ROW LEVEL SECURITY"))
            try:
                with pytest.raises(ConfigurationError, match="usage_events"):
                    check_role(engine)
            finally:
                connection.execute(sa.text("ALTER TABLE usage_events ENABLE ROW LEVEL SECURITY"))
        check_role(engine)
    finally:
        engine.close()
        owner.close()
