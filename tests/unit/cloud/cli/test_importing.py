"""An import stores every line that is a memory, exactly once, however often and after whatever it is repeated."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloud import CloudRuntime, request_context
from cloud.cli.importing import ImportReport, file_digest, import_file
from cloud.kernel.errors import QuotaExceededError
from src.memory.schemas import Memory


def now() -> datetime:
    return datetime.now(UTC)


def written(path: Path, *people: tuple[str, int], **changes: object) -> Path:
    """A file with so many memories of each person, in turns."""
    lines = [
        json.dumps({"user_id": user, "content": f"{user} {at}", "memory_type": "fact", "source": "test", **changes})
        for at in range(max(count for _, count in people))
        for user, count in people
        if at < count
    ]
    path.write_text("\n".join(lines), "utf-8")
    return path


async def imported(runtime: CloudRuntime, tenant_id: str, path: Path, role: str = "service") -> ImportReport:
    with request_context(tenant_id=tenant_id, roles={role}):
        return await import_file(runtime.memory, path, now=now)


async def everything(runtime: CloudRuntime, tenant_id: str, user_id: str) -> list[Memory]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return await runtime.memory.search(user_id, {}, limit=1_000)


async def test_importing_again_stores_nothing_twice(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", ("alice", 700), ("bob", 3))
    first, second = [await imported(runtime, tenant_id, path) for _ in range(2)]
    assert (first.lines, first.stored, first.repeated, first.failed) == (703, 703, 0, 0)
    assert (second.lines, second.stored, second.repeated, second.failed) == (703, 0, 703, 0)
    assert len(await everything(runtime, tenant_id, "alice")) == 700
    assert len(await everything(runtime, tenant_id, "bob")) == 3


async def test_after_an_erasure_importing_again_doubles_nobody_else(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", ("alice", 4), ("bob", 4))
    await imported(runtime, tenant_id, path)
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    again = await imported(runtime, tenant_id, path)
    assert (again.stored, again.repeated) == (4, 4)
    assert len(await everything(runtime, tenant_id, "bob")) == 4


async def test_the_same_lines_in_another_file_are_other_memories(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", ("alice", 2))
    await imported(runtime, tenant_id, path)
    path.write_text(path.read_text() + "\n", "utf-8")
    assert (await imported(runtime, tenant_id, path)).stored == 2


async def test_another_tenant_imports_the_same_file_for_itself(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    other = f"{tenant_id}-other"
    runtime.tenants.create(other, plan="team")
    path = written(tmp_path / "m.jsonl", ("alice", 2))
    assert [(await imported(runtime, tenant, path)).stored for tenant in (tenant_id, other)] == [2, 2]


async def test_lines_at_fault_are_numbered_and_the_others_stored(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", ("alice", 3))
    good = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([b"{", good[0], b"", b"\xff", good[1], b'{"user_id": ""}', good[2]]))
    report = await imported(runtime, tenant_id, path)
    assert (report.lines, report.stored, report.failed) == (6, 3, 3)
    assert [fault.line for fault in report.faults] == [1, 4, 6]


async def test_a_memory_that_expired_since_does_not_bring_the_others_back_double(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", ("alice", 3))
    dated = {"user_id": "alice", "content": "soon over", "memory_type": "fact", "source": "test"}
    dated["expires_at"] = (now() + timedelta(hours=1)).isoformat()
    path.write_text(path.read_text() + "\n" + json.dumps(dated), "utf-8")
    assert (await imported(runtime, tenant_id, path)).stored == 4
    with request_context(tenant_id=tenant_id, roles={"service"}):
        later = await import_file(runtime.memory, path, now=lambda: now() + timedelta(hours=2))
    assert (later.stored, later.repeated, [fault.line for fault in later.faults]) == (0, 3, [4])
    assert len(await everything(runtime, tenant_id, "alice")) == 4


async def test_a_used_up_quota_stops_the_import_and_it_goes_on_there(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    small = f"{tenant_id}-small"
    runtime.tenants.create(small, plan="team", limits={"memories": 5})
    path = written(tmp_path / "m.jsonl", ("alice", 3), ("bob", 3), ("carol", 1))
    report = await imported(runtime, small, path)
    assert isinstance(report.stopped, QuotaExceededError)
    assert (report.stored, report.stopped_at) == (3, 2)
    room = [memory.id for memory in await everything(runtime, small, "alice")]
    with request_context(tenant_id=small, roles={"service"}):
        for memory_id in room:
            await runtime.memory.delete(memory_id or "")
    again = await imported(runtime, small, path)
    # What was deleted meanwhile does not come back: it was stored once.
    assert (again.stored, again.repeated, again.stopped) == (4, 3, None)


async def test_times_and_metadata_are_kept(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    made = {"created_at": "2026-01-08T07:55:14Z", "metadata": {"project": "skylark"}, "confidence": 0.5}
    await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", ("alice", 1), **made))
    (found,) = await everything(runtime, tenant_id, "alice")
    assert (found.created_at, found.metadata, found.confidence) == (
        datetime(2026, 1, 8, 7, 55, 14, tzinfo=UTC),
        {"project": "skylark"},
        0.5,
    )


def test_a_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
