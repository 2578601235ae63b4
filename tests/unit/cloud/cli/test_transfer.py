"""`memory import`, `export` and `verify-export`, as they are typed."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime
from tests.support.commands import Command

KeyFile = Callable[..., Path]
Events = Callable[[str], list[dict[str, Any]]]
LINES = [
    {"user_id": user, "content": f"{user}'s fact {n}", "memory_type": "fact", "source": "notes"}
    for user in ("alice", "bob")
    for n in range(3)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


def test_what_was_imported_is_exported_checked_and_imported_elsewhere(
    command: Command, runtime: CloudRuntime, tenant_id: str, key_file: KeyFile, file: Path, tmp_path: Path
) -> None:
    admin, out = key_file("tenant_admin"), tmp_path / "e.jsonl.gz"
    made = json.loads(command("--json", "memory", "import", file, "--no-wait", "--api-key-file", admin).stdout)
    assert (made["format"], made["entries"], made["stored"], made["resumed_after"]) == ("jsonl", 6, 6, None)
    shown = command("memory", "export", "--out", out, "--api-key-file", admin)
    assert shown.exit_code == 0
    assert f"6 memories of 2 people written to {out}" in shown.stdout.replace("\n", " ")
    whole = command("memory", "verify-export", out)
    assert whole.exit_code == 0
    assert "is whole: 6 memories of 2 people" in whole.stdout
    again = command("memory", "export", "--out", out, "--api-key-file", admin)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "never overwrites" in again.stderr

    other = f"{tenant_id}-other"
    runtime.tenants.create(other, plan="team")
    key = tmp_path / "other.key"
    key.write_text(runtime.api_keys.create(other, roles=["tenant_admin"]))
    key.chmod(0o600)
    copied = command("memory", "import", out, "--no-wait", "--api-key-file", key)
    assert (copied.exit_code, copied.stdout) == (0, "6 of 6 lines stored.\n")
    second = json.loads(command("--json", "memory", "export", "--out", tmp_path / "e2", "--api-key-file", key).stdout)
    first = json.loads(command("--json", "memory", "verify-export", out).stdout)
    assert second["content_hash"] == first["content_hash"]


def test_a_damaged_export_is_refused(command: Command, key_file: KeyFile, file: Path, tmp_path: Path) -> None:
    admin, out = key_file("tenant_admin"), tmp_path / "e.jsonl"
    command("memory", "import", file, "--no-wait", "--api-key-file", admin)
    command("memory", "export", "--out", out, "--api-key-file", admin)
    out.write_bytes(out.read_bytes()[:-30])
    for arguments in (("verify-export", out), ("import", out, "--api-key-file", admin)):
        result = command("memory", *arguments)
        assert result.exit_code == 1
        assert "cut off or changed" in result.stderr
    document = json.loads(command("--json", "memory", "verify-export", out).stdout)
    assert document["error"]["code"] == "unreadable_file"


def test_a_persons_export_is_a_services_and_everybodys_is_not(
    command: Command, key_file: KeyFile, file: Path, tmp_path: Path
) -> None:
    service = key_file("service")
    command("memory", "import", file, "--no-wait", "--api-key-file", service)
    own = ("memory", "export", "--user", "alice", "--filter", '{"source": "notes"}', "--api-key-file", service)
    made = json.loads(command("--json", *own, "--out", tmp_path / "a").stdout)
    assert (made["memories"], made["people"], made["filtered"]) == (3, 1, True)
    refused = command("memory", "export", "--out", tmp_path / "all", "--api-key-file", service)
    assert refused.exit_code == 4
    assert "role_missing" in refused.stderr
    assert (
        command("memory", "export", "--out", tmp_path / "b", "--filter", "[", "--api-key-file", service).exit_code == 2
    )
    assert command("memory", "export", "--out", tmp_path / "b").exit_code == 4


def test_faults_are_shown_with_their_places_and_all_of_them_are_in_the_report(
    command: Command, key_file: KeyFile, tmp_path: Path
) -> None:
    path, report = tmp_path / "m.jsonl", tmp_path / "report.jsonl"
    path.write_text("\n".join([json.dumps(LINES[0]), *["nonsense"] * 25]))
    result = command("memory", "import", path, "--report", report, "--no-wait", "--api-key-file", key_file("service"))
    assert result.exit_code == 1
    assert "line 21: invalid JSON" in result.stderr
    assert f"… and 5 more; all of them are in {report}" in result.stderr.replace("\n", "")
    written = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line.get("entry") for line in written] == [None, *range(2, 27), None]


def test_places_are_called_what_they_are_in_each_format(command: Command, key_file: KeyFile, tmp_path: Path) -> None:
    mem0, chatgpt, key = tmp_path / "mem0.json", tmp_path / "export.zip", key_file("service")
    mem0.write_text(json.dumps({"results": [{"memory": "tea", "user_id": "alice"}, {"memory": ""}]}))
    result = command("memory", "import", mem0, "--no-wait", "--api-key-file", key)
    assert result.exit_code == 1
    assert "1 of 2 elements stored." in result.stdout
    assert "element 2: names no user_id" in result.stderr
    message = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["x" * 70_000]}}
    with zipfile.ZipFile(chatgpt, "w") as out:
        out.writestr("conversations.json", json.dumps([{"mapping": {"a": {"message": message}}, "current_node": "a"}]))
    unnamed = command("memory", "import", chatgpt, "--no-wait", "--api-key-file", key)
    assert unnamed.exit_code == 1
    assert "say whose it is with --user" in unnamed.stderr
    result = command("memory", "import", chatgpt, "--user", "alice", "--no-wait", "--api-key-file", key)
    assert result.exit_code == 1
    assert "conversation 1, message 1: invalid memory: field 'content'" in result.stderr


def test_a_used_up_quota_says_how_to_go_on(
    command: Command, runtime: CloudRuntime, tenant_id: str, file: Path, tmp_path: Path
) -> None:
    small, key = f"{tenant_id}-small", tmp_path / "small.key"
    runtime.tenants.create(small, plan="team", limits={"memories": 4})
    key.write_text(runtime.api_keys.create(small, roles=["service"]))
    key.chmod(0o600)
    result = command("--json", "memory", "import", file, "--no-wait", "--api-key-file", key)
    document = json.loads(result.stdout)
    assert result.exit_code == 5
    assert (document["stored"], document["error"]["code"]) == (3, "quota_exceeded")
    assert document["error"]["entry"] in (1, 4)
    assert "importing the same file again goes on from there" in result.stderr


def test_a_bomb_is_refused_with_its_bound(command: Command, key_file: KeyFile, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress((b" " * 1023 + b"\n") * (80 * 2**10)))
    result = command("memory", "import", path, "--no-wait", "--api-key-file", key_file("service"))
    assert result.exit_code == 1
    assert "unpack it and look at it first" in result.stderr.replace("\n", " ")


def test_commands_leave_an_intent_and_an_outcome(
    command: Command, tenant_id: str, key_file: KeyFile, file: Path, events: Events, tmp_path: Path
) -> None:
    admin = key_file("tenant_admin")
    command("memory", "import", file, "--no-wait", "--api-key-file", admin)
    command("memory", "export", "--out", tmp_path / "e", "--api-key-file", admin)
    done = [event["action"] for event in events(tenant_id) if event["action"].startswith("memory.")]
    assert done == [
        "memory.import.step",
        "memory.store_many",
        "memory.store_many",
        "memory.import",
        "memory.export.step",
        "memory.export_all",
    ]
