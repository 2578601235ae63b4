"""What an audit event says. It holds ids, codes and counts: no content, no query, no user id."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum

from cloud.kernel.access import Action
from cloud.kernel.errors import LuminescentError
from cloud.kernel.ids import new_event_id
from cloud.kernel.scope import PrincipalKind

SCHEMA_VERSION = 1

JsonScalar = str | int | bool | None
Details = dict[str, JsonScalar | list[str] | dict[str, int]]


class Outcome(StrEnum):
    """How an operation ended."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"


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
    started_ns: int = field(default_factory=time.monotonic_ns)

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
            "details": self.details,
            "latency_us": (time.monotonic_ns() - self.started_ns) // 1000,
        }


def reason_of(error: LuminescentError) -> str:
    """The reason code that an error leaves in the log."""
    reason = getattr(error, "reason", None)
    # Only codes of our own: some reasons are sentences, and a sentence may one day quote something.
    if isinstance(reason, str) and reason != error.code and reason.isascii() and reason.replace("_", "").isalnum():
        return f"{error.code}:{reason}"
    return error.code
