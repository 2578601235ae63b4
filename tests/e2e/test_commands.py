"""A user's own files, from the first tenant to the audit log, typed as the documentation shows it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.support.typed import document, run

GOOD = [
    {
        "user_id": user,
        "content": content,
        "memory_type": "fact",
        "source": "notes",
        "created_at": "2026-02-03T04:05:06Z",
    }
    for user, content in [
        ("alice", "The harbour gate opens at six"),
        ("alice", "Forklift 7 is out for repair"),
        ("bob", "Bob keeps the keys of the cold store"),
    ]
]


def test_from_the_first_tenant_to_the_audit_log(served_home: Path, tmp_path: Path) -> None:
    service, admin, log = tmp_path / "service.key", tmp_path / "admin.key", tmp_path / "log"
    file, more = tmp_path / "memories.jsonl", tmp_path / "more.jsonl"
    lines = [json.dumps(memory).encode() for memory in GOOD]
    file.write_bytes(b"\n".join([lines[0], b"no memory", lines[1], b"\xff\xfe", lines[2]]))
    more.write_bytes(lines[2])

    made = document(run("--json", "tenants", "create", "acme", "--limit", "memories=3", home=served_home))
    assert (made["tenant_id"], made["state"], made["limits"]) == ("acme", "active", {"memories": 3})
    for role, path in (("service", service), ("tenant_admin", admin)):
        result = run("api-keys", "create", "--tenant", "acme", "--role", role, "--out", path, home=served_home)
        assert (result.returncode, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)
    with_service, with_admin = ("--api-key-file", service), ("--api-key-file", admin)

    imported = run("--json", "memory", "import", file, *with_service, home=served_home)
    assert imported.returncode == 1
    report = document(imported)
    assert (report["entries"], report["stored"], report["failed"]) == (5, 3, 2)
    assert [fault["entry"] for fault in report["faults"]] == [2, 4]
    full = run("memory", "import", more, "--no-wait", *with_service, home=served_home)
    assert full.returncode == 5
    assert "3 of 3 used" in full.stderr

    asked = ("memory", "retrieve", "when does the gate open", "--user", "alice", *with_service)
    found = document(run("--json", *asked, home=served_home))["memories"]
    assert (found[0]["content"], found[0]["created_at"]) == (GOOD[0]["content"], "2026-02-03T04:05:06Z")

    refused = run("gdpr", "erase", "--user", "alice", "--yes", *with_service, home=served_home)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith("error: not permitted: gdpr.erase")
    assert "Traceback" not in refused.stderr
    erase = ("gdpr", "erase", "--user", "alice", "--yes", "--reason", "request 17", *with_admin)
    erased = document(run("--json", *erase, home=served_home))
    assert (erased["state"] in ("verified", "certified"), erased["memories"]) == (True, 2)
    shown = run("memory", "search", "--user", "alice", *with_service, home=served_home)
    assert (shown.returncode, shown.stdout) == (0, "Nothing found.\n")

    exported = document(
        run("--json", "audit", "export", "--tenant", "acme", "--format", "ndjson", "--out", log, home=served_home)
    )
    events = [json.loads(line) for line in Path(exported["file"]).read_bytes().splitlines()]
    assert exported["events"] == len(events)
    steps = ("gdpr.erase.step", "usage.threshold", "audit.export.step")
    did = [(event["action"], event["outcome"]) for event in events if event["action"] not in steps]
    assert did == [
        ("tenant.create", "allowed"),
        ("api_key.create", "allowed"),
        ("api_key.create", "allowed"),
        ("memory.import.step", "allowed"),
        ("memory.store_many", "allowed"),
        ("memory.store_many", "allowed"),
        ("memory.import", "allowed"),
        ("memory.import.step", "allowed"),
        ("memory.store_many", "denied"),
        ("memory.import", "failed"),
        ("memory.retrieve", "allowed"),
        ("gdpr.erase", "denied"),
        ("gdpr.erase", "allowed"),
        ("memory.search", "allowed"),
    ]
    text = (log / "events.ndjson").read_text("utf-8")
    for personal in ("alice", "bob", "request 17", "gate", *(str(memory["content"]) for memory in GOOD)):
        assert personal not in text
