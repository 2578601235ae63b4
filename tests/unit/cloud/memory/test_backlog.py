"""However much waits to be materialized, a batch looks at its own rows alone."""

from __future__ import annotations

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory.materializer import BATCH, PLACEMENTS, WAITING, rest_s
from cloud.storage.roles import OWNER_ROLE, WORKER_ROLE
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


@pytest.mark.parametrize("statement", [PLACEMENTS.text, WAITING.text])
def test_a_batch_is_found_in_the_order_of_the_index(onlooker: Onlooker, statement: str) -> None:
    asked = statement.replace(":placement", "'shared'").replace(":batch", "500")
    with onlooker.connected_as(WORKER_ROLE) as connection:
        # What still sorts or reads everything then has no other way.
        connection.execute("SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off")
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {asked}".encode()))
    assert "ix_intake_placement_memory_id" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


async def test_every_placement_with_something_waiting_is_found_once(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    await runtime.drain()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = [await runtime.memory.store(sample_memory("alice"), {}) for _ in range(3)]
    with onlooker.connected_as(OWNER_ROLE) as connection:
        # In a transaction that is rolled back; the worker of the run may have taken some or all of them by now.
        connection.execute("DELETE FROM intake")
        assert connection.execute(PLACEMENTS.text.encode()).fetchall() == []
        for number, memory_id in enumerate(ids):
            connection.execute(
                "INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type,"
                " confidence, created_at, envelope) SELECT memory_id, tenant_id, subject_id, %s, 1, 1, 'fact', 1,"
                " created_at, '' FROM memories WHERE memory_id = %s",
                (f"place_{number % 2}", memory_id),
            )
        assert connection.execute(PLACEMENTS.text.encode()).fetchall() == [("place_0",), ("place_1",)]


def test_a_worker_gathers_what_is_little_and_goes_on_with_what_is_much() -> None:
    assert rest_s(0, 0.01) == pytest.approx(0.1)
    assert rest_s(5, 0.05) == pytest.approx(0.15)
    assert rest_s(BATCH - 1, 1.0) == pytest.approx(0.5)
    assert rest_s(BATCH, 1.0) == 0.0
