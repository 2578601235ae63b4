"""Laws of applying migrations: one at a time, and the next one's turn comes whatever became of the last."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime
from cloud.kernel.errors import ConfigurationError
from cloud.storage.migrate import _LOCK_ID, migrate
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE

HEAD = "0012"


@pytest.fixture
def url(runtime: CloudRuntime) -> sa.URL:
    return runtime._installation.server.url(OWNER_ROLE, CONTROL_DATABASE)


def test_a_database_that_is_up_to_date_is_left_as_it_is(url: sa.URL) -> None:
    assert migrate(url) == HEAD


def test_who_comes_second_waits(url: sa.URL) -> None:
    done: list[str] = []
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as holder:
        holder.execute(sa.text("SELECT pg_advisory_lock(:id)"), {"id": _LOCK_ID})
        second = threading.Thread(target=lambda: done.append(migrate(url)))
        second.start()
        second.join(0.3)
        assert second.is_alive(), "migrated beside somebody else"
    second.join(20)
    assert done == [HEAD]


def test_who_was_refused_keeps_nobody_waiting(url: sa.URL) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def at(revision: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": revision})

    at("from-the-future")
    try:
        with pytest.raises(ConfigurationError, match="from-the-future"):
            migrate(url)
    finally:
        at(HEAD)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT pg_try_advisory_lock(:id)"), {"id": _LOCK_ID}).scalar()
