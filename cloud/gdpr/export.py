"""Writes everything that is kept of a person, by the data map, as JSON a person's tools can read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cloud.gdpr.model import ExportBundle
from cloud.gdpr.ports import ErasureStore
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError, SealBrokenError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import Place, SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SealedRow

EXPORT_SCHEMA = 1
_ATTEMPTS = 4


def write_bundle(
    directory: Path,
    user_id: str,
    person: SubjectKey | None,
    predicate: TenantPredicate,
    config: PixeltableConfig,
    store: ErasureStore,
) -> ExportBundle:
    """Write `person.json`, `memories.jsonl` and `events.jsonl`, each mode 0600.

    Raises:
        ConfigurationError: The directory is not empty.
        ProviderUnavailableError: A part did not answer.
        SealBrokenError: A row does not open in its place.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ConfigurationError(f"{directory} is not empty; export into an empty directory")
    memories = _memories(person, predicate, config) if person else []
    events = store.events(predicate, person.subject_id) if person else iter(())
    keys = store.api_keys(predicate, person.subject_id) if person else []
    counts = {
        "memories": _write_lines(directory / "memories.jsonl", memories),
        "events": _write_lines(directory / "events.jsonl", (_opened(event, person, config) for event in events)),
        "api_keys": len(keys),
    }
    about = {
        "schema": EXPORT_SCHEMA,
        "tenant_id": predicate.tenant_id,
        "user_id": user_id,
        "subject_id": person.subject_id if person else None,
        "exported_at": config.clock().isoformat(),
        "api_keys": keys,
        "counts": counts,
    }
    _write_lines(directory / "person.json", (about,))
    return ExportBundle(directory, ("person.json", "memories.jsonl", "events.jsonl"), counts)


def _memories(person: SubjectKey, predicate: TenantPredicate, config: PixeltableConfig) -> list[dict[str, object]]:
    """Every memory, the deleted ones that are still kept included."""
    for _ in range(_ATTEMPTS):
        changes = config.ledger.changes(predicate, person.subject_id, since=0)
        rows = {
            row.memory_id: row for row in config.rows.newer(predicate, changes.placement, person.subject_id, since=0)
        }
        rows.update((row.memory_id, row) for row in changes.waiting)
        if all(entry.memory_id in rows for entry in changes.ledger):
            states = {entry.memory_id: entry.state.value for entry in changes.ledger}
            return [_memory(rows[key], states[key], person, config) for key in sorted(states)]
    raise ProviderUnavailableError("data plane", reason="lacks a memory that the ledger holds")


def _memory(row: SealedRow, state: str, person: SubjectKey, config: PixeltableConfig) -> dict[str, object]:
    envelope = config.vectorizer.open_envelope(person.key, row)
    return {
        "id": row.memory_id,
        "state": state,
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
    }


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


def _write_lines(path: Path, records: Iterable[dict[str, object]]) -> int:
    count = 0
    with path.open("x", encoding="utf-8", errors="surrogatepass") as out:
        path.chmod(0o600)
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False, sort_keys=True, default=str) + "\n")
            count += 1
    return count
