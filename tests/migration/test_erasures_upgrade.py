"""Erasures of an earlier release keep what they were: the verified stay verified, the unfinished are gone on with."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from cloud.gdpr.model import ErasureState
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.engine import ControlEngine
from cloud.storage.migrate import migrate
from cloud.storage.roles import CONTROL_DATABASE

EARLIER = ("frozen", "key_destroyed", "rows_deleted", "verified", "incomplete")


def test_every_erasure_of_an_earlier_release_is_what_it_was(
    server: EmbeddedPostgres, owner_url: sa.URL, renew: Callable[[], None]
) -> None:
    renew()
    engine = sa.create_engine(owner_url, poolclass=sa.NullPool)
    config = Config()
    config.set_main_option("script_location", "migrations:")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0007")
        connection.execute(
            sa.text("INSERT INTO tenants (tenant_id, plan, placement) VALUES ('acme', 'team', 'pool_00')")
        )
        for state in EARLIER:
            connection.execute(
                sa.text(
                    "INSERT INTO erasures (erasure_id, tenant_id, subject_id, state, counts, requested_at) VALUES"
                    " (gen_random_uuid(), 'acme', gen_random_uuid(), :state, '{\"control.memories\": 3}',"
                    " '2026-01-31T08:00:00Z')"
                ),
                {"state": state},
            )
        connection.commit()
    migrate(owner_url)
    engine.dispose()
    maintenance = ControlEngine(server.url("luminescent_maintenance", CONTROL_DATABASE), pool_size=1)
    store = PostgresErasureStore(maintenance)
    unfinished = {one.state: one for one in store.unfinished()}
    assert unfinished.keys() == {
        ErasureState.FROZEN,
        ErasureState.KEY_DESTROYED,
        ErasureState.ROWS_DELETED,
        ErasureState.FAILED,
    }
    assert unfinished[ErasureState.FAILED].failed_step == "verified"
    for one in unfinished.values():
        assert (one.memories, one.received_at, one.confirmed_at) == (3, one.requested_at, one.requested_at)
        assert one.due_at is not None
        assert one.due_at.isoformat() == "2026-02-28T08:00:00+00:00"
    # Nothing of it was measured, so it is not certified afterwards.
    assert store.uncertified() == []
    maintenance.close()
