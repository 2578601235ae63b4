"""A database of the first release gets its ledger: what was in stock and what was metered is in every book."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.engine import ControlEngine
from cloud.storage.migrate import migrate
from cloud.storage.roles import CONTROL_DATABASE
from cloud.usage.books import PostgresUsageBooks

FIRST_RELEASE = (
    "INSERT INTO tenants (tenant_id, plan, placement) VALUES ('acme', 'team', 'pool_00'), ('empty', 'team', 'pool_00')",
    "INSERT INTO plan_limits VALUES ('team', 'memories', 100000)",
    "INSERT INTO usage_counters (tenant_id, meter, used) VALUES ('acme', 'memories', 3), ('empty', 'memories', 0)",
    "INSERT INTO subjects (subject_id, tenant_id) VALUES"
    " ('00000000-0000-4000-8000-000000000001', 'acme'), ('00000000-0000-4000-8000-000000000002', 'acme')",
    "INSERT INTO memories (memory_id, tenant_id, subject_id, state, size_bytes, created_at, generation)"
    " SELECT gen_random_uuid(), 'acme', s.id::uuid, s.state, s.size, now(), 1 FROM (VALUES"
    " ('00000000-0000-4000-8000-000000000001', 'active', 100), ('00000000-0000-4000-8000-000000000001', 'active', 20),"
    " ('00000000-0000-4000-8000-000000000002', 'active', 3), ('00000000-0000-4000-8000-000000000002', 'deleted', 900),"
    " ('00000000-0000-4000-8000-000000000002', 'expired', 900)) AS s(id, state, size)",
    "INSERT INTO usage_events (event_id, tenant_id, operation, tokens, occurred_at) VALUES"
    " (gen_random_uuid(), 'acme', 'query', 5, '2026-01-31T23:59:59Z'),"
    " (gen_random_uuid(), 'acme', 'query', 7, '2026-02-01T00:00:00Z'),"
    " (gen_random_uuid(), 'acme', 'query', 9, '2026-02-15T00:00:00Z')",
)


def test_the_ledger_begins_with_what_was_in_stock(
    server: EmbeddedPostgres, owner_url: sa.URL, renew: Callable[[], None]
) -> None:
    renew()
    engine = sa.create_engine(owner_url, poolclass=sa.NullPool)
    config = Config()
    config.set_main_option("script_location", "migrations:")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in FIRST_RELEASE:
            connection.execute(sa.text(statement))
        connection.commit()
    migrate(owner_url)
    with engine.connect() as connection:
        counters = connection.execute(sa.text("SELECT tenant_id, meter, period::text, shard, used FROM usage_counters"))
        assert set(map(tuple, counters)) == {
            ("acme", "memories", "1970-01-01", 0, 3),
            ("acme", "stored_bytes", "1970-01-01", 0, 123),
            ("acme", "tokens", "2026-01-01", 0, 5),
            ("acme", "tokens", "2026-02-01", 0, 16),
            ("empty", "memories", "1970-01-01", 0, 0),
            ("empty", "stored_bytes", "1970-01-01", 0, 0),
        }
        opening = connection.execute(
            sa.text("SELECT tenant_id, memories, stored_bytes FROM usage_events WHERE operation = 'usage.opening'")
        )
        assert list(map(tuple, opening)) == [("acme", 3, 123)]
        people = connection.execute(sa.text("SELECT memories FROM subjects ORDER BY subject_id"))
        assert people.scalars().all() == [2, 1]
    engine.dispose()
    maintenance = ControlEngine(server.url("luminescent_maintenance", CONTROL_DATABASE), pool_size=1)
    books = PostgresUsageBooks(maintenance)
    assert {tenant_id: books.differences(tenant_id) for tenant_id in books.tenants()} == {"acme": [], "empty": []}
    maintenance.close()
