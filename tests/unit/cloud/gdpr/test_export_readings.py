"""Laws of who read what: every reader of each memory is told, nobody else's memories are, and memory stays bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

from cloud import request_context
from cloud.gdpr.readings import LATEST_READS, Readings
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker
from tests.unit.cloud.gdpr.test_export import exported


def event(number: int, action: str = "memory.retrieve", **fields: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "occurred_at": f"2026-01-01T00:00:00.{number:06}Z",
        "action": action,
        "outcome": "allowed",
        "subject_id": "alice",
        "actor": {"kind": "api_key", "id": "key", "roles": ["service"]},
        "resource_ids": ["m1"],
        **fields,
    }


async def test_each_memory_says_who_read_it_and_when(look: Looker, tmp_path: Path) -> None:
    first, second = await look.store(sample_memory("alice", content="likes tabs"), sample_memory("alice", content="x"))
    (of_bob,) = await look.store(sample_memory("bob"))
    memory = look.runtime.memory
    with request_context(tenant_id=look.tenant_id, user_id="alice", roles={"member"}):
        await memory.get_by_id(first)
        await memory.get_by_id(first)
        await memory.list("alice")
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await memory.search("alice", {"source": "nowhere"}, 10)
        await memory.history(second)
        await memory.get_by_id(of_bob)
    found = await exported(look, "alice", tmp_path)
    reads = {record["id"]: record["reads"] for record in found["memories"]}
    alice = look.subject("alice")
    told = {(row["action"], row["actor"]["id"], row["actor"]["self"]): row["count"] for row in reads[first]["by"]}
    assert told == {("memory.get", alice, True): 2, ("memory.list", alice, True): 1}
    assert [read["action"] for read in reads[first]["latest"]] == ["memory.get", "memory.get", "memory.list"]
    assert reads[first]["count"] == 3
    assert [row["action"] for row in reads[second]["by"]] == ["memory.list", "memory.history"]
    # Each read is an event of the log, at the same time.
    events = {one["event_id"]: one for one in found["events"]}
    for read in reads[first]["latest"]:
        assert first in events[read["event_id"]]["resource_ids"]
        assert events[read["event_id"]]["occurred_at"] == read["at"]
    assert of_bob not in str(found)


async def test_each_memory_says_what_was_done_to_it_and_by_whom(look: Looker, tmp_path: Path) -> None:
    (old,) = await look.store(sample_memory("alice"))
    with request_context(tenant_id=look.tenant_id, user_id="alice", roles={"member"}):
        await look.runtime.memory.update(old, {"content": "new"})
        new = await look.runtime.memory.supersede(old, sample_memory("alice", content="newer"), {})
        await look.runtime.memory.delete(new)
    found = await exported(look, "alice", tmp_path)
    records = {record["id"]: record for record in found["memories"]}
    done = {
        key: [(row["change"], row["actor"]["self"]) for row in record["changes"]["latest"]]
        for key, record in records.items()
    }
    assert done == {
        old: [("stored", False), ("updated", True), ("superseded", True)],
        new: [("stored", True), ("deleted", True)],
    }
    assert (records[new]["supersedes"], records[old]["superseded_by"]) == ([old], new)
    assert records[old]["stored_event"] == found["events"][0]["event_id"]


async def test_exports_are_told_as_reads_of_everything(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"), sample_memory("bob"))
    with request_context(tenant_id=look.tenant_id, roles={"tenant_admin"}):
        await look.runtime.transfer.export(tmp_path / "all.jsonl")
        await look.runtime.transfer.export(tmp_path / "alice.jsonl", user_id="alice")
        await look.runtime.transfer.export(tmp_path / "bob.jsonl", user_id="bob")
    await exported(look, "alice", tmp_path / "first")
    found = await exported(look, "alice", tmp_path / "second")
    actions = [read["action"] for read in found["person"]["wholesale_reads"]]
    assert actions == ["memory.export_all", "memory.export", "gdpr.export"]


async def test_the_activity_sums_up_the_events(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        for _ in range(3):
            await look.runtime.memory.retrieve("tabs", "alice")
    found = await exported(look, "alice", tmp_path)
    sums = {(row["action"], row["outcome"]): row["count"] for row in found["person"]["activity"]}
    assert sums == {("memory.store_many", "allowed"): 1, ("memory.retrieve", "allowed"): 3}
    assert sum(sums.values()) == found["person"]["counts"]["events"]


def test_what_was_refused_or_of_another_is_no_read() -> None:
    readings = Readings("alice", ["own-key"], ["m1"], [])
    readings.take(event(1, outcome="denied"))
    readings.take(event(2, resource_ids=["of-bob"]))
    readings.take(event(3, action="memory.export", subject_id="bob", actor=event(0)["actor"] | {"id": "alice"}))
    assert readings.reads("m1")["count"] == 0
    assert readings.wholesale == []


def test_a_hundred_thousand_reads_take_no_more_memory_than_a_thousand() -> None:
    def taken(count: int) -> int:
        tracemalloc.start()
        readings = Readings("alice", [], ["m1", "m2"], [])
        for number in range(count):
            readings.take(event(number))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        reads: Any = readings.reads("m1")
        assert (reads["count"], len(reads["latest"])) == (count, LATEST_READS)
        assert reads["latest"][-1]["event_id"] == f"e{count - 1}"
        return size

    # Kept one by one they would take 20 MB.
    assert taken(100_000) < taken(1_000) + 1_000_000
