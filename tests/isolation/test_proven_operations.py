"""A thousand operations of eight callers at once over three tenants leave one event each, and each is proven."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

from cloud import CloudRuntime, request_context
from cloud.audit.verify import EVENTS, verify_bundle
from cloud.kernel.errors import PermissionDeniedError
from src.testing.samples import sample_memory

OPERATIONS = 1_000
CALLERS = 8
PEOPLE = ("alice", "bob", "carol")


async def test_a_thousand_operations_leave_one_event_each_and_all_are_proven(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    tenants = [tenant_id, f"{tenant_id}-b", f"{tenant_id}-c"]
    for name in tenants[1:]:
        runtime.tenants.create(name, plan="team")
    known: dict[str, list[str]] = {name: [] for name in tenants}
    done: dict[str, set[str]] = {name: set() for name in tenants}
    numbers = iter(range(OPERATIONS))

    async def caller(chance: random.Random) -> None:
        for number in numbers:
            tenant, person, request = chance.choice(tenants), chance.choice(PEOPLE), f"proven-{tenant_id}-{number}"
            done[tenant].add(request)
            with request_context(tenant_id=tenant, user_id=person, roles={"service"}, request_id=request):
                await operation(runtime, chance, tenant, person, known[tenant])

    async def operation(runtime: CloudRuntime, chance: random.Random, tenant: str, person: str, ids: list[str]) -> None:
        memory, some_id = runtime.memory, chance.choice(ids) if ids else "01890000-0000-7000-8000-000000000000"
        match chance.randrange(8):
            case 0 | 1:
                ids.append(await memory.store(sample_memory(person, content=f"fact {chance.random()}"), {}))
            case 2:
                await memory.retrieve("which fact?", person)
            case 3:
                await memory.search(person, {"memory_type": "fact"})
            case 4:
                await memory.get_by_id(some_id)
            case 5:
                await memory.delete(some_id)
            case 6:
                await memory.count(person)
            case 7:
                try:
                    await runtime.gdpr.delete_user_data(person, tenant, confirmed=True)
                except PermissionDeniedError:
                    return
                raise AssertionError("a service erases nobody")

    await asyncio.gather(*(caller(random.Random(seed)) for seed in range(CALLERS)))
    assert sum(map(len, done.values())) == OPERATIONS
    for tenant in tenants:
        bundle = await asyncio.to_thread(runtime.audit.export_evidence, tenant, tmp_path / tenant)
        result = verify_bundle(bundle.directory, key=bundle.verifier_key)
        assert result.origin_established
        lines = (bundle.directory / EVENTS).read_bytes().splitlines()
        events = Counter(json.loads(line)["request_id"] for line in lines)
        assert {request: events[request] for request in done[tenant]} == dict.fromkeys(done[tenant], 1)
