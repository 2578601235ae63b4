"""A server of its own, without Pixeltable, on which the control database can be made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.migrate import migrate
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE
from tests.support.homes import temporary_home


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A running server with roles, databases and no tables."""
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def owner_url(server: EmbeddedPostgres) -> sa.URL:
    """Where the owner of the schema connects to."""
    return server.url(OWNER_ROLE, CONTROL_DATABASE)


@pytest.fixture(scope="module")
def renew(server: EmbeddedPostgres) -> Callable[[], None]:
    """Makes the control database empty."""

    def make() -> None:
        with server._server.cluster.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {CONTROL_DATABASE} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {CONTROL_DATABASE} OWNER {OWNER_ROLE}".encode())

    return make


@pytest.fixture(scope="module")
def migrated(owner_url: sa.URL, renew: Callable[[], None]) -> Iterator[sa.Engine]:
    """The owner's engine on a database that all migrations were applied to."""
    renew()
    migrate(owner_url)
    engine = sa.create_engine(owner_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()
