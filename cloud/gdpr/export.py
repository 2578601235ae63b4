"""Writes everything that is kept of a person, by the data map, as JSON a person's tools can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloud.gdpr.model import ExportBundle
from cloud.gdpr.ports import ErasureStore
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError, SealBrokenError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import Place, SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SealedRow
from cloud.memory.vectors import Vectorizer
from cloud.tenancy.bound_keys import ranges_told_to

EXPORT_SCHEMA = 1
FILES = ("person.json", "memories.jsonl", "events.jsonl")
_ATTEMPTS = 4

Facts = Mapping[str, Mapping[str, object]]
"""What the ledger says of each memory, by its id."""


def write_bundle(
    directory: Path,
    user_id: str,
    person: SubjectKey | None,
    predicate: TenantPredicate,
    config: PixeltableConfig,
    store: ErasureStore,
) -> ExportBundle:
    """Write `person.json`, `memories.jsonl` and `events.jsonl`, each mode 0600, into `directory`.

    Raises:
        ProviderUnavailableError: A part did not answer.
        SealBrokenError: A row does not open in its place.
    """
    # What is noted in this process of when memories were read belongs to what is told.
    config.read_times.flush(tenant_id=predicate.tenant_id)
    facts = store.facts(predicate, person.subject_id) if person else {}
    ledger = {str(row["memory_id"]): row for row in facts.pop("memories", [])}
    if person is not None:
        facts["api_keys"] = [_key(row, person) for row in facts.get("api_keys", [])]
    memories = _memories(person, ledger, predicate, config) if person else []
    events = store.events(predicate, person.subject_id) if person else iter(())
    mine = {str(memory["id"]) for memory in memories}
    counts = {
        "memories": _write_lines(directory / "memories.jsonl", memories),
        "events": _write_lines(
            directory / "events.jsonl",
            (_without_others(_opened(event, person, config), person, mine) for event in events),
        ),
        **{name: len(rows) for name, rows in facts.items()},
    }
    about: dict[str, object] = {
        "schema": EXPORT_SCHEMA,
        "tenant_id": predicate.tenant_id,
        "user_id": user_id,
        "subject_id": person.subject_id if person else None,
        "exported_at": config.clock().isoformat(),
        **facts,
        "counts": counts,
    }
    _write_lines(directory / "person.json", (about,))
    return ExportBundle(directory, FILES, counts)


@contextmanager
def empty_directory(directory: Path) -> Iterator[None]:
    """`directory` is there and empty; if the block fails, nothing that it wrote stays.

    Raises:
        ConfigurationError: It is not empty, or cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigurationError(f"{directory} is not empty; export into an empty directory")
        try:
            yield
        except BaseException:
            # Whatever ended it, an interruption too: half of what is kept of a person must not lie about.
            for name in FILES:
                (directory / name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise ConfigurationError(f"{directory} cannot be written: {exc.strerror}") from exc


def _memories(
    person: SubjectKey, ledger: Facts, predicate: TenantPredicate, config: PixeltableConfig
) -> list[dict[str, object]]:
    """Every memory, the deleted ones that are still kept included."""
    for _ in range(_ATTEMPTS):
        changes = config.ledger.changes(predicate, person.subject_id, since=0)
        found = config.rows.newer(predicate, changes.placement, person.subject_id, since=0, column=changes.column)
        rows = {row.memory_id: row for row in found}
        rows.update((row.memory_id, row) for row in changes.waiting)
        known = [entry.memory_id for entry in changes.ledger if entry.memory_id in ledger]
        if all(memory_id in rows for memory_id in known):
            vectorizer = config.models.of(changes.model)
            return [_memory(rows[memory_id], ledger[memory_id], person, vectorizer) for memory_id in sorted(known)]
    raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")


def _memory(
    row: SealedRow, facts: Mapping[str, object], person: SubjectKey, vectorizer: Vectorizer
) -> dict[str, object]:
    envelope = vectorizer.open_envelope(person.key, row)
    vector = vectorizer.open_vector(person.key, row)
    return {
        "id": row.memory_id,
        **{name: value for name, value in facts.items() if name != "memory_id"},
        "user_id": envelope.user_id,
        "content": envelope.content,
        "memory_type": row.memory_type,
        "confidence": row.confidence,
        "source": envelope.source,
        "raw_source": envelope.raw_source,
        "extraction_version": envelope.extraction_version,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "metadata": envelope.metadata,
        "provenance": envelope.provenance,
        "embedding": None if vector is None else vector.tolist(),
    }


def _key(row: Mapping[str, object], person: SubjectKey) -> dict[str, object]:
    """A key of the person, with its ranges opened."""
    sealed = row.get("ranges_sealed")
    told = {name: value for name, value in row.items() if name != "ranges_sealed"}
    ranges = ranges_told_to(person, str(row["key_id"]), sealed if isinstance(sealed, bytes) else None)
    return {**told, "ip_ranges": ranges}


def _opened(event: dict[str, object], person: SubjectKey | None, config: PixeltableConfig) -> dict[str, object]:
    """The event, with what foreign code said about the person, if that is sealed under the person's key."""
    details = event.get("details")
    sealed = details.get("sealed") if isinstance(details, dict) else None
    if person is None or not isinstance(sealed, str):
        return event
    place = Place(str(event["log_id"]), person.subject_id, str(event["event_id"]), "audit_text")
    try:
        text = config.sealer.unseal(person.key, bytes.fromhex(sealed), place=place)
    except SealBrokenError:
        # Sealed under another key: it names the person and was said about somebody else.
        return event
    return {**event, "said": json.loads(text)}


def _without_others(event: dict[str, object], person: SubjectKey | None, mine: set[str]) -> dict[str, object]:
    """The event of several people as one of them may see it (GDPR Art. 15(4))."""
    if person is None or "subject_ids" not in event:
        return event
    ids = event["resource_ids"]
    kept = [memory_id for memory_id in ids if memory_id in mine] if isinstance(ids, list) else []
    return {**event, "subject_ids": [person.subject_id], "resource_ids": kept}


def _write_lines(path: Path, records: Iterable[dict[str, object]]) -> int:
    count = 0
    with path.open("x", encoding="utf-8", errors="backslashreplace") as out:
        path.chmod(0o600)
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False, sort_keys=True, default=str) + "\n")
            count += 1
    return count
