"""Takes the fingerprints of a person from everything that is kept of it: both planes, waiting rows, keyring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from pydantic import JsonValue

from cloud.gdpr.fingerprints import Fingerprint, FingerprintSet, Trace, distinct, of_id, of_sealed, of_text
from cloud.gdpr.ports import ErasureStore
from cloud.kernel.errors import KeyDestroyedError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import KeyTraces, SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SealedRow
from cloud.memory.placements import COLUMNS

TracesOf = Callable[[str, str], KeyTraces | None]
"""What the keyring's files hold of a subject of a tenant."""


def take(
    predicate: TenantPredicate,
    person: SubjectKey,
    user_id: str,
    *,
    config: PixeltableConfig,
    store: ErasureStore,
    key_traces: TracesOf,
) -> FingerprintSet:
    """Fingerprints of what is kept now.

    Raises:
        KeyDestroyedError: The person was erased meanwhile.
        ProviderUnavailableError: A part did not answer.
        SealBrokenError: A row does not open in its place.
    """
    traces = key_traces(predicate.tenant_id, person.subject_id)
    if traces is None:
        raise KeyDestroyedError("the person was erased while fingerprints were taken")
    found = [
        *of_sealed(Trace.WRAPPED_KEY, 0, traces.wrapped),
        *of_sealed(Trace.LINK, 0, traces.tag),
        *of_id(Trace.SUBJECT_ID, 0, person.subject_id),
    ]
    facts = store.facts(predicate, person.subject_id)
    for item, entry in enumerate(facts.get("memories", ())):
        found += of_id(Trace.MEMORY_ID, item, str(entry["memory_id"]))
    texts: dict[str, None] = {user_id: None}
    rows = list(_rows(predicate, person, config, store))
    for item, row in enumerate(rows):
        found += of_sealed(Trace.ENVELOPE, item, row.envelope)
        if row.embedding is not None:
            found += of_sealed(Trace.VECTOR, item, row.embedding)
        envelope = config.vectorizer.open_envelope(person.key, row)
        for text in (
            envelope.content,
            envelope.raw_source,
            *_strings(envelope.metadata),
            *_strings(envelope.provenance),
        ):
            if text:
                texts.setdefault(text)
    too_short, numbers = 0, count()
    for text in texts:
        pieces = of_text(next(numbers), text)
        found += pieces
        too_short += not pieces
    return FingerprintSet(predicate.tenant_id, config.clock(), tuple(distinct(found)), too_short)


def _rows(
    predicate: TenantPredicate, person: SubjectKey, config: PixeltableConfig, store: ErasureStore
) -> Iterator[SealedRow]:
    """Every row of the person, in each table it may be in, with each of its vectors, and what waits."""
    for placement in store.placements(predicate):
        for column in COLUMNS:
            yield from config.rows.newer(predicate, placement, person.subject_id, since=0, column=column)
    yield from config.ledger.changes(predicate, person.subject_id, since=0).waiting


def _strings(value: JsonValue) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from _strings(one)
        case dict():
            for name, one in value.items():
                yield name
                yield from _strings(one)


def needed(found: FingerprintSet) -> dict[tuple[Trace, int], list[Fingerprint]]:
    """The fingerprints by what they are pieces of: one piece of each that is found shows that it is there."""
    by_item: dict[tuple[Trace, int], list[Fingerprint]] = {}
    for one in found.fingerprints:
        by_item.setdefault((one.trace, one.item), []).append(one)
    return by_item
