"""Sequencer, export and archiver of the audit log are killed at every named place: nothing is lost or half there."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from cloud.audit.verify import EVENTS as EVENTS_FILE
from cloud.audit.verify import verify_bundle
from cloud.kernel.failpoints import NAMES
from tests.support.processes import Child, Died, Installation

pytestmark = pytest.mark.crash

EVENTS = 2_500
SOON_S = 30.0
"""Of which 5 to 10 are waited for by the service, for what the server may still commit."""


def exported(installation: Installation, tenant_id: str, directory: Path) -> tuple[int, int]:
    """Export in a living process and verify; returns how many events, and how many an earlier one had written."""
    child = installation.child()
    assert child.ask("audit_faults") == []
    made = child.ask("audit_export", tenant=tenant_id, directory=str(directory))
    result = verify_bundle(directory, key=made["key"])
    assert (result.first, result.events) == (0, made["events"])
    assert installation.books().rows_pending(tenant_id) <= 2, "but for the export's own two all have leaves"
    return made["events"], made["resumed"]


def outcomes(installation: Installation, tenant_id: str, action: str, outcome: str) -> list[str]:
    """The requests that ended so."""
    found = installation.books().events(tenant_id)
    return [event["request_id"] for event in found if (event["action"], event["outcome"]) == (action, outcome)]


def unknown(installation: Installation, tenant_id: str, action: str) -> str:
    """The one request of which it is said soon that its outcome is unknown; the process that looks is opened first."""
    installation.child()
    end_s = time.monotonic() + SOON_S
    while not (found := outcomes(installation, tenant_id, action, "unknown")):
        assert time.monotonic() < end_s, f"{action} has no outcome yet"
        time.sleep(0.1)
    (request,) = found
    return request


def export_again_and_again(child: Child, tenant_id: str, directory: Path) -> None:
    """Each lets the log grow and catches up with it."""
    for number in range(100):
        child.ask("audit_export", tenant=tenant_id, directory=str(directory / f"before-{number}"))


@pytest.mark.parametrize("place", [name for name in NAMES if name.startswith("sequencer.")])
def test_a_sequencer_that_was_killed_loses_and_forks_nothing(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = installation.child()
    child.ask("audit_events", tenant=tenant_id, count=20)
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        export_again_and_again(child, tenant_id, tmp_path)
    assert child.ended() == -signal.SIGKILL
    events, _ = exported(installation, tenant_id, tmp_path / "out")
    recorded = installation.books().events(tenant_id)
    assert events == len([event for event in recorded if event["action"] != "audit.export"])


@pytest.mark.parametrize("place", [name for name in NAMES if name.startswith("audit_export.")])
def test_an_export_that_was_killed_is_gone_on_with(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = installation.child()
    child.ask("audit_events", tenant=tenant_id, count=EVENTS)
    child.ask("audit_faults")
    child.ask("arm", name=place, action="kill_self", nth=2 if place == "audit_export.written" else 1)
    with pytest.raises(Died):
        child.ask("audit_export", tenant=tenant_id, directory=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    events, resumed = exported(installation, tenant_id, tmp_path / "out")
    assert events >= EVENTS
    assert resumed == (2_000 if place == "audit_export.written" else events)
    if place != "audit_export.recorded":
        unknown(installation, tenant_id, "audit.export")
    ended = [event for event in installation.books().events(tenant_id) if event["action"].startswith("audit.export")]
    said = [(event["action"], event["outcome"], event["request_id"]) for event in ended]
    first, last = said[0][2], said[-2][2]
    if place == "audit_export.recorded":
        # Its outcome was on record before its files had their name.
        last = said[-1][2]
        assert said[:2] == [("audit.export.step", "allowed", first), ("audit.export", "allowed", first)]
        assert said[2:] == [("audit.export.step", "allowed", last), ("audit.export", "allowed", last)]
    else:
        assert said == [
            ("audit.export.step", "allowed", first),
            ("audit.export.step", "allowed", last),
            ("audit.export", "allowed", last),
            ("audit.export", "unknown", first),
        ]


@pytest.mark.parametrize("place", [name for name in NAMES if name.startswith("audit_archive.")])
def test_an_archiver_that_was_killed_loses_nothing_and_is_gone_on_with(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = installation.child()
    child.ask("audit_events", tenant=tenant_id, count=EVENTS)
    child.ask("audit_faults")
    child.ask("audit_age", tenant=tenant_id, leaves=EVENTS, days=500)
    child.ask("audit_export", tenant=tenant_id, directory=str(tmp_path / "before"))
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("audit_archive")
    assert child.ended() == -signal.SIGKILL
    exported(installation, tenant_id, tmp_path / "between")
    assert installation.child().ask("audit_archive")["failed"] == []
    exported(installation, tenant_id, tmp_path / "after")
    old, new = (tmp_path / name / "events.ndjson" for name in ("before", "after"))
    assert new.read_bytes().startswith(old.read_bytes())
    online = [event for event in installation.books().events(tenant_id) if event["action"] == "external.event"]
    assert len(online) <= 1, "but for the newest of them, which are not aged"


@pytest.mark.parametrize("place", ["audit_archive_delete.marked"])
def test_an_archive_whose_deletion_was_killed_is_deleted_the_next_time(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = installation.child()
    child.ask("audit_events", tenant=tenant_id, count=100)
    child.ask("audit_faults")
    child.ask("audit_age", tenant=tenant_id, leaves=100, days=900)
    assert child.ask("audit_archive")["events"] >= 100
    files = set(installation.home.glob("audit-archive/*/*.parquet"))
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("audit_archive")
    again = installation.child().ask("audit_archive")
    assert (again["deleted"], again["failed"]) == (1, [])
    assert len(files) - len(set(installation.home.glob("audit-archive/*/*.parquet"))) == 1


@pytest.mark.parametrize(
    ("place", "do", "action"),
    [
        ("import.begun", "import", "memory.import"),
        ("export.begun", "export", "memory.export"),
        ("audit_export.written", "audit_export", "audit.export"),
    ],
)
def test_what_a_killed_process_began_is_unknown_soon_and_what_another_still_does_is_not(
    place: str, do: str, action: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    killed = installation.child()
    killed.ask("audit_events", tenant=tenant_id, count=1_000)
    working = installation.another()
    installation.open(working)
    working.ask("arm", name="audit_export.written", action="wait")
    working.say("audit_export", tenant=tenant_id, directory=str(tmp_path / "goes-on"))
    while not (begun := outcomes(installation, tenant_id, "audit.export.step", "allowed")):
        time.sleep(0.1)
    file = tmp_path / "memories.jsonl"
    file.write_text('{"user_id": "alice", "content": "tea", "memory_type": "fact", "source": "test"}\n')
    killed.ask("arm", name=place, action="kill_self")
    named = {"directory": str(tmp_path / "cut")} if do == "audit_export" else {}
    named |= {"path": str(file)} if do == "import" else {"path": str(tmp_path / "out")} if do == "export" else {}
    with pytest.raises(Died):
        killed.ask(do, tenant=tenant_id, **named)
    assert killed.ended() == -signal.SIGKILL

    request = unknown(installation, tenant_id, action)
    assert request not in begun
    exported(installation, tenant_id, tmp_path / "proof")
    leaves = [json.loads(line) for line in (tmp_path / "proof" / EVENTS_FILE).read_bytes().splitlines()]
    assert [(leaf["action"], leaf["request_id"]) for leaf in leaves if leaf["outcome"] == "unknown"] == [
        (action, request)
    ]
    working.kill()
    end_s = time.monotonic() + SOON_S
    while begun[0] not in outcomes(installation, tenant_id, "audit.export", "unknown"):
        assert time.monotonic() < end_s, "it was killed too"
        time.sleep(0.1)


def test_what_the_service_goes_on_with_ends_by_its_own_outcome(installation: Installation, tenant_id: str) -> None:
    child = installation.child()
    child.ask("arm", name="rotate.tenant.changed", action="kill_self")
    with pytest.raises(Died):
        child.ask("rotate", tenant=tenant_id)
    child.ended()
    installation.child()
    time.sleep(12)
    assert outcomes(installation, tenant_id, "keyring.rotate", "unknown") == []
    assert len(outcomes(installation, tenant_id, "keyring.rotate", "allowed")) == 1
