"""The doctor finds nothing wrong where nothing is: in a home that nobody has tampered with."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cloud.startup.doctor import CHECKS
from tests.support.typed import document, run


def test_an_installation_as_it_must_be_holds_and_the_look_is_recorded(served_home: Path, tmp_path: Path) -> None:
    key, log = tmp_path / "service.key", tmp_path / "log"
    run("tenants", "create", "acme", home=served_home)
    run("api-keys", "create", "--tenant", "acme", "--role", "service", "--out", key, home=served_home)
    stored = run("memory", "store", "tea", "--user", "alice", "--api-key-file", key, home=served_home)
    assert stored.returncode == 0, stored.stderr
    made = run("backup", tmp_path / "backup", home=served_home)
    assert made.returncode == 0, made.stderr
    looked = run("--json", "doctor", home=served_home)
    findings = document(looked)["findings"]
    assert [finding for finding in findings if finding["level"] != "ok"] == []
    assert looked.returncode == 0
    assert {finding["check"] for finding in findings} == {check.__name__.replace("_", " ") for check in CHECKS}

    run("audit", "export", "--tenant", "_system", "--out", log, home=served_home)
    events = [json.loads(line) for line in (log / "events.ndjson").read_bytes().splitlines()]
    (event,) = [event for event in events if event["action"] == "doctor.run"]
    assert event["counts"] == {"ok": len(findings)}
    assert event["actor"] == {
        "kind": "local-operator",
        "id": f"local-operator:{os.geteuid()}",
        "roles": ["operator", "tenant_admin"],
    }
