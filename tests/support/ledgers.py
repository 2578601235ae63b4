"""The usage books of a tenant, looked at and tampered with past the product, and another present for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cloud import CloudRuntime
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE

METERS = ("memories", "stored_bytes", "writes", "reads", "tokens")


def as_owner(runtime: CloudRuntime, *statements: str, **parameters: object) -> list[tuple[Any, ...]]:
    """Run statements as the owner of the schema, whom row-level security does not hold; rows of the last."""
    url = runtime._installation.server.url(OWNER_ROLE, CONTROL_DATABASE)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


def counters(runtime: CloudRuntime, tenant_id: str) -> dict[str, int]:
    """Units by meter, all periods and shards summed up."""
    query = "SELECT meter, sum(used) FROM usage_counters WHERE tenant_id = :tenant GROUP BY meter"
    return {meter: int(used) for meter, used in as_owner(runtime, query, tenant=tenant_id)}


def ledger(runtime: CloudRuntime, tenant_id: str) -> list[dict[str, Any]]:
    """Entries of a tenant, oldest first: operation, and the deltas that are not zero."""
    query = f"SELECT operation, {', '.join(METERS)} FROM usage_events WHERE tenant_id = :tenant ORDER BY occurred_at"  # noqa: S608 - constant
    return [
        {"operation": row[0], **{meter: delta for meter, delta in zip(METERS, row[1:], strict=True) if delta}}
        for row in as_owner(runtime, query, tenant=tenant_id)
    ]


def events(runtime: CloudRuntime, tenant_id: str, action: str) -> list[dict[str, Any]]:
    """A tenant's events of one action, oldest first."""
    query = "SELECT event FROM audit_events WHERE log_id = :tenant AND event->>'action' = :action ORDER BY occurred_at"
    return [row[0] for row in as_owner(runtime, query, tenant=tenant_id, action=action)]


@contextmanager
def present(runtime: CloudRuntime, tenant_id: str) -> Iterator[Clock]:
    """The control plane's present, which the test sets for this tenant alone."""
    clock = Clock(runtime, tenant_id)
    try:
        yield clock
    finally:
        clock.let_go()


class Clock:
    """What `lc_now` says where this tenant is named; for every other it goes on."""

    def __init__(self, runtime: CloudRuntime, tenant_id: str) -> None:
        self._runtime = runtime
        self._tenant_id = tenant_id

    def set(self, moment: datetime) -> None:
        """It is `moment` now, and stays so."""
        self._define(
            f"SELECT CASE WHEN current_setting('luminescent.tenant', true) = '{self._tenant_id}'"
            f" THEN timestamptz '{moment.isoformat()}' ELSE clock_timestamp() END"
        )

    def let_go(self) -> None:
        """It is the present again."""
        self._define("SELECT clock_timestamp()")

    def _define(self, body: str) -> None:
        statement = f"CREATE OR REPLACE FUNCTION lc_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ {body} $$"
        as_owner(self._runtime, statement)
