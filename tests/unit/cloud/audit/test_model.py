"""Laws of audit events as values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloud.audit.canonical import canonical
from cloud.audit.foreign import _written, outcome_of, safe_counts
from cloud.audit.model import DETAILS_BYTES, SEALED_BYTES, UNKNOWN_ACTOR, Actor, AuditDraft, Outcome
from cloud.audit.verify import MAX_LINE_BYTES
from cloud.kernel.access import Action
from cloud.kernel.errors import InvalidFilterError
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import PrincipalKind
from cloud.keys.sealing import SEAL_OVERHEAD_BYTES
from cloud.memory.provider import _MAX_BATCH


def test_a_draft_becomes_json_with_every_field_the_log_promises() -> None:
    draft = AuditDraft(
        action=Action.MEMORY_STORE,
        actor=Actor(PrincipalKind.API_KEY, "k1", ("auditor", "service")),
        request_id="r-1",
        details={"severity": "info"},
    )
    document = json.loads(json.dumps(draft.document()))
    assert document.keys() == {
        "schema", "event_id", "category", "action", "actor", "subject_id", "request_id", "trace_id", "details",
        "latency_us",
    }  # fmt: skip
    assert document["actor"] == {"kind": "api_key", "id": "k1", "roles": ["auditor", "service"]}
    assert document["latency_us"] >= 0


def test_an_actor_whom_nobody_knows_has_no_name() -> None:
    draft = AuditDraft(action=Action.MEMORY_GET, actor=UNKNOWN_ACTOR, request_id="r-1")
    assert draft.document()["actor"] == {"kind": None, "id": None, "roles": []}


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("success", Outcome.ALLOWED),
        ("allowed", Outcome.ALLOWED),
        ("denied", Outcome.DENIED),
        ("failure", Outcome.FAILED),
        ("failed", Outcome.FAILED),
        ("", Outcome.FAILED),
        ("Success", Outcome.FAILED),
        ("alice@example.com", Outcome.FAILED),
    ],
)
def test_a_word_that_is_not_known_counts_as_a_failure(word: str, outcome: Outcome) -> None:
    assert outcome_of(word) is outcome


def test_counts_keep_the_names_of_categories_and_fold_the_rest() -> None:
    counts = {"memories": 3, "usage_metrics": 0, "alice@example.com": 2, "Alice": 1, "a b": 1, "x" * 65: 1, "7": 1}
    assert safe_counts(counts) == {"memories": 3, "usage_metrics": 0, "other": 6}


def test_counts_of_many_names_keep_64_of_them() -> None:
    counts = {"n" * length: length for length in range(1, 65)} | {"other": 3, "b": 5, "c": 7, "n": 1}
    kept = safe_counts(counts)
    assert len(kept) == 65
    assert kept["other"] == 15
    assert sum(kept.values()) == sum(counts.values())


SAID = [
    {"k" * 10_000_000: 1},
    {f"{number:0300}": "x" for number in range(2_000)},
    {str(number): "\0" * 10_000 for number in range(2_000)},
    {str(number): "x" for number in range(300_000)},
    {"note": "x" * (SEALED_BYTES - 12)},
]


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_what_is_sealed_has_a_bound_however_much_is_said(said: dict[str, object]) -> None:
    plaintext, counts = _written(said)
    assert len(plaintext) <= SEALED_BYTES
    assert ("cut_fields" in counts) is (len(plaintext) < 100)
    assert ("cut_bytes" in counts) is ("note" not in said)


def longest(details: Any) -> int:
    """Bytes of the longest line with these details: every other field as long as it can be."""
    actor = Actor(PrincipalKind.LOCAL_OPERATOR, "x" * 256, ("auditor", "member", "operator", "service", "tenant_admin"))
    draft = AuditDraft(
        max(Action, key=len), actor, "r" * 128, trace_id="0" * 32, subject_id=new_event_id(), details=details
    )
    counts = {f"{number:064}": 2**53 - 1 for number in range(65)}
    batch = [new_event_id()] * _MAX_BATCH if "sealed" not in details else []
    written = {
        "log_id": "t" * 63,
        "occurred_at": "2030-01-02T03:04:05.123456Z",
        "outcome": "allowed",
        "reason": "r" * 256,
    }
    return len(
        canonical({**draft.document(), **written, "resource_ids": batch, "subject_ids": batch, "counts": counts})
    )


def test_no_event_is_longer_than_a_line_that_is_verified() -> None:
    """One longer line, and no export that has it could ever be verified."""
    note = "x" * (DETAILS_BYTES - 12)
    sealed = "f" * (2 * (SEALED_BYTES + SEAL_OVERHEAD_BYTES))
    for details in ({"note": note}, {"sealed": sealed, "note": note[:-14]}):
        assert DETAILS_BYTES < longest(details) < MAX_LINE_BYTES
        with pytest.raises(ValueError, match="bytes"):
            AuditDraft(Action.DOCTOR, UNKNOWN_ACTOR, "r-1", details={**details, "note": note + "x"})


@pytest.mark.parametrize("count", [-1, 2**53, 1.5, "3", True, None, float("nan")])
def test_a_count_that_no_export_could_carry_is_refused(count: object) -> None:
    """One such number in the log, and its tenant could never export it again."""
    with pytest.raises(InvalidFilterError):
        safe_counts({"memories": count})  # type: ignore[dict-item]
    with pytest.raises(InvalidFilterError):
        safe_counts({"A": 2**53 - 1, "B": 1})


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"note": object()}, "not JSON"),
        ({"note": float("nan")}, "not JSON"),
        ({"note": "x" * 16_384}, "bytes"),
        ({"content": "a secret"}, "declared as content"),
        ({"nested": {"query": "a secret"}}, "declared as content"),
        ({"nested": [{"raw_source": "a secret"}]}, "declared as content"),
    ],
)
def test_details_that_could_hold_content_are_refused_from_our_own_code(details: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        AuditDraft(Action.DOCTOR, UNKNOWN_ACTOR, "r-1", details=details)
    assert "a secret" not in str(refused.value)
