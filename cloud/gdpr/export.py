"""Writes everything that is kept of a person, by the data map: JSON for programs, pages for people.

The events come first, because they say who read which memory; then the memories, the person, the pages, and the
schemas of all three. What is held in memory grows with the person's memories, and not with their events.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from typing import Final

from cloud.gdpr import pages
from cloud.gdpr.bundles import Bundle, directory_bundle, encrypted_file
from cloud.gdpr.encrypting import recipients_of
from cloud.gdpr.information import check_notice, told
from cloud.gdpr.model import ExportBundle, ExportProgress, ExportRequest
from cloud.gdpr.ports import ErasureStore
from cloud.gdpr.readings import Readings, Record
from cloud.gdpr.records import Facts, MemoryRecords, event_record, key_record, line_of
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SealedRow

EXPORT_SCHEMA: Final = 2
FILES: Final = ("person.json", "memories.jsonl", "events.jsonl")
"""What is kept, by the data map; what else is in an export is made of it."""
SCHEMAS: Final = ("person.schema.json", "memories.schema.json", "events.schema.json")
_ATTEMPTS: Final = 4
_TOLD_EACH: Final = 100


def export_person(
    request: ExportRequest,
    person: SubjectKey | None,
    predicate: TenantPredicate,
    config: PixeltableConfig,
    store: ErasureStore,
    record: Callable[[Mapping[str, int]], None],
) -> ExportBundle:
    """Write a bundle to where the request says, and `record` it; if either fails, nothing of it stays.

    Args:
        request: What is asked for.
        person: The person, or `None` if nothing is known of them.
        predicate: The tenant.
        config: The installation.
        store: The control plane.
        record: Records the export; is told the counts.

    Raises:
        ConfigurationError: The destination, a recipient or the notice cannot be used.
        ProviderUnavailableError: A part did not answer.
        SealBrokenError: A row does not open in its place.
    """
    check_notice(request.notice)
    if not request.recipients:
        with directory_bundle(request.destination) as bundle:
            counts = write_bundle(bundle, request, person, predicate, config, store)
            record(counts)
        return ExportBundle(request.destination, bundle.files, counts)
    recipients = recipients_of(request.recipients)
    path = request.destination
    with encrypted_file(path) as file:
        with file.archive(recipients) as archive:
            counts = write_bundle(archive, request, person, predicate, config, store)
        record(counts)
        file.publish()
    return ExportBundle(path.parent, (path.name,), counts, encrypted=True)


def write_bundle(
    bundle: Bundle,
    request: ExportRequest,
    person: SubjectKey | None,
    predicate: TenantPredicate,
    config: PixeltableConfig,
    store: ErasureStore,
) -> dict[str, int]:
    """Write every file; returns how many records there are of each kind.

    Raises:
        OSError: A file cannot be written.
        ProviderUnavailableError: A part did not answer.
        SealBrokenError: A row does not open in its place.
    """
    # What is noted in this process of when memories were read belongs to what is told.
    config.read_times.flush(tenant_id=predicate.tenant_id)
    facts = store.facts(predicate, person.subject_id) if person else {}
    ledger: dict[str, Facts] = {str(row["memory_id"]): row for row in facts.pop("memories", [])}
    if person is not None:
        facts["api_keys"] = [key_record(row, person) for row in facts.get("api_keys", [])]
    changes = facts.get("memory_changes", [])
    readings = _readings(person, facts, ledger)
    events = _events(person, predicate, config, store, set(ledger), readings)
    counts = {"memories": 0, "events": _write(bundle, "events.jsonl", events, request.progress, "Writing events")}
    if person is not None:
        for event in store.exports_of_everybody(predicate, person.subject_id):
            readings.take_wholesale(event)

    rows: list[SealedRow] = []
    records: Callable[[], Iterator[Record]] = lambda: iter(())  # noqa: E731 - one of two, of one type
    if person is not None:
        rows, made = _memories(person, ledger, changes, readings, predicate, config)
        records = lambda: (made.of(row) for row in rows)  # noqa: E731
    counts["memories"] = _write(
        bundle, "memories.jsonl", records(), request.progress, "Writing memories", total=len(rows)
    )
    counts |= {name: len(found) for name, found in facts.items()}
    about: Record = {
        "schema": EXPORT_SCHEMA,
        "generator": f"luminescent-cloud {importlib.metadata.version('luminescent-cloud')}",
        "tenant_id": predicate.tenant_id,
        "user_id": request.user_id,
        "subject_id": person.subject_id if person else None,
        "exported_at": config.clock(),
        **facts,
        "information": told(request.notice, config.deleted_retention),
        "activity": readings.activity(),
        "wholesale_reads": sorted(readings.wholesale, key=lambda read: str(read["at"])),
        "counts": counts,
    }
    _write(bundle, "person.json", (about,), request.progress, "Writing the person")
    pages.write(bundle, about, records(), len(rows), request.progress)
    for name in SCHEMAS:
        with bundle.file(name) as out:
            out.write(schema(name))
    return counts


def schema(name: str) -> bytes:
    """The JSON Schema of a file of an export, as it is published."""
    return resources.files("cloud.gdpr").joinpath("schemas", name).read_bytes()


def _readings(
    person: SubjectKey | None,
    facts: Mapping[str, list[dict[str, object]]],
    ledger: Mapping[str, Facts],
) -> Readings:
    keys = (str(row["key_id"]) for row in facts.get("api_keys", []))
    changed_by = [str(row["event_id"]) for row in facts.get("memory_changes", [])]
    stored_by = [str(row["stored_event"]) for row in ledger.values() if row["stored_event"] is not None]
    return Readings(person.subject_id if person else "", keys, ledger, [*changed_by, *stored_by])


def _events(
    person: SubjectKey | None,
    predicate: TenantPredicate,
    config: PixeltableConfig,
    store: ErasureStore,
    mine: set[str],
    readings: Readings,
) -> Iterator[Record]:
    if person is None:
        return
    for event in store.events(predicate, person.subject_id):
        told_of = event_record(event, person, mine, config.sealer)
        readings.take(told_of)
        yield told_of


def _memories(
    person: SubjectKey,
    ledger: Mapping[str, Facts],
    history: list[dict[str, object]],
    readings: Readings,
    predicate: TenantPredicate,
    config: PixeltableConfig,
) -> tuple[list[SealedRow], MemoryRecords]:
    """Every memory, the deleted ones that are still kept included, in the order of their ids."""
    for _ in range(_ATTEMPTS):
        changes = config.ledger.changes(predicate, person.subject_id, since=0)
        found = config.rows.newer(predicate, changes.placement, person.subject_id, since=0, column=changes.column)
        rows = {row.memory_id: row for row in found}
        rows.update((row.memory_id, row) for row in changes.waiting)
        known = [entry.memory_id for entry in changes.ledger if entry.memory_id in ledger]
        if all(memory_id in rows for memory_id in known):
            records = MemoryRecords(person, ledger, history, readings, config.models.of(changes.model))
            return [rows[memory_id] for memory_id in sorted(known)], records
    raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")


def _write(
    bundle: Bundle,
    name: str,
    records: Iterable[Record],
    progress: ExportProgress,
    what: str,
    *,
    total: int | None = None,
) -> int:
    count = 0
    progress(what, 0, total)
    with bundle.file(name) as out:
        for record in records:
            out.write(line_of(record))
            count += 1
            if count % _TOLD_EACH == 0:
                progress(what, count, total)
    return count
