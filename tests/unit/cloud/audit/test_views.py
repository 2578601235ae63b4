"""Laws of the views: as many rows as events, no formula in a spreadsheet, and what OCSF requires."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cloud.audit.verify import EVENTS
from cloud.audit.views import View, ocsf, write_view

# OCSF 1.3.0, what the two classes require; of `database`, `databucket` and `table` one has to be there.
REQUIRED = {
    6003: {
        "activity_id",
        "actor",
        "api",
        "category_uid",
        "class_uid",
        "metadata",
        "severity_id",
        "src_endpoint",
        "time",
        "type_uid",
    },
    6005: {
        "activity_id",
        "actor",
        "category_uid",
        "class_uid",
        "database",
        "metadata",
        "severity_id",
        "src_endpoint",
        "time",
        "type_uid",
    },
}


def event(**fields: object) -> dict[str, Any]:
    return {
        "schema": 1,
        "event_id": "01234567-0000-7000-8000-000000000000",
        "log_id": "acme",
        "occurred_at": "2026-01-31T08:00:00.123456Z",
        "category": "operation",
        "action": "memory.store",
        "actor": {"kind": "api_key", "id": "0011aabb", "roles": ["service"]},
        "subject_id": None,
        "request_id": "r-1",
        "trace_id": None,
        "details": {},
        "outcome": "allowed",
        "reason": None,
        "resource_ids": [],
        "counts": {},
        "latency_us": 1200,
        **fields,
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    events = [
        event(request_id="=cmd|' /C calc'!A0", reason="+1"),
        event(request_id="@SUM(A1)", details={"text": 'ä, "quoted"\nline'}),
        event(request_id="-2", outcome="denied"),
    ]
    (tmp_path / EVENTS).write_text("".join(json.dumps(one) + "\n" for one in events))
    return tmp_path


def test_no_cell_of_a_spreadsheet_begins_a_formula(written: Path) -> None:
    with (written / write_view(written, View.CSV)).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == ["'=cmd|' /C calc'!A0", "'@SUM(A1)", "'-2"]
    assert rows[0]["reason"] == "'+1"
    assert json.loads(rows[1]["details"]) == {"text": 'ä, "quoted"\nline'}
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row.values())


def test_parquet_holds_every_event(written: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(written / write_view(written, View.PARQUET)).to_pylist()
    assert [row["request_id"] for row in rows] == ["=cmd|' /C calc'!A0", "@SUM(A1)", "-2"]
    assert rows[0]["actor_id"] == "0011aabb"


@pytest.mark.parametrize(
    ("action", "class_uid", "activity"),
    [
        ("memory.store", 6005, 6),
        ("memory.search", 6005, 4),
        ("memory.delete", 6005, 7),
        ("memory.import.step", 6005, 99),
        ("tenant.create", 6003, 1),
        ("tenant.close", 6003, 4),
        ("audit.read", 6003, 2),
        ("gdpr.erase", 6003, 99),
    ],
)
def test_an_event_has_what_ocsf_requires(action: str, class_uid: int, activity: int) -> None:
    found = ocsf(event(action=action))
    assert found.keys() >= REQUIRED[class_uid]
    assert (found["class_uid"], found["activity_id"]) == (class_uid, activity)
    assert found["type_uid"] == class_uid * 100 + activity
    assert found["time"] == 1_769_846_400_123
    assert found["metadata"].keys() >= {"version", "product"}


@pytest.mark.parametrize(("outcome", "status"), [("allowed", 1), ("denied", 2), ("failed", 2)])
def test_how_it_ended_is_in_every_view(outcome: str, status: int) -> None:
    found = ocsf(event(outcome=outcome, reason="quota"))
    assert (found["status_id"], found["status"], found["status_code"]) == (status, outcome, "quota")


def test_a_security_event_is_more_than_information() -> None:
    assert ocsf(event(category="security"))["severity_id"] > ocsf(event(outcome="denied"))["severity_id"] > 1


def test_an_actor_whom_nobody_knows_is_unknown() -> None:
    found = ocsf(event(actor={"kind": None, "id": None, "roles": []}))
    assert found["actor"]["user"] == {"uid": "unknown", "type": "unknown"}
