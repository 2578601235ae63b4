"""Laws of work in several steps: an intent waits for its own outcome, or for the service that went on with it."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.audit.intents import BEGUN, intents_of, outcomes_of
from cloud.kernel.access import Action


def event(action: str, **fields: object) -> tuple[str, dict[str, Any]]:
    made = {
        "event_id": "e-1",
        "action": action,
        "request_id": "r-1",
        "subject_id": None,
        "occurred_at": "2026-01-31T08:00:00Z",
        "actor": {"kind": "api_key", "id": "k"},
        "details": {},
    }
    return "acme", made | fields


@pytest.mark.parametrize("action", [action for action in Action if action.value.endswith(".step")])
def test_every_step_announces_an_action_that_exists(action: Action) -> None:
    details = {"operation": "keyring.rotate"} if action is Action.KEYRING_STEP else {}
    (intent,) = intents_of([event(action.value, details=details)])
    assert Action(intent.action).value in BEGUN
    (ended,) = outcomes_of([event(intent.action)])
    assert (ended.action, ended.request_id, ended.by_service) == (intent.action, intent.request_id, False)


@pytest.mark.parametrize(
    ("outcome", "began"), [("memory.export_all", "memory.export"), ("audit.system", "audit.export")]
)
def test_an_outcome_under_another_right_ends_what_began(outcome: str, began: str) -> None:
    (ended,) = outcomes_of([event(outcome)])
    assert ended.action == began


def test_what_the_service_ends_is_told_apart() -> None:
    (ended,) = outcomes_of([event("gdpr.erase", actor={"kind": "system", "id": "erasure"})])
    assert ended.by_service


def test_that_one_is_unknown_says_nothing_of_others() -> None:
    (ended,) = outcomes_of([event("audit.export", actor={"kind": "system", "id": "sequencer"}, outcome="unknown")])
    assert not ended.by_service


@pytest.mark.parametrize("action", ["memory.store", "external.event", "keyring.step", "unheard.of.step"])
def test_everything_else_neither_begins_nor_ends_anything(action: str) -> None:
    assert intents_of([event(action)]) == []
    assert outcomes_of([event(action)]) == [] or action == "keyring.step"
