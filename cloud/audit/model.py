"""What an audit event says. It holds ids, codes and counts: no content, no query, no user id."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cloud.kernel.access import Action
from cloud.kernel.errors import LuminescentError
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import PrincipalKind
from cloud.keys.sealing import SEAL_OVERHEAD_BYTES

SCHEMA_VERSION = 1

CONTENT_KEYS = frozenset(
    {"content", "query", "raw_source", "metadata", "prompt", "message", "messages", "user_id", "embedding"}
)
"""Names under which content or a person would stand: our own details never have them, foreign ones are sealed."""
DETAILS_BYTES = 16_384
SEALED_BYTES = 262_144
"""What foreign code said in one event, at most: sealed and in hexadecimal digits it fits a line of an export."""
INTENT_ENDING = ".step"
"""Ends the action of an event that says that work in several steps begins."""

JsonScalar = str | int | bool | None
Details = dict[str, JsonScalar | list[str] | dict[str, int]]


class Outcome(StrEnum):
    """How an operation ended."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It was begun, and whoever did it was cut off: what became of it nobody said."""


class Category(StrEnum):
    """What kind of event it is."""

    OPERATION = "operation"
    ADMINISTRATION = "administration"
    SECURITY = "security"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted, as the log may know it.

    Attributes:
        kind: How the principal was established.
        id: Key id, subject id, component or operator name; `None` for a caller nobody could identify.
        roles: Its roles, sorted.
    """

    kind: PrincipalKind | None
    id: str | None
    roles: tuple[str, ...] = ()


UNKNOWN_ACTOR = Actor(kind=None, id=None)


@dataclass(frozen=True, slots=True)
class AuditDraft:
    """An event before its outcome is known; the transaction that decides completes and commits it.

    Attributes:
        action: What was asked for.
        actor: Who asked.
        request_id: Correlates the events of one request.
        trace_id: 32 hex digits, if the call belongs to a trace.
        subject_id: Whose memories, if known.
        category: Kind of event.
        details: Small facts that are not personal.
        event_id: Its id; repeating a call with the same id cannot record it twice.
        process: Random id of the process; an intent names it, so that it can be known when nobody will end it.
        started_ns: Reading of the process's monotonic clock when the operation began.
    """

    action: Action
    actor: Actor
    request_id: str
    trace_id: str | None = None
    subject_id: str | None = None
    category: Category = Category.OPERATION
    details: Details = field(default_factory=dict)
    event_id: str = field(default_factory=new_event_id)
    process: str | None = None
    started_ns: int = field(default_factory=time.monotonic_ns)

    def __post_init__(self) -> None:
        if self.details:
            check_details(self.details)

    def document(self) -> dict[str, object]:
        """The event as JSON; the server function adds log, time, outcome, reason, ids and counts."""
        return {
            "schema": SCHEMA_VERSION,
            "event_id": self.event_id,
            "category": self.category.value,
            "action": self.action.value,
            "actor": {
                "kind": self.actor.kind.value if self.actor.kind else None,
                "id": self.actor.id,
                "roles": list(self.actor.roles),
            },
            "subject_id": self.subject_id,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "details": self._details(),
            "latency_us": (time.monotonic_ns() - self.started_ns) // 1000,
        }

    def _details(self) -> Mapping[str, object]:
        if self.process is None or not self.action.value.endswith(INTENT_ENDING):
            return self.details
        return {**self.details, "process": self.process}


def check_details(details: Mapping[str, object]) -> None:
    """Return if our own code may put these details into an event.

    Raises:
        ValueError: They are not JSON, larger than 16 KiB beside what is sealed, or hold a key declared as content;
            names no value.
    """
    try:
        size = len(json.dumps(details, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError):
        raise ValueError("details of an audit event are not JSON") from None
    # What foreign code said is sealed, and has a bound of its own.
    allowed = DETAILS_BYTES + (2 * (SEALED_BYTES + SEAL_OVERHEAD_BYTES) if "sealed" in details else 0)
    if size > allowed:
        raise ValueError(f"details of an audit event have {size} bytes; {allowed} are allowed")
    if content_keys(details):
        raise ValueError("details of an audit event have a key that is declared as content")


def content_keys(value: object) -> int:
    """How many keys in it, however deep, are declared as content."""
    if isinstance(value, Mapping):
        return sum((key in CONTENT_KEYS) + content_keys(item) for key, item in value.items())
    return sum(content_keys(item) for item in value) if isinstance(value, list | tuple) else 0


def reason_of(error: LuminescentError) -> str:
    """The reason code that an error leaves in the log."""
    reason = getattr(error, "reason", None)
    # Only codes of our own: some reasons are sentences, and a sentence may one day quote something.
    if isinstance(reason, str) and reason != error.code and reason.isascii() and reason.replace("_", "").isalnum():
        return f"{error.code}:{reason}"
    return error.code
