"""What mem0's library and its API give out is read, field by field."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime
from cloud.transfer import mem0
from cloud.transfer.checking import checked
from cloud.transfer.model import Entry, EntryError, Format
from src.memory.schemas import Memory, MemoryType
from tests.unit.cloud.transfer.conftest import everything, imported

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LIBRARY = {
    "id": "892db2ae-06d9-49e5-8b3e-585ef9b85b8e",
    "memory": "Prefers window seats",
    "hash": "92d9bd4ec1f1b4c2",
    "metadata": {"trip": "harbour"},
    "score": None,
    "created_at": "2026-02-26T10:29:36.630547-08:00",
    "updated_at": None,
    "user_id": "alice",
    "agent_id": "concierge",
    "run_id": "run-7",
    "role": "user",
}
"""As `Memory.get_all` of the library gives one."""
PLATFORM = {
    "id": "5a1b1d8e-0e6f-4a5e-9f5b-0a4a1e1c2d3e",
    "memory": "Is allergic to nuts",
    "user_id": "bob",
    "metadata": None,
    "categories": ["health", "user_preferences"],
    "immutable": False,
    "expiration_date": "2026-12-31",
    "structured_attributes": {"day": 3},
    "created_at": "2026-01-08T07:55:14Z",
    "updated_at": "2026-01-09T07:55:14Z",
    "owner": "somebody",
}
"""As the platform's `GET memories` gives one."""


def entries(document: object, user_id: str | None = None) -> list[Entry]:
    return list(mem0.entries(io.BytesIO(json.dumps(document).encode()).read, user_id))


def parse(item: dict[str, Any], user_id: str | None = None) -> Memory:
    (entry,) = entries([item], user_id)
    return checked(entry, NOW)


def test_what_the_library_gives_is_kept() -> None:
    found = parse(LIBRARY)
    assert (found.user_id, found.content, found.source) == ("alice", "Prefers window seats", "mem0")
    assert (found.memory_type, found.expires_at) == (MemoryType.FACT, None)
    assert found.created_at == datetime(2026, 2, 26, 18, 29, 36, 630547, tzinfo=UTC)
    assert found.metadata == {"trip": "harbour", "agent_id": "concierge", "run_id": "run-7", "role": "user"}
    assert found.provenance == {"mem0": {"id": LIBRARY["id"], "hash": LIBRARY["hash"]}}


def test_what_the_platform_gives_is_kept() -> None:
    found = parse(PLATFORM)
    assert found.memory_type is MemoryType.PREFERENCE
    assert found.metadata == {"categories": ["health", "user_preferences"]}
    # Until the end of that day.
    assert found.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert found.provenance == {
        "mem0": {
            "id": PLATFORM["id"],
            "immutable": False,
            "structured_attributes": {"day": 3},
            "updated_at": "2026-01-09T07:55:14Z",
            "owner": "somebody",
        }
    }


def test_what_the_application_wrote_into_metadata_comes_first() -> None:
    assert parse({**LIBRARY, "metadata": {"role": "captain"}}).metadata["role"] == "captain"


def test_an_agents_memory_needs_a_person() -> None:
    nobody = {**LIBRARY, "user_id": None}
    assert parse(nobody, "carol").user_id == "carol"
    with pytest.raises(EntryError, match="--user"):
        parse(nobody)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": ""}, "content"),
        ({"memory": None}, "content"),
        ({"metadata": []}, "metadata"),
        ({"expiration_date": "soon"}, "expiration_date"),
        ({"expiration_date": "9999-12-31"}, "expiration_date"),
        ({"expiration_date": "2026-05-30"}, "expires_at"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"user_id": 5}, "user_id"),
    ],
)
def test_a_fault_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EntryError, match=message):
        parse({**LIBRARY, **changes})


def test_pages_one_after_another_are_one_list() -> None:
    pages = [{"count": 3, "next": None, "previous": None, "results": [LIBRARY, PLATFORM]}, {"results": [LIBRARY]}]
    text = "\n".join(map(json.dumps, pages)).encode()
    found = list(mem0.entries(io.BytesIO(text).read, None))
    assert [(entry.position.number, entry.id) for entry in found] == [
        (1, LIBRARY["id"]),
        (2, PLATFORM["id"]),
        (3, LIBRARY["id"]),
    ]


def test_an_element_at_fault_does_not_hide_the_next_one() -> None:
    text = b'[5, {"memory": 1 2}, {"memory": "\xff"}, ' + json.dumps(LIBRARY).encode() + b"]"
    found = list(mem0.entries(io.BytesIO(text).read, None))
    assert [entry.fault is None for entry in found] == [False, False, False, True]


@pytest.mark.parametrize("document", [[LIBRARY, PLATFORM], {"results": [LIBRARY, PLATFORM], "relations": []}])
async def test_a_file_of_it_is_recognized_and_imported(
    document: object, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "mem0.json"
    path.write_text(json.dumps(document, indent=2))
    report = await imported(runtime, tenant_id, path)
    assert (report.format, report.entries, report.stored) == (Format.MEM0, 2, 2)
    assert [memory.content for memory in await everything(runtime, tenant_id, "bob")] == ["Is allergic to nuts"]
