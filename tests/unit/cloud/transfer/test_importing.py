"""An import stores every line that is a memory, exactly once, however often and after whatever it is repeated."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    ConfigurationError,
    InvalidFilterError,
    PermissionDeniedError,
    QuotaExceededError,
    UnreadableFileError,
)
from cloud.transfer import importing
from cloud.transfer.checkpoints import FileCheckpoints
from cloud.transfer.model import Position
from cloud.transfer.ports import Checkpoint
from cloud.transfer.seen import SeenIds
from cloud.transfer.service import CloudTransfer
from tests.unit.cloud.transfer.conftest import everything, imported, lines, written


def now() -> datetime:
    return datetime.now(UTC)


async def test_importing_again_stores_nothing_twice(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 700), ("bob", 3)))
    first, second = [await imported(runtime, tenant_id, path) for _ in range(2)]
    assert (first.entries, first.stored, first.repeated, first.failed) == (703, 703, 0, 0)
    assert (second.entries, second.stored, second.repeated, second.failed) == (703, 0, 703, 0)
    assert len(await everything(runtime, tenant_id, "alice")) == 700
    assert len(await everything(runtime, tenant_id, "bob")) == 3


async def test_after_a_rotation_of_the_tenants_key_importing_again_stores_nothing_twice(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 4), ("bob", 3)))
    first = await imported(runtime, tenant_id, path)
    for _ in range(2):
        runtime.keyring.rotate_tenant(tenant_id)
        again = await imported(runtime, tenant_id, path)
        assert (again.import_id, again.stored, again.repeated) == (first.import_id, 0, 7)
    assert len(await everything(runtime, tenant_id, "alice")) == 4


async def test_after_an_erasure_importing_again_doubles_nobody_else(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 4), ("bob", 4)))
    await imported(runtime, tenant_id, path)
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    again = await imported(runtime, tenant_id, path)
    assert (again.stored, again.repeated) == (4, 4)
    assert len(await everything(runtime, tenant_id, "bob")) == 4


async def test_the_same_lines_in_another_file_are_other_memories(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 2)))
    await imported(runtime, tenant_id, path)
    path.write_text(path.read_text() + "\n", "utf-8")
    assert (await imported(runtime, tenant_id, path)).stored == 2


async def test_another_tenant_imports_the_same_file_for_itself(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    other = f"{tenant_id}-other"
    runtime.tenants.create(other, plan="team")
    path = written(tmp_path / "m.jsonl", lines(("alice", 2)))
    assert [(await imported(runtime, tenant, path)).stored for tenant in (tenant_id, other)] == [2, 2]


async def test_lines_at_fault_are_numbered_and_the_others_stored(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 3)))
    good = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([b"{", good[0], b"", b"\xff", good[1], b'{"user_id": ""}', good[2]]))
    report = await imported(runtime, tenant_id, path)
    assert (report.entries, report.stored, report.failed) == (6, 3, 3)
    assert [fault.position.number for fault in report.faults] == [1, 4, 6]


async def test_a_memory_that_expired_since_does_not_bring_the_others_back_double(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.jsonl", lines(("alice", 3)))
    dated = {"user_id": "alice", "content": "soon over", "memory_type": "fact", "source": "test"}
    dated["expires_at"] = (now() + timedelta(hours=1)).isoformat()
    path.write_text(path.read_text() + "\n" + json.dumps(dated), "utf-8")
    assert (await imported(runtime, tenant_id, path)).stored == 4
    config = dataclasses.replace(runtime.pixeltable_config, clock=lambda: now() + timedelta(hours=2))
    later_on = CloudTransfer(
        config, runtime.memory, runtime.transfer._admissions, runtime.audit, FileCheckpoints(tmp_path / "checkpoints")
    )
    with request_context(tenant_id=tenant_id, roles={"service"}):
        later = await later_on.import_file(path)
    assert (later.stored, later.repeated, [fault.position.number for fault in later.faults]) == (0, 3, [4])
    assert len(await everything(runtime, tenant_id, "alice")) == 4


async def test_a_used_up_quota_stops_the_import_and_it_goes_on_there(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    small = f"{tenant_id}-small"
    runtime.tenants.create(small, plan="team", limits={"memories": 5})
    path = written(tmp_path / "m.jsonl", lines(("alice", 3), ("bob", 3)))
    report = await imported(runtime, small, path)
    assert isinstance(report.stopped, QuotaExceededError)
    # People are stored side by side: one of the two fits, and which one is nobody's promise.
    assert report.stored == 3
    assert report.stopped_at in (Position(1), Position(2))
    with request_context(tenant_id=small, roles={"service"}):
        for user_id in ("alice", "bob"):
            for memory in await everything(runtime, small, user_id):
                await runtime.memory.delete(memory.id or "")
    again = await imported(runtime, small, path)
    # What was deleted meanwhile does not come back: it was stored once.
    assert (again.entries, again.stored, again.repeated, again.stopped) == (6, 3, 3, None)


async def test_times_and_metadata_are_kept(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    made = {"created_at": "2026-01-08T07:55:14Z", "metadata": {"project": "skylark"}, "confidence": 0.5}
    await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 1), **made)))
    (found,) = await everything(runtime, tenant_id, "alice")
    assert (found.created_at, found.metadata, found.confidence) == (
        datetime(2026, 1, 8, 7, 55, 14, tzinfo=UTC),
        {"project": "skylark"},
        0.5,
    )


class Interrupted(BaseException):
    """Ends a run where a power cut would."""


def small_chunks(monkeypatch: pytest.MonkeyPatch, size: int = 3) -> None:
    monkeypatch.setattr(importing, "CHUNK_ENTRIES", size)


class TestResuming:
    @pytest.mark.parametrize("rotated", [False, True])
    async def test_a_run_goes_on_after_the_last_checkpoint(
        self, rotated: bool, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_chunks(monkeypatch)
        path = written(tmp_path / "m.jsonl", lines(("alice", 10)))
        reached = iter(range(100))

        def cut_off() -> None:
            if next(reached) == 1:
                raise Interrupted

        failpoints.arm("import.checkpointed", cut_off)
        try:
            with pytest.raises(Interrupted):
                await imported(runtime, tenant_id, path)
        finally:
            failpoints.disarm_all()
        if rotated:
            runtime.keyring.rotate_tenant(tenant_id)
        report = await imported(runtime, tenant_id, path)
        assert report.resumed_after == Position(6)
        assert (report.entries, report.stored, report.repeated, report.batches) == (10, 10, 0, 2)
        assert len(await everything(runtime, tenant_id, "alice")) == 10

    async def test_a_finished_import_leaves_no_checkpoint(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, home: Path
    ) -> None:
        before = set((home / "imports").iterdir())
        await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 2))))
        assert set((home / "imports").iterdir()) == before

    async def test_a_checkpoint_says_nothing_about_anybody(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, home: Path
    ) -> None:
        small = f"{tenant_id}-small"
        runtime.tenants.create(small, plan="team", limits={"memories": 10_000})
        path = written(tmp_path / "alice.jsonl", lines(("alice", 10_000), ("bob", 1)))
        report = await imported(runtime, small, path)
        assert isinstance(report.stopped, QuotaExceededError)
        checkpoint = home / "imports" / f"{report.import_id}.json"
        said = json.loads(checkpoint.read_text())
        assert said.keys() == {"schema", "position", "counts", "report_bytes"}
        assert report.import_id not in hashlib.sha256(path.read_bytes()).hexdigest()
        checkpoint.unlink()

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1, "position": ["x", 0]}'])
    async def test_a_damaged_checkpoint_costs_time_and_nothing_else(
        self, damage: bytes, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, home: Path
    ) -> None:
        path = written(tmp_path / "m.jsonl", lines(("alice", 2)))
        first = await imported(runtime, tenant_id, path)
        (home / "imports" / f"{first.import_id}.json").write_bytes(damage)
        again = await imported(runtime, tenant_id, path)
        assert (again.resumed_after, again.stored, again.repeated) == (None, 0, 2)

    async def test_more_than_a_batch_of_one_person_is_stored_once(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importing, "BATCH_ENTRIES", 2)
        documents = lines(("alice", 7), ("bob", 2))
        soon = {**documents[0], "content": "soon over", "expires_at": (now() + timedelta(hours=1)).isoformat()}
        path = written(tmp_path / "m.jsonl", [documents[0], soon, *documents[1:]])
        first = await imported(runtime, tenant_id, path)
        assert (first.stored, first.batches) == (10, 5)
        config = dataclasses.replace(runtime.pixeltable_config, clock=lambda: now() + timedelta(hours=2))
        later_on = CloudTransfer(
            config, runtime.memory, runtime.transfer._admissions, runtime.audit, FileCheckpoints(tmp_path / "c")
        )
        with request_context(tenant_id=tenant_id, roles={"service"}):
            later = await later_on.import_file(path)
        assert (later.stored, later.repeated, later.failed) == (0, 9, 1)
        assert len(await everything(runtime, tenant_id, "alice")) == 8


class TestReport:
    async def test_every_fault_stands_in_it_once_however_often_the_run_was_cut_off(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_chunks(monkeypatch)
        path, out = tmp_path / "m.jsonl", tmp_path / "report.jsonl"
        good = json.dumps(lines(("alice", 1))[0])
        path.write_text("\n".join([good, "bad", good, "bad", "bad", good, "bad", good]))
        for cut in ("import.chunk_stored", "import.checkpointed", "import.chunk_stored"):

            def cut_off() -> None:
                raise Interrupted

            failpoints.arm(cut, cut_off)
            try:
                with pytest.raises(Interrupted):
                    await imported(runtime, tenant_id, path, report=out)
            finally:
                failpoints.disarm_all()
        report = await imported(runtime, tenant_id, path, report=out)
        head, *faults, last = [json.loads(line) for line in out.read_bytes().splitlines()]
        assert head == {"import": report.import_id}
        assert [fault["entry"] for fault in faults] == [2, 4, 5, 7]
        counts = last["summary"]
        assert (counts["entries"], counts["stored"] + counts["repeated"], counts["failed"]) == (8, 4, 4)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600

    async def test_another_file_is_not_overwritten(self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
        out = tmp_path / "notes.txt"
        out.write_text("mine")
        path = written(tmp_path / "m.jsonl", lines(("alice", 1)))
        with pytest.raises(ConfigurationError, match="not the report of this import"):
            await imported(runtime, tenant_id, path, report=out)
        assert out.read_text() == "mine"
        assert await everything(runtime, tenant_id, "alice") == []


class TestIds:
    async def test_an_id_that_stands_twice_counts_where_it_stands_first(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_chunks(monkeypatch, 2)
        documents = [{**one, "id": own} for one, own in zip(lines(("alice", 6)), "abaccb", strict=True)]
        report = await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", documents))
        assert [fault.position.number for fault in report.faults] == [3, 5, 6]
        assert {memory.content for memory in await everything(runtime, tenant_id, "alice")} == {
            "alice 0",
            "alice 1",
            "alice 3",
        }

    @given(st.lists(st.none() | st.text(max_size=2), max_size=60), st.integers(1, 9))
    def test_a_repetition_is_found_across_questions(self, ids: list[str | None], size: int) -> None:
        seen, shown = SeenIds(), set[str]()
        for at in range(0, len(ids), size):
            part = ids[at : at + size]
            expected = set()
            for place, one in enumerate(part):
                if one is not None and one in shown:
                    expected.add(place)
                elif one is not None:
                    shown.add(one)
            assert seen.repeated(part) == expected


class TestWhoMayImport:
    async def test_a_member_imports_its_own_and_nobody_elses(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        own = written(tmp_path / "own.jsonl", lines(("alice", 2)))
        others = written(tmp_path / "others.jsonl", lines(("bob", 2)))
        with request_context(tenant_id=tenant_id, user_id="alice", roles={"member"}):
            assert (await runtime.transfer.import_file(own)).stored == 2
            report = await runtime.transfer.import_file(others)
        assert isinstance(report.stopped, PermissionDeniedError)
        assert await everything(runtime, tenant_id, "bob") == []

    @pytest.mark.parametrize("role", ["auditor", "operator"])
    async def test_other_roles_import_nothing(
        self, role: str, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        with pytest.raises(PermissionDeniedError):
            await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 1))), role)

    async def test_the_person_given_is_that_of_entries_that_name_nobody(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        named, nobody = lines(("bob", 1))[0], lines(("x", 1))[0]
        del nobody["user_id"]
        path = written(tmp_path / "m.jsonl", [named, nobody])
        assert (await imported(runtime, tenant_id, path, user_id="alice")).stored == 2
        assert [len(await everything(runtime, tenant_id, user)) for user in ("alice", "bob", "x")] == [1, 1, 0]
        with pytest.raises(InvalidFilterError):
            await imported(runtime, tenant_id, path, user_id="a\nb")


class TestFiles:
    async def test_a_gzip_file_is_another_file_of_the_same_lines(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        packed = tmp_path / "m.jsonl.gz"
        packed.write_bytes(gzip.compress(written(tmp_path / "m", lines(("alice", 3))).read_bytes()))
        assert (await imported(runtime, tenant_id, packed)).stored == 3

    async def test_what_stands_before_damage_is_stored(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        packed = tmp_path / "m.jsonl.gz"
        whole = gzip.compress(written(tmp_path / "m", lines(("alice", 900), metadata={"a": "x" * 200})).read_bytes(), 0)
        packed.write_bytes(whole[: len(whole) // 2])
        report = await imported(runtime, tenant_id, packed)
        assert isinstance(report.stopped, UnreadableFileError)
        assert report.stopped.reason == "compression"
        assert 0 < report.stored == len(await everything(runtime, tenant_id, "alice")) < 900

    async def test_a_file_that_changes_meanwhile_ends_the_import(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_chunks(monkeypatch)
        path = written(tmp_path / "m.jsonl", lines(("alice", 10)))

        def change() -> None:
            with path.open("a") as file:
                file.write("\n")

        failpoints.arm("import.begun", change)
        try:
            report = await imported(runtime, tenant_id, path)
        finally:
            failpoints.disarm_all()
        assert isinstance(report.stopped, UnreadableFileError)
        assert report.stopped.reason == "changed"


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = FileCheckpoints(tmp_path / "imports")
    checkpoint = Checkpoint(Position(7, 3), {"entries": 9, "stored": 8, "repeated": 0, "failed": 1}, 120)
    kept.save("a", checkpoint)
    assert kept.load("a") == checkpoint
    kept.remove("a")
    kept.remove("a")
    assert kept.load("a") is None
