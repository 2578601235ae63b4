"""The child of the residue test of closings: two tenants beside a third, one in a table of its own, are closed.

Prints one JSON document. Run with the home, a directory for its files, how many memories each person has, and `plain`
for a sealer that does not encrypt.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.gdpr.model import Erasure
from cloud.startup import installation
from src.memory.schemas import Memory, MemoryType
from tests.gdpr.residue_program import PlainSealer, told

STAYS: Final = "staying"


def people(tenant_id: str) -> tuple[str, str]:
    """Two people of whom no fragment is another tenant's: where nothing encrypts, it would be found there."""
    alice, bob = (hashlib.sha256(f"{name} of {tenant_id}".encode()).hexdigest()[:24] for name in ("alice", "bob"))
    return f"{alice}@{alice[::-1]}", f"{bob}@{bob[::-1]}"


async def filled(runtime: CloudRuntime, tenant_id: str, count: int) -> None:
    """Memories of two people, in Pixeltable and waiting; a key of one's own, and a request that is open."""
    alice, bob = people(tenant_id)

    def memory(user_id: str) -> Memory:
        said = " ".join(f"word{os.urandom(6).hex()}" for _ in range(6))
        return Memory(
            user_id=user_id,
            content=said,
            memory_type=MemoryType.FACT,
            source="conversation",
            raw_source=f"raw {os.urandom(12).hex()}",
            metadata={"note": f"noted {os.urandom(12).hex()}"},
        )

    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([memory(people(tenant_id)[n % 2]) for n in range(count)], {})
        await runtime.drain()
        found = await runtime.memory.search(alice, {}, 1)
        await runtime.memory.delete(found[0].id)
        await runtime.memory.store(memory(bob), {})
    runtime.api_keys.create(tenant_id, roles={"member"}, user_id=alice)
    with request_context(tenant_id=tenant_id, user_id="admin", roles={"tenant_admin"}):
        await runtime.gdpr.request_erasure(alice, tenant_id, identity="passport")


async def contents(runtime: CloudRuntime) -> list[str]:
    """What the tenant that stays has."""
    with request_context(tenant_id=STAYS, roles={"service"}):
        return sorted([one.content for user in people(STAYS) for one in await runtime.memory.search(user, {}, 1_000)])


async def main(home: Path, files: Path, count: int) -> dict[str, Any]:
    """The whole story."""
    with init_cloud_extensions(CloudSettings(home=home, worker="thread", embedder="hashing")) as runtime:
        placed = {"own": "own", "pooled": None}
        for tenant_id, placement in {**placed, STAYS: None}.items():
            runtime.tenants.create(tenant_id, plan="team", placement=placement)
            await filled(runtime, tenant_id, count)
        theirs, taken, items, before = await contents(runtime), {}, {}, {}
        await runtime.drain()
        for tenant_id in placed:
            for number, user_id in enumerate(people(tenant_id)):
                name = f"{tenant_id}-{number}"
                with request_context(tenant_id=tenant_id, user_id="admin", roles={"tenant_admin"}):
                    found = runtime.scan.take(user_id, tenant_id, files / name)
                taken[name] = files / name
                items[name] = sorted({(one.trace.value, one.item) for one in found.fingerprints})
                before[name] = told(runtime.scan.search(files / name))
        closed = {tenant_id: runtime.closing.close(tenant_id, confirmed=True) for tenant_id in placed}
        return {
            "items": items,
            "before": before,
            "after": {name: told(runtime.scan.search(path)) for name, path in taken.items()},
            "levels": {
                tenant_id: {level.value: state.reached_at is not None for level, state in one.levels.items()}
                for tenant_id, one in closed.items()
                if isinstance(one, Erasure)
            },
            "others_are_whole": len(theirs) == count and await contents(runtime) == theirs,
        }


if __name__ == "__main__":
    if sys.argv[-1] == "plain":
        installation.AesGcmSealer = PlainSealer  # type: ignore[misc, assignment]
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))))
