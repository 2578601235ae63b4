"""Tampers with the database of a home of its own, each way in a tenant of its own, and prints what is noticed.

Run as a program: one process has one installation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions
from cloud.audit.heads import compared
from cloud.audit.merkle import root_of
from cloud.audit.signing import SigningKey
from cloud.audit.tiles import appended, subtrees
from cloud.audit.verify import Checkpoint, VerificationError, leaf_hash, verify_bundle
from cloud.kernel.errors import ConfigurationError
from cloud.startup.doctor import audit as doctor
from cloud.startup.doctor.context import Context, examine

EVENTS = 10
Database = psycopg.Connection[Any]
Tamper = Callable[[CloudRuntime, Database, str], None]
_TABLES = ("audit_events", "audit_leaves", "audit_tiles", "audit_trees")


def write(runtime: CloudRuntime, tenant_id: str, count: int) -> None:
    for number in range(count):
        runtime.audit.log_event("deploy", "alice", f"service {number}", "x", "success", {"tenant_id": tenant_id})
    sequence(runtime)


def sequence(runtime: CloudRuntime) -> None:
    runtime._installation.proofs.sequencing.drain()


def nothing(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    """The control: it must hold."""


def edit(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    database.execute(
        "UPDATE audit_events SET event = jsonb_set(event, '{outcome}', '\"denied\"') WHERE event_id ="
        " (SELECT event_id FROM audit_leaves WHERE log_id = %s AND leaf_index = 4)",
        (tenant_id,),
    )


def edit_with_its_hash(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    """The leaf's hash too, where the trees keep it; whoever does that cannot sign the new root."""
    edit(runtime, database, tenant_id)
    _rebuild(runtime, database, tenant_id, sign=None)


