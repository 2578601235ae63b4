"""Clocks that a test sets: the database's, for the roles that serve requests, and a process's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from cloud import CloudRuntime
from cloud.memory import CloudMemoryProvider
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import WORKER_ROLE
from tests.isolation.probes import Onlooker
from tests.support.ledgers import as_owner

_PATH: Final = "SET search_path = moved, pg_catalog, public"
"""The server functions say `now()` without a schema: the first schema that has one tells them."""


class Clocks:
    """How far the database's clock and the process's are from the present, and a provider that goes by both.

    The run's own worker keeps the right time, so nothing is marked as expired unless the test says so.

    Attributes:
        memory: The provider.
    """

    def __init__(self, runtime: CloudRuntime) -> None:
        self._runtime = runtime
        self._process = timedelta(0)
        config = replace(runtime.pixeltable_config, clock=self.now)
        self.memory = CloudMemoryProvider(config, runtime.tenant_provider, runtime.audit, runtime.usage)

    def now(self) -> datetime:
        """The process's time."""
        return datetime.now(UTC) + self._process

    def jump(self, *, database: timedelta | None = None, process: timedelta | None = None) -> None:
        """From now on a clock is so far from the present; one that is not named stays."""
        if database is not None:
            as_owner(self._runtime, "UPDATE moved.shift SET by = :by", by=database)
        if process is not None:
            self._process = process

    def expire(self) -> int:
        """What a worker does that goes by the database's clock; returns how many were marked."""
        with Onlooker(self._runtime).connected_as(WORKER_ROLE) as connection:
            connection.execute(_PATH)
            row = connection.execute("SELECT lc_expire(500)").fetchone()
            connection.commit()
        assert row is not None
        return int(row[0])


@contextmanager
def clocks_of(runtime: CloudRuntime) -> Iterator[Clocks]:
    """Clocks that are right to begin with, and again afterwards."""
    as_owner(
        runtime,
        "CREATE SCHEMA moved",
        "CREATE TABLE moved.shift AS SELECT interval '0' AS by",
        "GRANT USAGE ON SCHEMA moved TO PUBLIC",
        "GRANT SELECT ON moved.shift TO PUBLIC",
        *(
            f"CREATE FUNCTION moved.{name}() RETURNS timestamptz LANGUAGE sql {kind}"
            f" AS $$ SELECT pg_catalog.{name}() + by FROM moved.shift $$"
            for name, kind in (("now", "STABLE"), ("clock_timestamp", "VOLATILE"))
        ),
    )
    engines = runtime._installation.engines
    clocks = Clocks(runtime)
    try:
        with _moved(engines.app), _moved(engines.maintenance):
            yield clocks
    finally:
        clocks.memory.close()
        as_owner(runtime, "DROP SCHEMA moved CASCADE")


@contextmanager
def _moved(engine: ControlEngine) -> Iterator[None]:
    """Its connections go by the clock that the test sets; afterwards that schema is gone, and they go by the server's.

    Each time that one is taken: a pool that is disposed of leaves those that are in use to the garbage collector.
    """

    def goes_by_it(connection: Any, _: object, __: object) -> None:
        connection.execute(_PATH)
        connection.commit()

    sa.event.listen(engine._engine, "checkout", goes_by_it)
    # None may lie ready: it would be taken without being asked of the pool.
    calls, most_ready = engine._calls, engine._calls._most_ready
    calls.close()
    try:
        yield
    finally:
        calls._most_ready = most_ready
        sa.event.remove(engine._engine, "checkout", goes_by_it)
