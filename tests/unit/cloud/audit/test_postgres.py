"""Laws of the store: one event once, for ever, and only where the role may see it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from cloud import CloudRuntime
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.storage.metadata import audit_events


def document(event_id: str) -> dict[str, object]:
    return {"event_id": event_id, "action": "external.event", "latency_us": 1}


@pytest.mark.parametrize("log", ["tenant", "system", "unknown"])
def test_an_event_that_is_committed_again_stays_one_and_the_first(
    runtime: CloudRuntime, tenant_id: str, log: str
) -> None:
    log_id = {"tenant": tenant_id, "system": SYSTEM_LOG, "unknown": "ghost"}[log]
    event_id = new_event_id()
    for outcome in ("allowed", "failed"):
        runtime.audit._store.append(
            log_id, document(event_id), outcome=outcome, reason=None, resource_ids=(event_id,), counts={"n": 1}
        )
    kept_in = SYSTEM_LOG if log == "unknown" else log_id
    found = [e for e in runtime.audit._store.events(kept_in, since=None, until=None) if e["event_id"] == event_id]
    assert [(e["outcome"], e["log_id"], e["resource_ids"], e["counts"]) for e in found] == [
        ("allowed", kept_in, [event_id], {"n": 1})
    ]


def test_the_database_gives_the_time(runtime: CloudRuntime, tenant_id: str) -> None:
    event_id = new_event_id()
    lie = document(event_id) | {"occurred_at": "1999-01-01T00:00:00.000000Z", "log_id": SYSTEM_LOG}
    runtime.audit._store.append(tenant_id, lie, outcome="allowed", reason=None, resource_ids=(), counts={})
    (event,) = [e for e in runtime.audit._store.events(tenant_id, since=None, until=None) if e["event_id"] == event_id]
    written = str(event["occurred_at"])
    assert written.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds()) < 60
    assert event["log_id"] == tenant_id


@pytest.mark.parametrize("role", ["app", "maintenance", "worker", "keys"])
@pytest.mark.parametrize(
    "statement",
    [
        sa.update(audit_events).values(event={}),
        sa.delete(audit_events),
        sa.text("TRUNCATE audit_events"),
        sa.text("ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY"),
        sa.text("DROP TABLE audit_events"),
    ],
)
def test_no_role_that_serves_can_change_or_remove_an_event(
    runtime: CloudRuntime, role: str, statement: sa.Executable
) -> None:
    engine = getattr(runtime._installation.engines, role)
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        engine.transaction(lambda connection: connection.execute(statement))


def test_the_request_path_sees_the_log_of_its_tenant_and_neither_anothers_nor_the_systems(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    engine = runtime._installation.engines.app

    def logs(tenant: str | None) -> set[str]:
        def work(connection: sa.Connection) -> set[str]:
            if tenant is not None:
                connection.execute(sa.text("SELECT set_config('luminescent.tenant', :t, true)"), {"t": tenant})
            return set(connection.execute(sa.select(audit_events.c.log_id).distinct()).scalars())

        return engine.transaction(work)

    assert logs(None) == set()
    assert logs(tenant_id) == {tenant_id}


def test_a_store_without_its_database_says_so(runtime: CloudRuntime) -> None:
    from cloud.audit.postgres import PostgresAuditStore
    from cloud.storage.engine import ControlEngine, Deadline

    url = sa.URL.create("postgresql+psycopg", database="x", query={"host": "/nonexistent"})
    engine = ControlEngine(url, deadline=Deadline(total_s=0.2, statement_s=0.2, attempts=2))
    try:
        store = PostgresAuditStore(engine, engine)
        with pytest.raises(ProviderUnavailableError):
            store.append("acme", {}, outcome="allowed", reason=None, resource_ids=(), counts={})
        with pytest.raises(ProviderUnavailableError):
            list(store.events("acme", since=None, until=None))
    finally:
        engine.close()
