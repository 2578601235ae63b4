"""Laws of audit events as values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloud.audit.foreign import outcome_of, safe_counts
from cloud.audit.model import UNKNOWN_ACTOR, Actor, AuditDraft, Outcome
from cloud.kernel.access import Action
from cloud.kernel.errors import InvalidFilterError
from cloud.kernel.scope import PrincipalKind


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
