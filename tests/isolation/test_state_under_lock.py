"""A write that waits for its tenant's lock goes by the tenant's state of after the wait, whichever write it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import PermissionDeniedError
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker

Write = Callable[[CloudRuntime, str, str], Awaitable[object]]

WRITES: dict[str, Write] = {
    "store": lambda runtime, _, __: runtime.memory.store(sample_memory("alice"), {}),
    "store_many": lambda runtime, _, __: runtime.memory.store_many([sample_memory("alice")], {}),
    "delete": lambda runtime, _, memory_id: runtime.memory.delete(memory_id),
    "update": lambda runtime, _, memory_id: runtime.memory.update(memory_id, {"content": "another"}),
    "supersede": lambda runtime, _, memory_id: runtime.memory.supersede(memory_id, sample_memory("alice"), {}),
    "undelete": lambda runtime, _, memory_id: runtime.memory.undelete(memory_id),
    "reserve": lambda runtime, tenant_id, _: asyncio.to_thread(runtime.usage.reserve, tenant_id, "tokens", 5),
}
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE 'SELECT lc_%'"
)


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_waits_while_its_tenant_is_suspended_is_refused(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, name: str
) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        if name == "undelete":
            await runtime.memory.delete(memory_id)
        used, changes = onlooker.used(tenant_id), onlooker.counts()["memory_changes"]
        with runtime._installation.server._server.cluster.connect("luminescent_control") as admin:  # type: ignore[attr-defined]
            admin.execute("BEGIN")
            admin.execute("SELECT 1 FROM usage_counters WHERE tenant_id = %s FOR UPDATE", (tenant_id,))
            waits = asyncio.create_task(asyncio.wait_for(WRITES[name](runtime, tenant_id, memory_id), 30))
            with runtime._installation.server._server.cluster.connect("luminescent_control") as beside:  # type: ignore[attr-defined]
                for _ in range(200):
                    if beside.execute(_WAITING).fetchone() != (0,):
                        break
                    await asyncio.sleep(0.02)
                else:
                    pytest.fail("the write did not wait for the lock")
            admin.execute("UPDATE tenants SET state = 'suspended' WHERE tenant_id = %s", (tenant_id,))
            admin.execute("COMMIT")
        with pytest.raises(PermissionDeniedError) as refused:
            await waits
    runtime.tenants.resume(tenant_id)
    assert refused.value.reason == "tenant_suspended"
    assert (onlooker.used(tenant_id), onlooker.counts()["memory_changes"]) == (used, changes)
