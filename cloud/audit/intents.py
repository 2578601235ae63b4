"""Work in several steps: which event says that it begins, and which one how it ended; pure.

An event whose action ends in `.step` is an intent. Its outcome is the event of the same request whose action is the
intent's without the ending, or the one that its details name as `operation`. Work that the service goes on with after a
crash ends under another request: an outcome of the service itself answers for every intent of that action in its log,
unless it says that the outcome of one of them is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cloud.audit.model import INTENT_ENDING, Outcome
from cloud.kernel.access import Action
from cloud.kernel.scope import PrincipalKind

_ALSO: Final = {
    Action.MEMORY_EXPORT_ALL.value: Action.MEMORY_EXPORT.value,
    # The log of events without a tenant is exported by another right than a tenant's.
    Action.AUDIT_SYSTEM.value: Action.AUDIT_EXPORT.value,
}
"""Actions that end what was begun under another name."""

BEGUN: Final[frozenset[str]] = frozenset(
    action.value
    for action in Action
    if action.value.startswith("keyring.") or f"{action.value}{INTENT_ENDING}" in {one.value for one in Action}
)
"""Actions that an intent can announce."""
GONE_ON_WITH: Final[frozenset[str]] = frozenset(
    {Action.ERASURE.value, Action.TENANT_CLOSE.value, Action.TENANT_MOVE.value, Action.KEYRING_ROTATE.value}
)
"""Actions that the service itself goes on with when whoever began them is gone: they end by its own outcome."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Work that was begun.

    Attributes:
        event_id: The event that says so.
        log_id: Its log.
        request_id: Its request.
        action: The action that its outcome will have.
        occurred_at: When.
    """

    event_id: str
    log_id: str
    request_id: str
    action: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """An outcome; `by_service` if the service itself ended what another request had begun."""

    log_id: str
    request_id: str
    action: str
    by_service: bool


def intents_of(events: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Intent]:
    """The intents among events, each given with its log."""
    found = []
    for log_id, event in events:
        action = str(event.get("action", ""))
        if not action.endswith(INTENT_ENDING):
            continue
        named = (event.get("details") or {}).get("operation")
        outcome = str(named) if named else action.removesuffix(INTENT_ENDING)
        if outcome in BEGUN:
            at = datetime.fromisoformat(event["occurred_at"])
            found.append(Intent(event["event_id"], log_id, str(event.get("request_id")), outcome, at))
    return found


def outcomes_of(events: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Ended]:
    """The events that can be an outcome of what was begun, each given with its log."""
    found = []
    for log_id, event in events:
        action = str(event.get("action", ""))
        action = _ALSO.get(action, action)
        if action in BEGUN:
            kind = (event.get("actor") or {}).get("kind")
            by_service = kind == PrincipalKind.SYSTEM.value and event.get("outcome") != Outcome.UNKNOWN.value
            found.append(Ended(log_id, str(event.get("request_id")), action, by_service))
    return found
