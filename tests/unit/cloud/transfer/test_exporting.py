"""An export holds what its caller may have, comes back without a loss, and is there whole or not at all."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import hashlib
import itertools
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    ConfigurationError,
    InvalidFilterError,
    PermissionDeniedError,
    ProviderUnavailableError,
    UnreadableFileError,
)
from cloud.transfer.model import Manifest
from cloud.transfer.verify import verify_export
from src.memory.schemas import Memory
from src.testing.samples import sample_memory
from src.testing.strategies import memories as any_memories
from tests.support.loops import LoopThread, loop_thread
from tests.unit.cloud.transfer.conftest import everything, exported, imported, lines, written

_numbers = itertools.count(1)


async def stored(runtime: CloudRuntime, tenant_id: str, *memories: Memory) -> list[str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return await runtime.memory.store_many(memories, {})


def documents(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


class TestContent:
    async def test_a_line_has_every_field_and_the_memories_id(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        made = sample_memory(
            "alice",
            content="Prefers tea\u2028é",
            raw_source="said so",
            confidence=0.25,
            created_at=datetime(2026, 1, 8, 7, 55, 14, 5, tzinfo=UTC),
            metadata={"b": 1.0, "a": [1, None]},
            provenance={"page": 3},
        )
        (memory_id,) = await stored(runtime, tenant_id, made)
        await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert (tmp_path / "e.jsonl").read_text("utf-8") == (
            f'{{"id":"{memory_id}","confidence":0.25,"content":"Prefers tea\u2028é",'
            '"created_at":"2026-01-08T07:55:14.000005+00:00","expires_at":null,"extraction_version":1,'
            '"memory_type":"preference","metadata":{"a":[1,null],"b":1.0},"provenance":{"page":3},'
            '"raw_source":"said so","source":"conversation","user_id":"alice"}\n'
        )

    @pytest.mark.parametrize("temperature", ["hot", "cold"])
    async def test_everybody_is_in_it_whichever_plane_holds_them(
        self, temperature: str, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 30), ("bob", 3))))
        if temperature == "cold":
            await runtime.drain()
            runtime.pixeltable_config.hot.clear()
        await stored(runtime, tenant_id, sample_memory("carol"))
        report = await exported(runtime, tenant_id, tmp_path / "e.jsonl.gz")
        assert (report.manifest.memories, report.manifest.people) == (34, 3)
        found = documents(tmp_path / "e.jsonl.gz")
        assert len(found) == 34
        assert {one["user_id"] for one in found} == {"alice", "bob", "carol"}

    async def test_what_is_deleted_expired_or_erased_is_not_in_it(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        gone, _, _, _ = await stored(
            runtime,
            tenant_id,
            sample_memory("alice", content="deleted"),
            sample_memory("alice", content="expired", expires_at=soon),
            sample_memory("alice", content="kept"),
            sample_memory("bob", content="erased"),
        )
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await runtime.memory.delete(gone)
        await runtime.gdpr.delete_user_data("bob", tenant_id, confirmed=True)
        await asyncio.sleep(1.1)
        await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert [one["content"] for one in documents(tmp_path / "e.jsonl")] == ["kept"]
        report = await exported(runtime, tenant_id, tmp_path / "all.jsonl", include_invalid=True)
        assert {one["content"] for one in documents(tmp_path / "all.jsonl")} == {"kept", "expired"}
        assert report.manifest.include_invalid

    async def test_who_is_being_erased_is_not_in_it(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice", content="kept"), sample_memory("bob"))

        def stop() -> None:
            raise ProviderUnavailableError("erasure")

        failpoints.arm("erase.frozen", stop)
        try:
            with pytest.raises(ProviderUnavailableError):
                await runtime.gdpr.delete_user_data("bob", tenant_id, confirmed=True)
        finally:
            failpoints.disarm_all()
        await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert [one["content"] for one in documents(tmp_path / "e.jsonl")] == ["kept"]
        assert runtime.gdpr.resume() == 1

    async def test_a_filter_chooses_and_a_query_is_refused(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(
            runtime,
            tenant_id,
            sample_memory("alice", metadata={"project": "skylark"}),
            sample_memory("bob", metadata={"project": "harbour"}),
        )
        report = await exported(runtime, tenant_id, tmp_path / "e.jsonl", filters={"metadata.project": "skylark"})
        assert (report.manifest.memories, report.manifest.people, report.manifest.filtered) == (1, 1, True)
        for filters in ({"query": "tea"}, {"colour": "red"}):
            with pytest.raises(InvalidFilterError):
                await exported(runtime, tenant_id, tmp_path / "f.jsonl", filters=filters)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["e.jsonl", "e.jsonl.manifest.json"]

    async def test_nothing_of_another_tenant_is_in_it(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        other = f"{tenant_id}2"
        runtime.tenants.create(other, plan="team")
        await stored(runtime, other, sample_memory("alice", content="of the other one"))
        await stored(runtime, tenant_id, sample_memory("alice", content="mine"))
        await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert [one["content"] for one in documents(tmp_path / "e.jsonl")] == ["mine"]

    async def test_an_empty_export_is_one_too(self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
        report = await exported(runtime, tenant_id, tmp_path / "e.jsonl", user_id="nobody yet")
        assert (report.manifest.memories, (tmp_path / "e.jsonl").read_bytes()) == (0, b"")
        assert verify_export(tmp_path / "e.jsonl") == report.manifest


class TestWhoMayExport:
    async def test_a_service_exports_a_person_and_not_everybody(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"), sample_memory("bob"))
        report = await exported(runtime, tenant_id, tmp_path / "a.jsonl", "service", user_id="alice")
        assert [one["user_id"] for one in documents(report.file)] == ["alice"]
        with pytest.raises(PermissionDeniedError):
            await exported(runtime, tenant_id, tmp_path / "e.jsonl", "service")

    async def test_a_member_exports_its_own_and_nobody_elses(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"), sample_memory("bob"))
        with request_context(tenant_id=tenant_id, user_id="alice", roles={"member"}):
            report = await runtime.transfer.export(tmp_path / "a.jsonl", user_id="alice")
            for user_id in ("bob", None):
                with pytest.raises(PermissionDeniedError):
                    await runtime.transfer.export(tmp_path / "b.jsonl", user_id=user_id)
        assert report.manifest.memories == 1
        assert not (tmp_path / "b.jsonl").exists()

    async def test_a_suspended_tenant_exports_and_imports_nothing(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        runtime.tenants.suspend(tenant_id)
        with pytest.raises(PermissionDeniedError, match="tenant_suspended"):
            await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        with pytest.raises(PermissionDeniedError, match="tenant_suspended"):
            await imported(runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 1))))

    async def test_a_tenant_suspended_meanwhile_gets_no_file(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"))
        failpoints.arm("export.person_written", lambda: contextvars.Context().run(runtime.tenants.suspend, tenant_id))
        try:
            with pytest.raises(PermissionDeniedError, match="tenant_suspended"):
                await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        finally:
            failpoints.disarm_all()
        assert list(tmp_path.iterdir()) == []


class TestFile:
    async def test_it_is_private_and_never_overwritten(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        report = await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
        before = report.manifest_file.read_bytes()
        with pytest.raises(ConfigurationError, match="never overwrites"):
            await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert report.manifest_file.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2

    async def test_a_file_made_meanwhile_stays_and_the_export_fails(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "e.jsonl"
        failpoints.arm("export.recorded", lambda: path.write_text("mine") and None)
        try:
            with pytest.raises(ConfigurationError, match="never overwrites"):
                await exported(runtime, tenant_id, path)
        finally:
            failpoints.disarm_all()
        assert path.read_text() == "mine"

    async def test_two_exports_do_not_write_one_file(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"))
        results = await asyncio.gather(
            *(exported(runtime, tenant_id, tmp_path / "e.jsonl") for _ in range(4)), return_exceptions=True
        )
        assert sum(isinstance(one, ConfigurationError) for one in results) == 3
        assert verify_export(tmp_path / "e.jsonl").memories == 1
        assert len(list(tmp_path.iterdir())) == 2

    async def test_what_a_killed_export_left_is_replaced(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"))
        left = tmp_path / ".e.jsonl.part"
        left.write_bytes(b"x" * 10_000)
        left.chmod(0o644)
        await exported(runtime, tenant_id, tmp_path / "e.jsonl")
        assert verify_export(tmp_path / "e.jsonl").memories == 1
        assert stat.S_IMODE((tmp_path / "e.jsonl").stat().st_mode) == 0o600
        assert not left.exists()

    async def test_a_temporary_name_that_leads_elsewhere_is_not_followed(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / ".a.part").symlink_to(victim)
        os.link(victim, tmp_path / ".b.part")
        for name in ("a", "b"):
            with pytest.raises(ConfigurationError):
                await exported(runtime, tenant_id, tmp_path / name)
        assert victim.read_text() == "mine"

    async def test_a_place_that_cannot_be_written_is_named(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigurationError, match="cannot be written: No such file"):
            await exported(runtime, tenant_id, tmp_path / "missing" / "e.jsonl")

    async def test_a_failure_leaves_nothing(self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
        await stored(runtime, tenant_id, sample_memory("alice"), sample_memory("bob"))

        def fail() -> None:
            raise OSError(28, "No space left on device")

        for place in ("export.person_written", "export.written", "export.recorded"):
            failpoints.arm(place, fail)
            try:
                with pytest.raises(ConfigurationError, match="No space left"):
                    await exported(runtime, tenant_id, tmp_path / "e.jsonl.gz")
            finally:
                failpoints.disarm_all()
            assert list(tmp_path.iterdir()) == [], place


class TestManifest:
    async def made(self, runtime: CloudRuntime, tenant_id: str, path: Path) -> Manifest:
        await imported(runtime, tenant_id, written(path.with_name("m"), lines(("alice", 3), ("bob", 2))))
        return (await exported(runtime, tenant_id, path)).manifest

    async def test_another_program_computes_the_same_from_the_text_alone(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        manifest = await self.made(runtime, tenant_id, tmp_path / "e.jsonl")
        data = (tmp_path / "e.jsonl").read_bytes()
        total = 0
        for line in data.split(b"\n")[:-1]:
            document = json.loads(line)
            del document["id"]
            text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            total += int(hashlib.sha256(text.encode("utf-8")).hexdigest(), 16)
        assert manifest.content_hash == f"{total % 2**256:064x}"
        assert (manifest.sha256, manifest.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert (manifest.tenant_id, manifest.memories, manifest.people) == (tenant_id, 5, 2)

    @pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz"])
    async def test_an_export_that_was_cut_off_or_changed_is_refused(
        self, name: str, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        manifest = await self.made(runtime, tenant_id, path)
        assert verify_export(path) == manifest
        whole = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
        rows = whole.splitlines(keepends=True)
        for changed in (
            b"".join(rows[:-1]),
            whole[:-5],
            whole.replace(b"alice 1", b"alice 7"),
            b"".join(rows[::-1]),
            whole + rows[0],
            whole + b"\n",
            b"",
        ):
            path.write_bytes(gzip.compress(changed) if name.endswith("gz") else changed)
            with pytest.raises(UnreadableFileError) as caught:
                verify_export(path)
            assert caught.value.reason == "manifest"
            target = f"t{next(_numbers)}-target"
            runtime.tenants.create(target, plan="team")
            with pytest.raises(UnreadableFileError, match="manifest"):
                await imported(runtime, target, path)
            assert await everything(runtime, target, "alice") == []
        path.with_name(f"{name}.manifest.json").unlink()
        assert (await imported(runtime, target, path)).stored == 0

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"format": "luminescent-memories", "version": 2}',
         '{"format": "luminescent-memories", "version": 1, "memories": "3"}'],
    )  # fmt: skip
    def test_what_is_no_manifest_says_so(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "e.jsonl").write_bytes(b"")
        (tmp_path / "e.jsonl.manifest.json").write_text(text)
        with pytest.raises(UnreadableFileError) as caught:
            verify_export(tmp_path / "e.jsonl")
        assert caught.value.reason == "manifest"


class TestRoundTrip:
    async def test_an_export_comes_back_in_another_tenant_with_the_same_content_hash(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        await imported(
            runtime, tenant_id, written(tmp_path / "m.jsonl", lines(("alice", 40), ("bob", 3), metadata={"n": 1.0}))
        )
        first = await exported(runtime, tenant_id, tmp_path / "first.jsonl.gz")
        other = f"{tenant_id}-other"
        runtime.tenants.create(other, plan="team")
        report = await imported(runtime, other, first.file)
        assert (report.stored, report.failed) == (43, 0)
        second = await exported(runtime, other, tmp_path / "second.jsonl")
        assert second.manifest.content_hash == first.manifest.content_hash
        assert second.manifest.sha256 != first.manifest.sha256

    @given(memories=st.lists(any_memories(), min_size=1, max_size=6))
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_whatever_can_be_stored_comes_back_as_it_was(
        self, memories: list[Memory], runtime: CloudRuntime, tmp_path: Path
    ) -> None:
        number = next(_numbers)
        tenants = [f"round-{number}-{way}" for way in ("there", "back")]
        for tenant in tenants:
            runtime.tenants.create(tenant, plan="team")
        paths = [tmp_path / f"{tenant}.jsonl" for tenant in tenants]
        with loop_thread() as loop:
            first, second = _round(loop, runtime, tenants, paths, memories)
        assert first == second
        assert first["memories"] == len(memories)


def _round(
    loop: LoopThread, runtime: CloudRuntime, tenants: list[str], paths: list[Path], memories: list[Memory]
) -> tuple[dict[str, Any], dict[str, Any]]:
    there, back = tenants
    loop.run(stored(runtime, there, *memories))
    first = loop.run(exported(runtime, there, paths[0])).manifest
    report = loop.run(imported(runtime, back, paths[0]))
    assert (report.stored, report.failed, report.stopped) == (len(memories), 0, None)
    second = loop.run(exported(runtime, back, paths[1])).manifest
    return _content(first), _content(second)


def _content(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in ("memories", "people", "size_bytes", "content_hash")}
