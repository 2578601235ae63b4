"""Laws of retention: what a plan keeps no longer is deleted like anything else, and what is held stays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ConfigurationError
from cloud.memory import retaining
from cloud.memory.managed_postgres import PostgresRetentionLedger
from cloud.memory.retaining import Retainer, Rules
from cloud.startup.installation import system_predicates
from cloud.storage.metadata import memories
from cloud.usage.plan_file import parse_plans
from src.memory.schemas import Memory, MemoryType
from src.testing.samples import sample_memory

RULES: Rules = {"enterprise": {MemoryType.FACT: 365}, "free": {}}
"""Of a plan that hardly any other test has: its tenants alone are looked through, two memories at a time."""


def aged(user_id: str, days: float, memory_type: MemoryType = MemoryType.FACT) -> Memory:
    return sample_memory(user_id, memory_type=memory_type, created_at=datetime.now(UTC) - timedelta(days=days))


def retain(runtime: CloudRuntime, tenant_id: str, rules: Rules = RULES) -> int:
    """How many memories of the tenant went; what other tests left in theirs may go with them."""
    config, engine = runtime.pixeltable_config, runtime._installation.engines.maintenance
    predicates = system_predicates("retention")
    retainer = Retainer(PostgresRetentionLedger(engine), config.rows, rules, predicates, config.clock)
    return retainer.run().get(tenant_id, 0)


async def stored(runtime: CloudRuntime, tenant_id: str, *some: Memory) -> list[str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        ids = await runtime.memory.store_many(list(some), {})
    await runtime.drain()
    return ids


def states(runtime: CloudRuntime, tenant_id: str) -> dict[str, str]:
    query = sa.select(memories.c.memory_id, memories.c.state).where(memories.c.tenant_id == tenant_id)
    rows = runtime._installation.engines.maintenance.rows(query)
    return {str(memory_id): str(state) for memory_id, state in rows}


async def test_what_is_too_old_for_its_plan_is_deleted_in_batches_with_an_event_each(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retaining, "BATCH", 2)
    runtime.tenants.change(tenant_id, plan="enterprise")
    old = await stored(runtime, tenant_id, *[aged("alice", 366)] * 2, aged("bob", 400))
    kept = await stored(
        runtime, tenant_id, aged("alice", 364), aged("alice", 9_999, MemoryType.DECISION), aged("bob", 1)
    )
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.retrieve("tabs", "alice")
    assert retain(runtime, tenant_id) == 3
    found = states(runtime, tenant_id)
    assert {found[memory_id] for memory_id in old} == {"deleted"}
    assert {found[memory_id] for memory_id in kept} == {"active"}
    usage = runtime.usage.get_usage_summary(tenant_id)
    assert usage["memories"]["used"] == 3  # type: ignore[index]
    events = list(runtime.audit._store.events(tenant_id, since=None, until=None))
    mine = [event for event in events if event["action"] == "memory.retain"]
    assert [(e["outcome"], e["actor"]["kind"], e["counts"]) for e in mine] == [  # type: ignore[index]
        ("allowed", "system", {"deleted": 2}),
        ("allowed", "system", {"deleted": 1}),
    ]
    with request_context(tenant_id=tenant_id, roles={"service"}):
        assert {one.id for one in await runtime.memory.search("alice", {})} == set(kept[:2]), (
            "a snapshot shows it still"
        )
        assert await runtime.memory.undelete(old[0]), "it can be brought back as what anybody deleted"
        assert [line.kind.value for line in await runtime.memory.history(old[1])] == ["stored", "deleted"]
    assert retain(runtime, tenant_id) == 1
    assert retain(runtime, tenant_id) == 0


@pytest.mark.parametrize("whom", ["alice", None])
async def test_what_is_held_stays_until_it_is_released(runtime: CloudRuntime, tenant_id: str, whom: str | None) -> None:
    runtime.tenants.change(tenant_id, plan="enterprise")
    alices, bobs = await stored(runtime, tenant_id, aged("alice", 400), aged("bob", 400))
    review_at = datetime.now(UTC) + timedelta(days=1)
    hold = await runtime.gdpr.hold(tenant_id, user_id=whom, reason="r", authority="a", review_at=review_at)
    retain(runtime, tenant_id)
    found = states(runtime, tenant_id)
    assert (found[alices], found[bobs]) == ("active", "deleted" if whom else "active")
    await runtime.gdpr.release(hold.hold_id, tenant_id)
    retain(runtime, tenant_id)
    assert set(states(runtime, tenant_id).values()) == {"deleted"}


async def test_a_plan_without_rules_and_a_suspended_tenant_lose_nothing(runtime: CloudRuntime, tenant_id: str) -> None:
    await stored(runtime, tenant_id, aged("alice", 9_999))
    runtime.tenants.change(tenant_id, plan="free")
    assert retain(runtime, tenant_id) == 0
    runtime.tenants.change(tenant_id, plan="enterprise")
    runtime.tenants.suspend(tenant_id)
    assert retain(runtime, tenant_id) == 0
    assert set(states(runtime, tenant_id).values()) == {"active"}


def test_a_plan_file_names_types_and_days() -> None:
    plans = parse_plans("[team]\nmemories = 5\n[team.retention]\nfact = 365\ndecision = -1\n", "plans.toml")
    assert plans["team"].retention_days == {MemoryType.FACT: 365}
    assert parse_plans("[free]\nmemories = 5\n", "plans.toml")["free"].retention_days == {}


@pytest.mark.parametrize(
    "rules",
    ["retention = 5", "[team.retention]\nfacts = 5", "[team.retention]\nfact = 0"]
    + [f"[team.retention]\nfact = {value}" for value in ("1.5", "true", "-2", "36_501", '"365"')],
)
def test_a_wrong_rule_is_named_with_file_plan_and_line(rules: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^plans.toml, line \d, plan 'team'"):
        parse_plans(f"[team]\nmemories = 5\n{rules}\n", "plans.toml")


async def test_what_was_changed_since_the_rule_was_applied_is_left_alone(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.tenants.change(tenant_id, plan="enterprise")
    changed, same = await stored(runtime, tenant_id, aged("alice", 366), aged("alice", 400))
    rows = runtime.pixeltable_config.rows
    older = rows.older

    def changed_meanwhile(*given: Any, **by_name: Any) -> dict[str, int]:
        seen = older(*given, **by_name)
        monkeypatch.undo()
        with request_context(tenant_id=tenant_id, roles={"service"}):
            asyncio.run(runtime.memory.update(changed, {"memory_type": MemoryType.DECISION}))
        return seen

    monkeypatch.setattr(rows, "older", changed_meanwhile)
    assert await asyncio.to_thread(retain, runtime, tenant_id) == 1
    assert states(runtime, tenant_id) == {changed: "active", same: "deleted"}
    await runtime.drain()
    assert retain(runtime, tenant_id) == 0
