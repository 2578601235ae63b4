"""Sessions on an external server: their isolation, their settings, and what becomes of them when it restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cloud import CloudSettings
from cloud.kernel.errors import ProviderUnavailableError
from cloud.startup.servers import open_server
from cloud.storage.engine import ControlEngine, Deadline
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE
from cloud.storage.server import Server
from tests.support.external import ExternalServer

LEVEL = sa.text("SHOW transaction_isolation")


@pytest.fixture
def opened(server: ExternalServer) -> Iterator[Server]:
    opened = open_server(CloudSettings(**server.settings(owner=False)))  # type: ignore[arg-type]
    yield opened
    opened.close()


def engine_of(opened: Server, deadline: Deadline | None = None) -> ControlEngine:
    return ControlEngine(opened.url(APP_ROLE, CONTROL_DATABASE), recover=opened.recover, deadline=deadline)


@pytest.mark.parametrize("default", ["serializable", "repeatable read"])
@pytest.mark.parametrize("place", ["DATABASE luminescent_control", "ROLE luminescent_app"])
def test_every_statement_runs_at_read_committed_whatever_the_server_has_as_its_default(
    server: ExternalServer, opened: Server, place: str, default: str
) -> None:
    """In autocommit too: a function that waits for a lock must then see what was committed meanwhile."""
    with server.admin() as admin:
        admin.execute(f"ALTER {place} SET default_transaction_isolation = '{default}'".encode())
        engine = engine_of(opened)
        try:
            assert engine.rows(LEVEL) == [("read committed",)]
            assert engine.call(LEVEL, {}, retry_parameter=None) == "read committed"
            assert engine.transaction(lambda connection: connection.execute(LEVEL).scalar()) == "read committed"
            with engine.connection() as connection:
                assert connection.execute(LEVEL).scalar() == "read committed"
        finally:
            engine.close()
            admin.execute(f"ALTER {place} RESET default_transaction_isolation".encode())


def test_options_of_the_url_hold_beside_those_that_the_service_relies_on(server: ExternalServer) -> None:
    url = server.url(
        "luminescent_control", options="-c%20work_mem%3D5MB%20-c%20lock_timeout%3D77", application_name="x"
    )
    settings = server.settings(owner=False, control_url=url)
    opened = open_server(CloudSettings(**settings))  # type: ignore[arg-type]
    engine = engine_of(opened, Deadline(statement_s=2.0))
    row = engine.rows(
        sa.text(
            "SELECT current_setting('work_mem'), current_setting('lock_timeout'), current_setting('application_name')"
        )
    )
    engine.close()
    assert row == [("5MB", "2s", "x")]


def test_a_restart_is_bridged(server: ExternalServer, opened: Server) -> None:
    engine = engine_of(opened, Deadline(total_s=20.0, statement_s=3.0))
    assert engine.rows(sa.text("SELECT 1")) == [(1,)]
    server.stop()
    later = threading.Timer(1.5, server.start)
    later.start()
    try:
        assert engine.rows(sa.text("SELECT 2")) == [(2,)]
    finally:
        later.join()
        engine.close()


def test_a_server_that_stays_away_is_given_up_in_time(server: ExternalServer, opened: Server) -> None:
    engine = engine_of(opened, Deadline(total_s=2.0, statement_s=1.0))
    server.stop()
    try:
        began_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            engine.rows(sa.text("SELECT 1"))
        assert time.monotonic() - began_s < 5
        began_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError, match="does not accept connections yet"):
            opened.recover(0.6)
        assert 0.3 < time.monotonic() - began_s < 3
    finally:
        server.start()
        engine.close()
    opened.recover(10)


def test_a_closed_handle_waits_for_nothing(server: ExternalServer, opened: Server) -> None:
    server.stop()
    try:
        opened.close()
        with pytest.raises(ProviderUnavailableError, match="closed by this process"):
            opened.recover(30)
    finally:
        server.start()
