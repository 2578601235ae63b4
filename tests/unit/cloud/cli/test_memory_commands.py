"""The commands that change, list and follow memories, over a real installation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Command

KeyFile = Callable[..., Path]
Events = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def memory(command: Command, key_file: KeyFile) -> Callable[..., Any]:
    """Runs `memory VERB …` with a service key and returns the JSON document; fails on another exit code."""
    key = key_file("service")

    def run(*arguments: object, code: int = 0) -> Any:
        result = command("--json", "memory", *arguments, "--api-key-file", key)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return run


def test_a_memory_through_its_whole_life(memory: Callable[..., Any]) -> None:
    user = ("--user", "alice")
    stored = memory("store", "Lives in Berlin", *user, "--type", "fact", "--metadata", '{"n": 1}')["memory_id"]
    again = memory("store", "Lives in  Berlin", *user, "--duplicates")
    assert again["duplicates"] == [{"memory_id": stored, "exact": True, "similarity": 1.0}]
    assert memory("delete", again["memory_id"]) == {"memory_id": again["memory_id"], "deleted": True}
    assert memory("undelete", again["memory_id"])["undeleted"] is True
    changed = memory("update", stored, "--set", '{"content": "Lives in Lisbon", "expires_at": "2999-01-01T00:00:00Z"}')
    assert changed == {"memory_id": stored, "revision": 2}
    found = memory("get", stored)["memory"]
    assert (found["content"], found["metadata"], found["expires_at"]) == (
        "Lives in Lisbon",
        {"n": 1},
        "2999-01-01T00:00:00Z",
    )
    new = memory("supersede", stored, "Lives in Porto", *user)["memory_id"]
    assert memory("count", *user) == {"count": 2}
    assert memory("count", *user, "--filter", '{"include_invalid": true}') == {"count": 3}
    changes = memory("history", stored)["changes"]
    assert [(line["kind"], line["revision"], line["successor"]) for line in changes] == [
        ("stored", 1, None),
        ("updated", 2, None),
        ("superseded", 2, new),
    ]
    assert all(line["actor"].startswith("api_key:") for line in changes)
    first = memory("list", *user, "--limit", "1")
    rest = memory("list", *user, "--limit", "1", "--cursor", first["next_cursor"])
    assert (len(first["memories"]), len(rest["memories"]), rest["next_cursor"]) == (1, 1, None)
    assert len(memory("list", *user, "--all")["memories"]) == 2


def test_what_is_refused_says_what_to_do(memory: Callable[..., Any], command: Command, key_file: KeyFile) -> None:
    stored = memory("store", "Lives in Berlin", "--user", "alice")["memory_id"]
    absent = "018f2b6e-7c1a-7def-8123-456789abcdef"
    for arguments, code, error in (
        (("get", absent), 1, "memory_not_found"),
        (("delete", absent), 1, "memory_not_found"),
        (("undelete", stored), 1, "memory_not_found"),
        (("history", absent), 1, "memory_not_found"),
        (("update", absent, "--set", '{"content": "x"}'), 1, "memory_not_found"),
        (("supersede", stored, "x", "--user", "bob"), 1, "memory_not_found"),
        (("update", stored, "--set", '{"content": "x"}', "--revision", "7"), 1, "revision_conflict"),
        (("update", stored, "--set", '{"content": ""}'), 2, "invalid_memory"),
        (("update", stored, "--set", '{"expires_at": "soon"}'), 2, "invalid_memory"),
        (("list", "--user", "alice", "--cursor", "forged"), 2, "invalid_filter"),
        (("count", "--user", "alice", "--filter", '{"colour": 1}'), 2, "invalid_filter"),
    ):
        assert memory(*arguments, code=code)["error"]["code"] == error, arguments
    key = key_file("service")
    refused = command("memory", "update", stored, "--set", '{"content": "x"}', "--revision", "7", "--api-key-file", key)
    assert "memory history MEMORY" in refused.stderr
    assert command("memory", "update", stored, "--set", "[1]", "--api-key-file", key).exit_code == 2


def test_a_purge_needs_no_key_and_leaves_the_operators_event(
    command: Command, tenant_id: str, events: Events, memory: Callable[..., Any]
) -> None:
    stored = memory("store", "Lives in Berlin", "--user", "alice")["memory_id"]
    memory("delete", stored)
    result = command("--json", "memory", "purge", "--tenant", tenant_id)
    assert result.exit_code == 0, result.output
    # It is kept for thirty days.
    assert json.loads(result.stdout) == {"purged": 0, "tenants": {}}
    assert [event["reason"] for event in events(tenant_id) if event["action"] == "memory.purge"] == ["requested"]
    assert command("memory", "purge", "--tenant", "nobody-here").exit_code == 4
