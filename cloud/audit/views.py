"""Exported events for other programs: CSV, OCSF and Parquet, each made from `events.ndjson`. Views are no evidence.

Source: RFC 4180 (CSV); OWASP, CSV Injection; OCSF 1.3.0, classes API Activity (6003) and Datastore Activity (6005).
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import rfc8785

from cloud.audit.verify import EVENTS, VIEWS

_BATCH: Final = 10_000
_COLUMNS: Final = (
    "occurred_at",
    "event_id",
    "log_id",
    "category",
    "action",
    "outcome",
    "reason",
    "actor_kind",
    "actor_id",
    "actor_roles",
    "subject_id",
    "subject_ids",
    "request_id",
    "trace_id",
    "resource_ids",
    "counts",
    "details",
    "latency_us",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula."""

_PRODUCT: Final = {"name": "luminescent-cloud", "vendor_name": "Luminescent"}
_OCSF_VERSION: Final = "1.3.0"
_API, _DATASTORE = 6003, 6005
_OTHER: Final = 99
_API_ACTIVITY: Final = {"create": 1, "read": 2, "list": 2, "change": 3, "update": 3, "delete": 4, "close": 4}
_DATASTORE_ACTIVITY: Final = {
    "get": 1,
    "history": 1,
    "export": 1,
    "export_all": 1,
    "update": 2,
    "undelete": 2,
    "supersede": 2,
    "retrieve": 4,
    "search": 4,
    "count": 4,
    "store": 6,
    "store_many": 6,
    "import": 6,
    "delete": 7,
    "purge": 7,
    "list": 8,
}
_STATUS: Final = {"allowed": 1, "denied": 2, "failed": 2}


class View(StrEnum):
    """The forms beside the evidence."""

    CSV = "csv"
    OCSF = "ocsf"
    PARQUET = "parquet"


def view_name(view: View) -> str:
    """The name of a view's file."""
    return next(name for name in VIEWS if name.split(".")[1] == view.value)


def write_view(directory: Path, view: View) -> str:
    """Write a view of the events in `directory` beside them, in bounded memory; returns its file's name."""
    name = view_name(view)
    events = _events(directory / EVENTS)
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as out:
        match view:
            case View.CSV:
                writer = csv.writer(out)
                writer.writerow(_COLUMNS)
                writer.writerows([_defused(cell) for cell in flat(event).values()] for event in events)
            case View.OCSF:
                out.writelines(f"{rfc8785.dumps(ocsf(event)).decode()}\n" for event in events)
            case View.PARQUET:
                _write_parquet(events, out.buffer)
        out.flush()
        os.fsync(descriptor)
    return name


def flat(event: Mapping[str, Any]) -> dict[str, str | None]:
    """An event as one row of text; what is nested stands as JSON."""
    actor = event.get("actor") or {}
    named = {**event, "actor_kind": actor.get("kind"), "actor_id": actor.get("id"), "actor_roles": actor.get("roles")}
    return {name: _cell(named.get(name)) for name in _COLUMNS}


def ocsf(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as OCSF: Datastore Activity for memories, API Activity for everything else."""
    noun, _, verb = str(event["action"]).partition(".")
    is_data = noun == "memory"
    activity = (_DATASTORE_ACTIVITY if is_data else _API_ACTIVITY).get(verb, _OTHER)
    class_uid = _DATASTORE if is_data else _API
    actor = event.get("actor") or {}
    found: dict[str, Any] = {
        "category_uid": 6,
        "class_uid": class_uid,
        "activity_id": activity,
        "activity_name": event["action"],
        "type_uid": class_uid * 100 + activity,
        "time": _milliseconds(str(event["occurred_at"])),
        # Informational; a refusal is low; a security event is what somebody should look at.
        "severity_id": 3 if event.get("category") == "security" else 1 if event["outcome"] == "allowed" else 2,
        "status_id": _STATUS.get(str(event["outcome"]), _OTHER),
        "status": event["outcome"],
        "metadata": {
            "version": _OCSF_VERSION,
            "product": _PRODUCT,
            "uid": event["event_id"],
            "log_name": event["log_id"],
            "tenant_uid": event["log_id"],
        },
        "actor": {"user": {"uid": actor.get("id") or "unknown", "type": actor.get("kind") or "unknown"}},
        "api": {"operation": event["action"], "request": {"uid": event["request_id"]}},
        # Where a caller comes from is personal, and in no event.
        "src_endpoint": {"name": actor.get("id") or "unknown"},
        "unmapped": {
            name: event[name] for name in ("details", "counts", "resource_ids", "subject_id") if event.get(name)
        },
    }
    if event.get("reason"):
        found["status_code"] = event["reason"]
    if is_data:
        found["database"] = {"name": event["log_id"], "type_id": _OTHER, "type": "memories"}
    return found


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _defused(cell: str | None) -> str:
    text = cell or ""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _milliseconds(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp() * 1000)


def _write_parquet(events: Iterator[dict[str, Any]], out: Any) -> None:
    # Only for who asks for it: the import takes a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in _batched(events):
            writer.write_table(pa.Table.from_pylist([flat(event) for event in batch], schema=schema))


def _batched(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(itertools.islice(events, _BATCH)):
        yield batch
