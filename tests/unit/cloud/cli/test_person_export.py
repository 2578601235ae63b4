"""`gdpr export` and what becomes of it, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pyrage import decrypt, x25519

from cloud import CloudRuntime
from tests.unit.cloud.cli.conftest import Command

KeyFile = Callable[..., Path]
LINE = {"user_id": "alice", "content": "likes tea", "memory_type": "fact", "source": "notes"}


@pytest.fixture
def admin(command: Command, key_file: KeyFile, tmp_path: Path) -> Path:
    """An administrator's key, of a tenant that keeps a memory of alice."""
    admin = key_file("tenant_admin")
    (tmp_path / "m.jsonl").write_text(json.dumps(LINE))
    assert command("memory", "import", tmp_path / "m.jsonl", "--no-wait", "--api-key-file", admin).exit_code == 0
    return admin


def test_an_export_is_told_for_people_and_for_programs(command: Command, admin: Path, tmp_path: Path) -> None:
    shown = command("gdpr", "export", "--user", "alice", "--out", tmp_path / "one", "--api-key-file", admin)
    assert shown.exit_code == 0
    assert "index.html" in shown.stdout
    assert "in the clear" in shown.stdout
    arguments = ("gdpr", "export", "--user", "alice", "--out", tmp_path / "two", "--api-key-file", admin)
    document = json.loads(command("--json", *arguments).stdout)
    assert (document["encrypted"], document["counts"]["memories"]) == (False, 1)
    assert sorted(document["files"]) == sorted(path.name for path in (tmp_path / "two").iterdir())
    again = command(*arguments)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "not empty" in again.stderr


def test_an_encrypted_export_goes_into_another_tenant(
    command: Command, admin: Path, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    identity, out = x25519.Identity.generate(), tmp_path / "alice.zip.age"
    told = command(
        "gdpr",
        "export",
        "--user",
        "alice",
        "--out",
        out,
        "--recipient",
        str(identity.to_public()),
        "--api-key-file",
        admin,
    )
    assert told.exit_code == 0
    assert "age -d -i KEYFILE alice.zip.age > alice.zip" in told.stdout
    assert "in the clear" not in told.stdout

    runtime.tenants.create(f"{tenant_id}-other", plan="team")
    key = tmp_path / "other.key"
    key.write_text(runtime.api_keys.create(f"{tenant_id}-other", roles=["tenant_admin"]))
    key.chmod(0o600)
    refused = command("memory", "import", out, "--no-wait", "--api-key-file", key)
    assert refused.exit_code == 1
    assert "decrypt it first" in refused.stderr
    (tmp_path / "alice.zip").write_bytes(decrypt(out.read_bytes(), [identity]))
    taken = command("memory", "import", tmp_path / "alice.zip", "--as-user", "bob", "--no-wait", "--api-key-file", key)
    assert (taken.exit_code, taken.stdout) == (0, "1 of 1 memories stored.\n")


def test_a_directory_is_imported_and_what_is_skipped_is_said(
    command: Command, admin: Path, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    found = json.loads(command("--json", "memory", "list", "--user", "alice", "--api-key-file", admin).stdout)
    assert command("memory", "delete", found["memories"][0]["id"], "--api-key-file", admin).exit_code == 0
    command("gdpr", "export", "--user", "alice", "--out", tmp_path / "out", "--api-key-file", admin)
    taken = command("memory", "import", tmp_path / "out", "--no-wait", "--api-key-file", admin)
    assert taken.stdout == "0 of 1 memories stored, 1 skipped that were not in use (--include-removed).\n"
    asked = command("memory", "import", tmp_path / "out", "--include-removed", "--no-wait", "--api-key-file", admin)
    assert asked.stdout == "1 of 1 memories stored.\n"


def test_the_notice_stands_in_the_page(command: Command, admin: Path, tmp_path: Path) -> None:
    notice = tmp_path / "notice.json"
    notice.write_text(json.dumps({"purposes": "We plan trips."}))
    arguments = ("gdpr", "export", "--user", "alice", "--notice", notice, "--api-key-file", admin, "--out")
    assert command(*arguments, tmp_path / "out").exit_code == 0
    assert "We plan trips." in (tmp_path / "out" / "index.html").read_text("utf-8")
    for bad in ("{", "[]", '{"colour": "red"}', '{"purposes": 5}'):
        notice.write_text(bad)
        refused = command(*arguments, tmp_path / "bad")
        assert refused.exit_code == 1
        assert "notice" in refused.stderr
    assert not (tmp_path / "bad").exists()


def test_a_recipient_that_is_none_is_refused(command: Command, admin: Path, tmp_path: Path) -> None:
    refused = command(
        "gdpr",
        "export",
        "--user",
        "alice",
        "--out",
        tmp_path / "x",
        "--recipient",
        "AGE-SECRET-KEY-1X",
        "--api-key-file",
        admin,
    )
    assert refused.exit_code == 1
    assert "secret key" in refused.stderr
    assert "AGE-SECRET-KEY-1X" not in refused.stderr
    assert not (tmp_path / "x").exists()
