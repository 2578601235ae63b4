"""Laws of taking an export elsewhere: into another tenant or to another user id it comes without a loss."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyrage import decrypt, x25519

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ConfigurationError, PermissionDeniedError, UnreadableFileError
from cloud.transfer.model import Format, ImportReport
from src.memory.schemas import Memory
from src.testing.samples import sample_memory
from src.testing.strategies import json_values
from src.testing.strategies import memories as any_memories
from tests.support.loops import loop_thread
from tests.unit.cloud.gdpr.conftest import Looker
from tests.unit.cloud.gdpr.test_export import read, valid
from tests.unit.cloud.transfer.conftest import everything, imported

_numbers = itertools.count(1)
EXCEPT = {"id", "last_accessed_at"}


def said(memories: list[Memory]) -> list[dict[str, Any]]:
    """All that memories say, in an order of its own."""
    return sorted((memory.model_dump(exclude=EXCEPT) for memory in memories), key=repr)


async def export(runtime: CloudRuntime, tenant_id: str, user_id: str, path: Path, **how: Any) -> Path:
    with request_context(tenant_id=tenant_id, roles={"tenant_admin"}):
        await runtime.gdpr.export_user_data(user_id, tenant_id, path, **how)
    return path


@pytest.fixture
def elsewhere(runtime: CloudRuntime) -> str:
    """Another tenant."""
    name = f"elsewhere-{next(_numbers)}"
    runtime.tenants.create(name, plan="team")
    return name


@pytest.fixture
async def person(look: Looker, tmp_path: Path) -> Path:
    """The export of a person with three memories in use, and one deleted and one replaced."""
    ids = await look.store(*(sample_memory("alice", content=f"tea {number}") for number in range(5)))
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(ids[0])
        await look.runtime.memory.supersede(ids[1], sample_memory("alice", content="newer"), {})
        await look.runtime.memory.get_by_id(ids[2])
        await look.runtime.memory.delete(ids[3])
    return await export(look.runtime, look.tenant_id, "alice", tmp_path / "person")


def counts(report: ImportReport) -> dict[str, int]:
    assert report.stopped is None
    return report.counts()


@given(st.lists(any_memories(users=st.just("alice")), min_size=1, max_size=6), json_values, st.integers(0, 5))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_can_be_stored_comes_back_field_by_field(
    runtime: CloudRuntime, tmp_path: Path, memories: list[Memory], provenance: Any, version: int
) -> None:
    number = next(_numbers)
    there, back = (f"person-{number}-{way}" for way in ("there", "back"))
    for tenant in (there, back):
        runtime.tenants.create(tenant, plan="team")
    memories[0] = memories[0].model_copy(update={"provenance": provenance, "extraction_version": version})
    with loop_thread() as loop, request_context(tenant_id=there, roles={"service"}):
        ids = loop.run(runtime.memory.store_many(memories, {}))
        made = loop.run(export(runtime, there, "alice", tmp_path / there))
        valid(made)
        report = loop.run(imported(runtime, back, made))
        assert counts(report) == {
            "entries": len(ids),
            "stored": len(ids),
            "repeated": 0,
            "failed": 0,
            "skipped": 0,
        }
        first = loop.run(everything(runtime, there, "alice"))
        second = loop.run(everything(runtime, back, "alice"))
    assert said(second) == said(first) == said(memories)
    assert not {memory.id for memory in second} & set(ids)


async def test_it_is_read_as_a_directory_a_file_and_an_archive(
    look: Looker, elsewhere: str, person: Path, tmp_path: Path
) -> None:
    identity = x25519.Identity.generate()
    locked = tmp_path / "x.zip.age"
    await export(look.runtime, look.tenant_id, "alice", locked, recipients=[str(identity.to_public())])
    (tmp_path / "x.zip").write_bytes(decrypt(locked.read_bytes(), [identity]))
    shutil.copy(person / "memories.jsonl", tmp_path / "renamed.txt")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress((person / "memories.jsonl").read_bytes()))
    for path in (person, tmp_path / "x.zip", tmp_path / "renamed.txt", tmp_path / "x.jsonl.gz"):
        report = await imported(look.runtime, elsewhere, path)
        assert report.format is Format.PERSON
        assert (report.entries, report.stored + report.repeated, report.skipped, report.failed) == (6, 3, 3, 0)
    for wanted in ("auto", "person", "jsonl"):
        with pytest.raises(UnreadableFileError, match="decrypt it first"):
            await imported(look.runtime, elsewhere, locked, format=wanted)


async def test_what_was_not_in_use_is_skipped_and_counted_unless_it_is_asked_for(
    look: Looker, elsewhere: str, person: Path
) -> None:
    report = await imported(look.runtime, elsewhere, person)
    assert counts(report) == {"entries": 6, "stored": 3, "repeated": 0, "failed": 0, "skipped": 3}
    assert {memory.content for memory in await everything(look.runtime, elsewhere, "alice")} == {
        "tea 2",
        "tea 4",
        "newer",
    }
    all_of_them = await imported(look.runtime, elsewhere, person, include_removed=True, as_user="everything")
    assert counts(all_of_them) == {"entries": 6, "stored": 6, "repeated": 0, "failed": 0, "skipped": 0}
    contents = sorted(memory.content for memory in await everything(look.runtime, elsewhere, "everything"))
    assert contents == ["newer", *(f"tea {number}" for number in range(5))]


async def test_it_can_become_another_persons(look: Looker, elsewhere: str, person: Path) -> None:
    for user in ("bob", "carol"):
        assert (await imported(look.runtime, elsewhere, person, as_user=user)).stored == 3
        assert {memory.user_id for memory in await everything(look.runtime, elsewhere, user)} == {user}
    assert await everything(look.runtime, elsewhere, "alice") == []
    again = await imported(look.runtime, elsewhere, person, as_user="bob")
    assert (again.stored, again.repeated) == (0, 3)


async def test_a_member_takes_it_as_its_own_and_nobody_elses(look: Looker, elsewhere: str, person: Path) -> None:
    with request_context(tenant_id=elsewhere, user_id="bob", roles={"member"}):
        with pytest.raises(PermissionDeniedError):
            await look.runtime.transfer.import_file(person, as_user="alice")
        report = await look.runtime.transfer.import_file(person)
        assert report.stored == 0
        assert isinstance(report.stopped, PermissionDeniedError)
        assert (await look.runtime.transfer.import_file(person, as_user="bob")).stored == 3


async def test_what_is_for_a_persons_export_is_refused_for_another_file(
    look: Looker, elsewhere: str, tmp_path: Path
) -> None:
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"user_id": "a", "content": "b", "memory_type": "fact", "source": "c"})
    )
    for wish in ({"as_user": "bob"}, {"include_removed": True}):
        with pytest.raises(ConfigurationError, match="person's export"):
            await imported(look.runtime, elsewhere, tmp_path / "m.jsonl", **wish)
    with pytest.raises(ConfigurationError, match="no export of a person"):
        await imported(look.runtime, elsewhere, tmp_path)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (b'{"$id": "urn:luminescent-cloud:person-export:3:memory"}', "newer"),
        (b'{"$id": "https://example.com/schema"}', "not that of a person's export"),
        (b"[]", "not that of a person's export"),
        (b"{", "not that of a person's export"),
    ],
)
async def test_a_version_that_is_not_known_is_refused(
    look: Looker, elsewhere: str, person: Path, tmp_path: Path, schema: bytes, message: str
) -> None:
    (person / "memories.schema.json").write_bytes(schema)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in person.iterdir():
            archive.write(path, path.name)
    for path in (person, tmp_path / "x.zip"):
        with pytest.raises(UnreadableFileError, match=message):
            await imported(look.runtime, elsewhere, path)


async def test_what_is_no_record_is_a_fault(look: Looker, elsewhere: str, person: Path) -> None:
    records = read(person / "memories.jsonl")
    good = next(record for record in records if record["state"] == "active")
    bad: list[Any] = [
        {name: value for name, value in good.items() if name != "state"},
        good | {"id": "x", "state": 5},
        good | {"id": "y", "content": ""},
        good,
        good,
    ]
    with (person / "memories.jsonl").open("w") as out:
        out.writelines(json.dumps(record) + "\n" for record in bad)
    report = await imported(look.runtime, elsewhere, person)
    assert counts(report) == {"entries": 5, "stored": 1, "repeated": 0, "failed": 4, "skipped": 0}
    assert [fault.position.number for fault in report.faults] == [1, 2, 3, 5]
    assert good["content"] not in str(report.faults)


async def test_an_export_of_the_first_schema_is_read_where_it_is_named(
    look: Looker, elsewhere: str, person: Path
) -> None:
    former = [
        {name: value for name, value in record.items() if name not in ("changes", "reads", "derived", "supersedes")}
        for record in read(person / "memories.jsonl")
    ]
    for path in person.iterdir():
        path.unlink()
    (person / "memories.jsonl").write_text("".join(json.dumps(one, sort_keys=True) + "\n" for one in former))
    report = await imported(look.runtime, elsewhere, person / "memories.jsonl", format="person")
    assert (report.stored, report.skipped) == (3, 3)
    assert (await imported(look.runtime, elsewhere, person)).repeated == 3
