"""A person's export goes from one installation to another, as a user types it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from pyrage import decrypt, x25519

from tests.support.homes import temporary_home
from tests.support.processes import Installation
from tests.support.typed import document, run

SETTINGS = {"embedder": "hashing", "worker": "thread"}
MEMORIES = [
    {
        "user_id": "alice",
        "content": "Prefers tea,\nשלום",
        "memory_type": "preference",
        "source": "interview",
        "raw_source": "the whole text",
        "confidence": 0.25,
        "extraction_version": 3,
        "created_at": "2026-01-08T07:55:14.000005+00:00",
        "expires_at": "2900-01-01T00:00:00+00:00",
        "metadata": {"project": {"name": "orrin"}, "n": [1, None, True, 0.5]},
        "provenance": ["turn", 17],
    },
    {"user_id": "alice", "content": "Lives in Bern", "memory_type": "fact", "source": "conversation"},
]
KEPT = ("user_id", "content", "memory_type", "confidence", "source", "raw_source", "extraction_version", "created_at",
        "expires_at", "metadata", "provenance")  # fmt: skip


def administrator(home: Path, tmp_path: Path, tenant: str) -> Path:
    """A new tenant's administrator's key."""
    assert run("tenants", "create", tenant, home=home).returncode == 0
    made = run("--json", "api-keys", "create", "--tenant", tenant, "--role", "tenant_admin", home=home)
    key = tmp_path / f"{tenant}.key"
    key.write_text(document(made)["api_key"])
    key.chmod(0o600)
    return key


def exported(home: Path, key: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """What an export says of the memories, without what belongs to the place where they are."""
    done = run("--json", "gdpr", "export", "--user", "alice", "--out", out, *more, "--api-key-file", key, home=home)
    assert done.returncode == 0, done.stderr
    if more:
        return []
    records = [json.loads(line) for line in (out / "memories.jsonl").read_text("utf-8").split("\n") if line]
    return sorted(({name: record[name] for name in KEPT} for record in records), key=lambda one: str(one["content"]))


def test_a_person_moves_from_one_installation_to_another(tmp_path: Path) -> None:
    identity = x25519.Identity.generate()
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, MEMORIES)))
    with temporary_home(prepared=True) as home, Installation(home, SETTINGS):
        key = administrator(home, tmp_path, "acme")
        assert (
            run("memory", "import", tmp_path / "m.jsonl", "--no-wait", "--api-key-file", key, home=home).returncode == 0
        )
        first = exported(home, key, tmp_path / "first")
        exported(home, key, tmp_path / "x.zip.age", "--recipient", str(identity.to_public()))
    plain = decrypt((tmp_path / "x.zip.age").read_bytes(), [identity])
    assert zipfile.ZipFile(io.BytesIO(plain)).testzip() is None
    (tmp_path / "x.zip").write_bytes(plain)

    with temporary_home(prepared=True) as home, Installation(home, SETTINGS):
        key = administrator(home, tmp_path, "elsewhere")
        taken = run("--json", "memory", "import", tmp_path / "x.zip", "--no-wait", "--api-key-file", key, home=home)
        assert document(taken)["stored"] == len(MEMORIES)
        assert exported(home, key, tmp_path / "second") == first
    assert [record["content"] for record in first] == ["Lives in Bern", "Prefers tea,\nשלום"]
    assert {name: first[1][name] for name in MEMORIES[0]} == MEMORIES[0]
