"""Laws of the export: everything that is kept of a person, nothing of anybody else, in files for one reader."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cloud import request_context
from cloud.gdpr.catalog import CATALOG, Kind
from cloud.gdpr.export import FILES
from cloud.gdpr.model import ExportBundle
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, PermissionDeniedError, ProviderUnavailableError
from src.memory.schemas import MemoryType
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker

FULL = {
    "content": "Grüße aus Zürich \u2028 🦊",
    "memory_type": MemoryType.DECISION,
    "confidence": 0.25,
    "source": "interview",
    "raw_source": "the whole text",
    "extraction_version": 3,
    "metadata": {"project": {"name": "orrin"}, "tags": [1, None, True]},
    "provenance": {"by": "extractor"},
}


def read(path: Path) -> list[dict[str, Any]]:
    # Not `splitlines`: it also splits at U+2028, which JSON leaves as it is.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def valid(directory: Path) -> None:
    """Every record is as the schema in the same directory says."""
    for name in FILES:
        published = json.loads((directory / f"{name.partition('.')[0]}.schema.json").read_text("utf-8"))
        validator = Draft202012Validator(published, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for number, record in enumerate(read(directory / name), start=1):
            faults = [f"{name}:{number}: {fault.json_path}: {fault.message}" for fault in validator.iter_errors(record)]
            assert faults == []


async def exported(look: Looker, user_id: str, directory: Path) -> dict[str, Any]:
    bundle = await look.runtime.gdpr.export_user_data(user_id, look.tenant_id, directory)
    assert isinstance(bundle, ExportBundle)
    assert {path.name for path in directory.iterdir()} == set(bundle.files) > set(FILES)
    valid(directory)
    (person,) = read(directory / "person.json")
    assert person["counts"] == bundle.counts
    return {
        "person": person,
        "memories": read(directory / "memories.jsonl"),
        "events": read(directory / "events.jsonl"),
    }


async def test_an_export_holds_every_memory_whatever_became_of_it(look: Looker, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    full, deleted, expired = await look.store(
        sample_memory("alice", **FULL), sample_memory("alice"), sample_memory("alice", expires_at=soon)
    )
    await look.store(sample_memory("bob", content="of bob alone"))
    await look.runtime.drain()
    (waiting,) = await look.store(sample_memory("alice", content="not materialized yet"))
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(deleted)
    while datetime.now(UTC) < soon:
        look.runtime._installation.materializer().expire()
    look.runtime._installation.materializer().expire()

    found = await exported(look, "alice", tmp_path / "out")
    memories = {memory["id"]: memory for memory in found["memories"]}
    assert {memory_id: memory["state"] for memory_id, memory in memories.items()} == {
        full: "active",
        deleted: "deleted",
        expired: "expired",
        waiting: "active",
    }
    told = memories[full]
    assert {name: told[name] for name in FULL} == FULL | {"memory_type": "decision"}
    assert told["user_id"] == "alice"
    assert (told["revision"], told["deleted_at"], told["expires_at"]) == (1, None, None)
    assert told["size_bytes"] > 100
    assert datetime.fromisoformat(told["created_at"]) <= datetime.fromisoformat(told["stored_at"])
    assert len(told["embedding"]) == look.runtime.pixeltable_config.vectorizer.dimensions
    assert memories[deleted]["deleted_at"] is not None
    assert datetime.fromisoformat(memories[expired]["expires_at"]) == soon
    assert found["person"]["counts"]["memories"] == 4
    assert "of bob alone" not in (tmp_path / "out" / "memories.jsonl").read_text()


async def test_an_export_holds_the_events_by_and_about_the_person_with_what_was_said(
    look: Looker, tmp_path: Path
) -> None:
    (mine,) = await look.store(sample_memory("alice"))
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        both = await look.runtime.memory.store_many([sample_memory("bob"), sample_memory("alice")], {})
    with request_context(tenant_id=look.tenant_id, user_id="alice", roles={"member"}):
        await look.runtime.memory.retrieve("tabs", "alice")
    with request_context(tenant_id=look.tenant_id, user_id="bob", roles={"member"}):
        await look.runtime.memory.retrieve("tabs", "bob")
    details: dict[str, object] = {"tenant_id": look.tenant_id, "ip": "::1", "note": "\ud800"}
    look.runtime.audit.log_event("login", "alice", "door", "open", "success", details)
    look.runtime.audit.log_event("login", "bob", "door", "open", "success", {"tenant_id": look.tenant_id})
    await look.runtime.gdpr.delete_user_data("alice", look.tenant_id)
    events = (await exported(look, "alice", tmp_path))["events"]
    stored, together, retrieved, external, previewed = events
    assert [event["action"] for event in (stored, together)] == ["memory.store_many", "memory.store_many"]
    assert [event["action"] for event in (retrieved, external, previewed)] == [
        "memory.retrieve",
        "external.event",
        "gdpr.preview",
    ]
    assert (stored["resource_ids"], together["resource_ids"]) == ([mine], [both[1]])
    said = external["said"]
    assert said["details"]["note"] == "\ud800"
    assert (said["event_type"], said["resource"], said["details"]["ip"]) == ("login", "door", "::1")
    alice, bob = str(look.subject("alice")), str(look.subject("bob"))
    for event in events:
        assert alice in (event["subject_id"], event["actor"]["id"], *event.get("subject_ids", ()))
        assert bob not in json.dumps(event)


async def test_an_export_tells_what_else_is_kept_of_the_person_and_no_secret(look: Looker, tmp_path: Path) -> None:
    ids = await look.store(sample_memory("alice"), idempotency_key="alice's own key")
    key = look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice", ip_ranges=["192.0.2.7"])
    secret = key.split("_")[2]
    look.runtime.api_keys.create(look.tenant_id, roles={"service"})
    person = (await exported(look, "alice", tmp_path))["person"]
    assert (person["user_id"], person["tenant_id"]) == ("alice", look.tenant_id)
    assert person["subject_id"] == look.subject("alice")
    assert [row["state"] for row in person["subjects"]] == ["active"]
    assert [(row["roles"], row["ip_ranges"]) for row in person["api_keys"]] == [(["member"], ["192.0.2.7/32"])]
    assert "last_used_at" in person["api_keys"][0]
    assert [row["memory_ids"] for row in person["idempotency_keys"]] == [ids]
    assert person["erasures"] == []
    written = "".join((tmp_path / name).read_text() for name in FILES)
    assert secret not in written
    assert "secret_hash" not in written
    assert "alice's own key" not in written


async def test_the_export_goes_by_the_data_map(look: Looker, tmp_path: Path) -> None:
    """Every place that can hold something about a person is told in a file, or says why it cannot be."""
    silent = {place.name for place in CATALOG if place.exported_in is None}
    personal = {
        place.name
        for place in CATALOG
        # Caches, files and what left the installation hold copies of what these tell.
        if place.is_personal and place.kind in (Kind.CONTROL_TABLE, Kind.PIXELTABLE_TABLE, Kind.KEYRING)
    }
    assert personal.isdisjoint(silent), "a place about people that no export tells of"
    assert {place.exported_in for place in CATALOG} - {None} == set(FILES)

    (memory_id,) = await look.store(sample_memory("alice"), idempotency_key="k")
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.update(memory_id, {"content": "Uses spaces"})
        await look.runtime.memory.get_by_id(memory_id)
    look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    review = datetime.now(UTC) + timedelta(days=30)
    await look.runtime.gdpr.hold(look.tenant_id, user_id="alice", reason="r", authority="a", review_at=review)
    found = await exported(look, "alice", tmp_path)
    tables = {place.name.removeprefix("control.") for place in CATALOG if place.exported_in == "person.json"}
    tables -= {"keyring.subject"}
    assert tables <= found["person"].keys()
    assert found["memories"][0]["last_accessed_at"] is not None, "what is noted of reads is told too"
    for table in tables:
        assert found["person"][table], f"{table} has a row about the person that is not told"


async def test_the_files_are_for_one_reader(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    await exported(look, "alice", tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").iterdir()} == {0o600}


async def test_an_export_mixes_with_nothing(look: Looker, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for directory in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError):
            await look.runtime.gdpr.export_user_data("alice", look.tenant_id, directory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "notes.txt"]
    assert [e["outcome"] for e in look.events() if e["action"] == "gdpr.export"] == ["failed"] * 3


async def test_an_export_that_cannot_be_recorded_leaves_no_file(
    look: Looker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await look.store(sample_memory("alice"))

    def unavailable(*_: object, **__: object) -> None:
        raise ProviderUnavailableError("control plane")

    with monkeypatch.context() as broken:
        broken.setattr(look.runtime.audit, "record", unavailable)
        with pytest.raises(ProviderUnavailableError):
            await look.runtime.gdpr.export_user_data("alice", look.tenant_id, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


async def test_an_export_of_nobody_is_empty_and_makes_nobody(look: Looker, tmp_path: Path) -> None:
    found = await exported(look, "nobody", tmp_path)
    assert (found["memories"], found["events"]) == ([], [])
    assert (found["person"]["subject_id"], found["person"]["counts"]) == (None, {"memories": 0, "events": 0})
    assert look.subject("nobody") is None


async def test_an_export_is_recorded_without_the_person(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice@example.com"))
    with request_context(tenant_id=look.tenant_id, user_id="dana", roles={"tenant_admin"}):
        await exported(look, "alice@example.com", tmp_path)
    event = look.events()[-1]
    assert (event["action"], event["outcome"], event["counts"]["memories"]) == ("gdpr.export", "allowed", 1)
    assert (event["subject_id"], event["actor"]["id"]) == (look.subject("alice@example.com"), look.subject("dana"))
    assert "alice" not in json.dumps(look.events())


@pytest.mark.parametrize("role", ["service", "member", "auditor", "operator"])
async def test_only_an_administrator_exports(look: Looker, role: str, tmp_path: Path) -> None:
    with (
        request_context(tenant_id=look.tenant_id, user_id="alice", roles={role}),
        pytest.raises(PermissionDeniedError),
    ):
        await look.runtime.gdpr.export_user_data("alice", look.tenant_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_after_an_erasure_an_export_is_empty(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    look.runtime.audit.log_event("login", "alice", "door", "open", "success", {"tenant_id": look.tenant_id})
    await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    found = await exported(look, "alice", tmp_path)
    assert (found["memories"], found["events"], found["person"]["subject_id"]) == ([], [], None)


async def test_an_erasure_under_way_is_told(look: Looker, tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818 - stands for the end of a process
        pass

    def die() -> None:
        raise Killed

    await look.store(sample_memory("alice"))
    failpoints.arm("erase.frozen", die)
    with pytest.raises(Killed):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    found = await exported(look, "alice", tmp_path)
    assert [row["state"] for row in found["person"]["erasures"]] == ["frozen"]
    assert len(found["memories"]) == 1
    look.runtime.gdpr.resume()