def delete_one(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    (event_id,) = database.execute(
        "DELETE FROM audit_leaves WHERE log_id = %s AND leaf_index = 4 RETURNING event_id", (tenant_id,)
    ).fetchone() or (None,)
    database.execute("DELETE FROM audit_events WHERE event_id = %s", (event_id,))


def delete_newest(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    (event_id,) = database.execute(
        "DELETE FROM audit_leaves WHERE log_id = %s AND leaf_index ="
        " (SELECT max(leaf_index) FROM audit_leaves WHERE log_id = %s) RETURNING event_id",
        (tenant_id, tenant_id),
    ).fetchone() or (None,)
    database.execute("DELETE FROM audit_events WHERE event_id = %s", (event_id,))


def insert(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    """In the middle, with every later leaf moved up by one."""
    write(runtime, tenant_id, 1)
    (newest,) = database.execute(
        "SELECT max(leaf_index) FROM audit_leaves WHERE log_id = %s", (tenant_id,)
    ).fetchone() or (0,)
    move = "UPDATE audit_leaves SET leaf_index = %s WHERE log_id = %s AND leaf_index = %s"
    database.execute(move, (-1, tenant_id, newest))
    for index in range(newest - 1, 3, -1):
        database.execute(move, (index + 1, tenant_id, index))
    database.execute(move, (4, tenant_id, -1))


def swap(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    move = "UPDATE audit_leaves SET leaf_index = %s WHERE log_id = %s AND leaf_index = %s"
    for there, index in ((-1, 2), (2, 5), (5, -1)):
        database.execute(move, (there, tenant_id, index))


def roll_back(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    """As restoring an older copy of the database would."""
    for table in _TABLES:
        database.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM {table} WHERE log_id = %s", (tenant_id,))
    write(runtime, tenant_id, 5)
    runtime._kept[tenant_id] = runtime._installation.proofs.evidence.checkpoint(tenant_id)  # type: ignore[attr-defined]
    for table in reversed(_TABLES):
        database.execute(f"DELETE FROM {table} WHERE log_id = %s", (tenant_id,))
    for table in _TABLES:
        database.execute(f"INSERT INTO {table} SELECT * FROM old_{table}")
        database.execute(f"DROP TABLE old_{table}")


def sign_anew(runtime: CloudRuntime, database: Database, tenant_id: str) -> None:
    """Another history, whole in itself, signed by another key under the log's own name."""
    edit(runtime, database, tenant_id)
    _rebuild(runtime, database, tenant_id, sign=SigningKey.new())


def _rebuild(runtime: CloudRuntime, database: Database, tenant_id: str, *, sign: SigningKey | None) -> None:
    from cloud.audit.canonical import canonical

    events = [
        event
        for (event,) in database.execute(
            "SELECT e.event FROM audit_leaves l JOIN audit_events e USING (event_id) WHERE l.log_id = %s"
            " ORDER BY leaf_index",
            (tenant_id,),
        )
    ]
    tiles = appended(0, [leaf_hash(canonical(event)) for event in events], lambda _: b"")
    for (level, number), hashes in tiles.items():
        database.execute(
            "UPDATE audit_tiles SET hashes = %s WHERE log_id = %s AND level = %s AND number = %s",
            (hashes, tenant_id, level, number),
        )
    if sign is not None:
        root = root_of(len(events), subtrees(lambda place: tiles.get(place, b"")))
        origin = runtime._installation.proofs.keys.keys().origin(tenant_id)
        note = sign.checkpoint(Checkpoint(origin, len(events), root))
        database.execute("UPDATE audit_trees SET checkpoint = %s WHERE log_id = %s", (note, tenant_id))


TAMPERINGS: dict[str, Tamper] = {
    "nothing": nothing,
    "edit": edit,
    "edit-with-its-hash": edit_with_its_hash,
    "delete-one": delete_one,
    "delete-newest": delete_newest,
    "insert": insert,
    "swap": swap,
    "roll-back": roll_back,
    "sign-anew": sign_anew,
}


def noticed(runtime: CloudRuntime, settings: CloudSettings, tenant_id: str, key: str, out: Path) -> dict[str, object]:
    """What the verifier says, with the pinned key, without and with what was kept, and what the doctor says."""
    proofs = runtime._installation.proofs
    faults = {
        fault.log_id: fault.fault.value
        for fault in compared(proofs.trees, proofs.outside.heads(), proofs.keys.keys()).faults
    }
    with Context(settings) as context:
        told = [f.what for f in examine(context, [doctor.audit_heads]) if f"log of {tenant_id}:" in f.what]
    said: list[str | None] = []
    bundle = runtime.audit.export_evidence(tenant_id, out / tenant_id).directory
    for kept in (None, runtime._kept[tenant_id]):  # type: ignore[attr-defined]
        try:
            verify_bundle(bundle, key=key, checkpoint=kept)
            said.append(None)
        except VerificationError as error:
            said.append(str(error))
    return {"fault": faults.get(tenant_id), "doctor": told, "verify": said[0], "verify_with_kept": said[1]}


def accepted(runtime: CloudRuntime) -> dict[str, object]:
    """What an operator can accept, and how the log goes on afterwards."""
    proofs, said = runtime._installation.proofs, {}
    for name in ("roll-back", "edit-with-its-hash", "sign-anew", "nothing"):
        try:
            runtime.audit.accept(f"tenant-{name}", "restored from the backup of Monday")
            said[name] = "accepted"
        except ConfigurationError as error:
            said[name] = str(error)
    sequence(runtime)
    proofs.outside.summarize()
    left = {fault.log_id for fault in compared(proofs.trees, proofs.outside.heads(), proofs.keys.keys()).faults}
    events = [event["action"] for event in runtime.audit.events("tenant-roll-back")]
    return {**said, "held": sorted(left), "pending": proofs.trees.pending("tenant-roll-back"), "events": events}


def main(home: Path, out: Path) -> None:
    settings = CloudSettings(home=home, worker="off", embedder="hashing")
    found: dict[str, object] = {}
    with init_cloud_extensions(settings) as runtime:
        runtime._kept = {}  # type: ignore[attr-defined]
        for name, tamper in TAMPERINGS.items():
            tenant_id = f"tenant-{name}"
            runtime.tenants.create(tenant_id)
            write(runtime, tenant_id, EVENTS)
            key = runtime._installation.proofs.evidence.verifier_key(tenant_id)
            runtime._kept[tenant_id] = runtime._installation.proofs.evidence.checkpoint(tenant_id)  # type: ignore[attr-defined]
            with runtime._installation.server._server.cluster.connect("luminescent_control") as database:  # type: ignore[attr-defined]
                tamper(runtime, database, tenant_id)
            found[name] = noticed(runtime, settings, tenant_id, key, out)
        faults = runtime._installation.proofs.sequencing.compare()
        found["recorded"] = len(faults)
        events = [e for e in runtime.audit.events("_system") if e["action"] == "security.audit_tampering"]
        found["events"] = [(event["details"], event["reason"], event["category"]) for event in events]
        found["accepted"] = accepted(runtime)
    json.dump(found, sys.stdout, default=str)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
