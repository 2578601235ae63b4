"""Looks at an installation past its own API: as each database role, and as an onlooker who leaves no event."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from cloud import CloudRuntime
from cloud.gdpr.evidence import Evidence
from cloud.gdpr.holds_postgres import PostgresHoldStore
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.ids import new_event_id
from cloud.memory import read_times
from cloud.startup.certificates import certificates
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import TENANT_TABLES
from cloud.storage.roles import CONTROL_DATABASE
from cloud.storage.wire import ServerFunction
from cloud.tenancy.administration import Administration
from cloud.tenancy.postgres import PostgresTenantStore
from src.extensions import TenantProvider

_MOVED = ("audit_events", "audit_pending", "audit_intents", "audit_leaves", "audit_tiles", "audit_trees", "intake")
UNMOVED_TABLES = tuple(table.name for table in TENANT_TABLES if table.name not in _MOVED)
"""Every table that a refused operation must leave as it was. Rows of `intake`, each of which refers to one in
`memories`, leave it by themselves."""

Event = dict[str, Any]
"""An audit event as it was committed."""


class Onlooker:
    """Reads both planes as roles that the request path does not have."""

    def __init__(self, runtime: CloudRuntime) -> None:
        self.runtime = runtime
        self.installation = runtime._installation

    @contextmanager
    def connected_as(self, role: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection of `role` in one transaction that is rolled back."""
        url = self.installation.server.url(role, CONTROL_DATABASE)
        with psycopg.connect(
            host=str(url.query["host"]), user=role, password=str(url.password), dbname=CONTROL_DATABASE
        ) as connection:
            yield connection
            connection.rollback()

    def rows(self, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Rows that the maintenance role sees: those of every tenant."""
        return [tuple(row) for row in self.installation.engines.maintenance.rows(sa.text(statement), parameters)]

    def events(self, *, after: str | None = None, log_id: str | None = None) -> list[Event]:
        """Committed events of all logs or one, oldest first; those begun `after` an event id."""
        found = self.rows(
            "SELECT event FROM audit_events WHERE (CAST(:after AS uuid) IS NULL OR event_id > CAST(:after AS uuid))"
            " AND (CAST(:log AS text) IS NULL OR log_id = :log) ORDER BY occurred_at, event_id",
            after=after,
            log=log_id,
        )
        return [row[0] for row in found]

    @contextmanager
    def new_events(self) -> Iterator[list[Event]]:
        """A list that holds, once the block is left, the events of every operation that began in it."""
        seen: list[Event] = []
        mark = new_event_id()
        # Tests of jumping clocks have left events whose ids are of tomorrow.
        ahead = {event["event_id"] for event in self.events(after=mark)}
        try:
            yield seen
        finally:
            seen.extend(event for event in self.events(after=mark) if event["event_id"] not in ahead)

    def counts(self) -> dict[str, int]:
        """Rows of every table that stands still while nobody writes."""
        query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in UNMOVED_TABLES)
        return {str(name): int(count) for name, count in self.rows(query)}

    def ledger(self, tenant_id: str, *, state: str | None = None) -> int:
        """Rows of the tenant in the ledger."""
        query = (
            "SELECT count(*) FROM memories WHERE tenant_id = :tenant AND state = coalesce(CAST(:state AS text), state)"
        )
        return int(self.rows(query, tenant=tenant_id, state=state)[0][0])

    def used(self, tenant_id: str) -> int:
        """The tenant's stock of memories, as the quota counts it."""
        query = "SELECT used FROM usage_counters WHERE tenant_id = :tenant AND meter = 'memories'"
        return int(self.rows(query, tenant=tenant_id)[0][0])

    def gdpr_with(self, tenant_provider: TenantProvider) -> CloudGDPRService:
        """The GDPR service of the installation with another tenant provider at its door."""
        engines, config = self.installation.engines, self.runtime.pixeltable_config
        directory = PostgresTenantStore(engines.maintenance)
        admissions = Administration(tenant_provider, config.identities, self.runtime.audit, directory)
        store = PostgresErasureStore(engines.maintenance)
        holds = PostgresHoldStore(engines.maintenance)
        return CloudGDPRService(
            store,
            holds,
            engines.maintenance,
            config,
            admissions,
            self.runtime.audit,
            evidence=Evidence(ledger=self.installation.ledger, certifier=certificates(self.installation)),
        )


@contextmanager
def statements_of(engine: ControlEngine) -> Iterator[list[tuple[int, str, Mapping[str, Any]]]]:
    """Every statement that the engine sends while the block runs: connection, text and parameters."""
    sent: list[tuple[int, str, Mapping[str, Any]]] = []

    calls = engine._calls
    exchange = calls._exchanged

    def remember_call(pooled: sa.PoolProxiedConnection, function: ServerFunction, arguments: list[bytes | None]) -> Any:
        if threading.current_thread().name not in (read_times.THREAD, "luminescent-erasures"):
            given = dict(zip(function.parameters, arguments, strict=True))
            tenant = given.get("tenant")
            named = {"tenant": tenant.decode()} if tenant is not None else {}
            sent.append((id(pooled.dbapi_connection), function.statement.decode(), given | named))
        return exchange(pooled, function, arguments)

    def remember(
        connection: sa.Connection, cursor: object, statement: str, parameters: object, context: object, many: bool
    ) -> None:
        if threading.current_thread().name in (read_times.THREAD, "luminescent-erasures"):
            # Not of the operation that is looked at.
            return
        assert isinstance(parameters, Mapping)
        sent.append((id(connection.connection.dbapi_connection), statement, parameters))

    target = engine._engine
    sa.event.listen(target, "before_cursor_execute", remember)
    calls._exchanged = remember_call  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        calls._exchanged = exchange  # type: ignore[method-assign]
        sa.event.remove(target, "before_cursor_execute", remember)
