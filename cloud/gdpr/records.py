"""What an export says of a memory, of a key and of an event; `schemas/` describes each field."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from cloud.gdpr.readings import Readings, Record
from cloud.kernel.errors import SealBrokenError
from cloud.keys.model import Place, SubjectKey
from cloud.keys.ports import Sealer
from cloud.memory.model import SealedRow
from cloud.memory.vectors import Vectorizer
from cloud.tenancy.bound_keys import ranges_told_to

Facts = Mapping[str, object]


class MemoryRecords:
    """Makes the records of one person's memories.

    Args:
        person: Whose they are.
        ledger: What the ledger says of each, by its id.
        changes: The ledger's history, oldest first.
        readings: What the audit events say of each.
        vectorizer: The model of their vectors.
    """

    def __init__(
        self,
        person: SubjectKey,
        ledger: Mapping[str, Facts],
        changes: Sequence[Facts],
        readings: Readings,
        vectorizer: Vectorizer,
    ) -> None:
        self._person = person
        self._ledger = ledger
        self._readings = readings
        self._vectorizer = vectorizer
        self._changes: defaultdict[str, list[Record]] = defaultdict(list)
        for change in sorted(changes, key=lambda row: str(row["changed_at"])):
            told = {name: change[name] for name in ("change", "revision", "changed_at", "event_id")}
            self._changes[str(change["memory_id"])].append(told)
        self._replaced: defaultdict[str, list[str]] = defaultdict(list)
        for memory_id, facts in ledger.items():
            if facts["superseded_by"] is not None:
                self._replaced[str(facts["superseded_by"])].append(memory_id)

    def of(self, row: SealedRow) -> Record:
        """The record of a memory.

        Raises:
            SealBrokenError: It does not open in its place.
        """
        facts = self._ledger[row.memory_id]
        envelope = self._vectorizer.open_envelope(self._person.key, row)
        vector = self._vectorizer.open_vector(self._person.key, row)
        embedder = self._vectorizer.embedder
        model = {
            "model": embedder.name,
            "version": embedder.version,
            "dimensions": embedder.dimensions,
            "encoding": "int8",
        }
        stored = {
            "change": "stored",
            "revision": 1,
            "changed_at": facts["stored_at"],
            "event_id": facts["stored_event"],
        }
        return {
            "id": row.memory_id,
            **{name: value for name, value in facts.items() if name != "memory_id"},
            "supersedes": sorted(self._replaced.get(row.memory_id, ())),
            "user_id": envelope.user_id,
            "content": envelope.content,
            "memory_type": row.memory_type,
            "confidence": row.confidence,
            "source": envelope.source,
            "raw_source": envelope.raw_source,
            "extraction_version": envelope.extraction_version,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "metadata": envelope.metadata,
            "provenance": envelope.provenance,
            "embedding": None if vector is None else vector.tolist(),
            "derived": {"embedding": None if vector is None else model, "word_index": "in_memory"},
            "changes": self._readings.changes([stored, *self._changes.get(row.memory_id, ())]),
            "reads": self._readings.reads(row.memory_id),
        }


def key_record(row: Facts, person: SubjectKey) -> Record:
    """A key of the person, with its ranges opened."""
    sealed = row.get("ranges_sealed")
    told = {name: value for name, value in row.items() if name != "ranges_sealed"}
    ranges = ranges_told_to(person, str(row["key_id"]), sealed if isinstance(sealed, bytes) else None)
    return {**told, "ip_ranges": ranges}


def event_record(event: Record, person: SubjectKey, mine: set[str], sealer: Sealer) -> Record:
    """The event as the person may see it, with what foreign code said about them."""
    return _without_others(_opened(event, person, sealer), person, mine)


def _opened(event: Record, person: SubjectKey, sealer: Sealer) -> Record:
    details = event.get("details")
    sealed = details.get("sealed") if isinstance(details, dict) else None
    if not isinstance(sealed, str):
        return event
    place = Place(str(event["log_id"]), person.subject_id, str(event["event_id"]), "audit_text")
    try:
        text = sealer.unseal(person.key, bytes.fromhex(sealed), place=place)
    except SealBrokenError:
        # Sealed under another key: it names the person and was said about somebody else.
        return event
    return {**event, "said": json.loads(text)}


def _without_others(event: Record, person: SubjectKey, mine: set[str]) -> Record:
    """The event of several people as one of them may see it (GDPR Art. 15(4))."""
    if "subject_ids" not in event:
        return event
    ids = event["resource_ids"]
    kept = [memory_id for memory_id in ids if memory_id in mine] if isinstance(ids, list) else []
    return {**event, "subject_ids": [person.subject_id], "resource_ids": kept}


def line_of(record: Mapping[str, object]) -> bytes:
    """The record as a line of JSON, members in order of their names, times in UTC."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, sort_keys=True, default=_plain)
    # Half of a surrogate pair is a poor text and still what was said.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case UUID():
            return str(value)
        case _ if hasattr(value, "compressed"):
            # An address or a network.
            return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
