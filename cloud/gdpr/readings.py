"""Who read a person's memories and when, and who changed them: gathered from the audit events as they go by.

What is kept grows with the person's memories and not with the events: of each memory every reader is kept, with the
first and the last time, and the latest few reads one by one. The events themselves are all in `events.jsonl`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloud.audit.model import Outcome
from cloud.kernel.access import Action

Record = dict[str, object]

LATEST_READS: Final = 20
LATEST_CHANGES: Final = 100
READS: Final = frozenset(
    action.value
    for action in (
        Action.MEMORY_RETRIEVE,
        Action.MEMORY_SEARCH,
        Action.MEMORY_GET,
        Action.MEMORY_LIST,
        Action.MEMORY_HISTORY,
    )
)
"""Operations whose event names every memory that they returned."""
WHOLESALE: Final = frozenset(
    action.value for action in (Action.MEMORY_EXPORT, Action.MEMORY_EXPORT_ALL, Action.ACCESS_REQUEST)
)
"""Operations that return whatever there is, and name no memory in their event."""


@dataclass(slots=True)
class _Span:
    """How often, and from when to when."""

    first_at: str
    last_at: str
    count: int = 1

    def again(self, at: str) -> None:
        self.count += 1
        self.last_at = at

    def told(self) -> Record:
        return {"count": self.count, "first_at": self.first_at, "last_at": self.last_at}


_Reader = tuple[str, str | None, str | None, tuple[str, ...]]
"""Action, and kind, id and roles of whoever did it."""


@dataclass(slots=True)
class _Reads:
    by: dict[_Reader, _Span] = field(default_factory=dict)
    latest: deque[tuple[str, _Reader, str]] = field(default_factory=lambda: deque(maxlen=LATEST_READS))


class Readings:
    """What the events say of each memory.

    Args:
        subject_id: The person.
        key_ids: The person's keys: what is done with them, the person does.
        memory_ids: The person's memories.
        changed_by: Events whose actor will be asked for.
    """

    def __init__(
        self, subject_id: str, key_ids: Iterable[str], memory_ids: Iterable[str], changed_by: Iterable[str]
    ) -> None:
        self._subject_id = subject_id
        self._own = frozenset((subject_id, *key_ids))
        self._memories = frozenset(memory_ids)
        self._wanted = frozenset(changed_by)
        self._reads: defaultdict[str, _Reads] = defaultdict(_Reads)
        self._activity: dict[tuple[str, str], _Span] = {}
        self._actors: dict[str, _Reader] = {}
        # One object for each reader, however many reads are kept of it.
        self._readers: dict[_Reader, _Reader] = {}
        self.wholesale: list[Record] = []

    def take(self, event: Mapping[str, Any]) -> None:
        """Take up an event as the person may see it; they come oldest first."""
        action, outcome, at = str(event["action"]), str(event["outcome"]), str(event["occurred_at"])
        _span(self._activity, (action, outcome), at)
        event_id, reader = str(event["event_id"]), self._reader(action, event["actor"])
        if event_id in self._wanted:
            self._actors[event_id] = reader
        if outcome != Outcome.ALLOWED.value:
            return
        if action in READS:
            # The person may have read somebody else's, as an administrator.
            for memory_id in self._memories.intersection(event["resource_ids"]):
                found = self._reads[memory_id]
                _span(found.by, reader, at)
                found.latest.append((at, reader, event_id))
        elif action in WHOLESALE and event["subject_id"] == self._subject_id:
            self.take_wholesale(event)

    def take_wholesale(self, event: Mapping[str, Any]) -> None:
        """Take up an export of everybody, or of this person; what else it says is not this person's."""
        action = str(event["action"])
        told = {"at": event["occurred_at"], "action": action, "event_id": event["event_id"]}
        self.wholesale.append({**told, "actor": self.actor(self._reader(action, event["actor"]))})

    def reads(self, memory_id: str) -> Record:
        """The calls that returned a memory."""
        found = self._reads.get(memory_id, _Reads())
        spans = found.by.values()
        return {
            "count": sum(span.count for span in spans),
            "first_at": min((span.first_at for span in spans), default=None),
            "last_at": max((span.last_at for span in spans), default=None),
            "by": [
                {"action": reader[0], "actor": self.actor(reader), **span.told()} for reader, span in found.by.items()
            ],
            "latest": [
                {"at": at, "action": reader[0], "actor": self.actor(reader), "event_id": event_id}
                for at, reader, event_id in found.latest
            ],
        }

    def changes(self, rows: Iterable[Mapping[str, object]]) -> Record:
        """What was done to a memory; `rows` are the ledger's, oldest first, beginning with its being stored."""
        told = [{**row, "actor": self._changer(row["event_id"])} for row in rows]
        return {"count": len(told), "latest": told[-LATEST_CHANGES:]}

    def activity(self) -> list[Record]:
        """The events in sums, by action and outcome."""
        return [
            {"action": action, "outcome": outcome, **span.told()}
            for (action, outcome), span in sorted(self._activity.items())
        ]

    def actor(self, reader: _Reader) -> Record:
        """Whoever acted, and whether it was the person themself."""
        _, kind, name, roles = reader
        return {"kind": kind, "id": name, "roles": list(roles), "self": name is not None and name in self._own}

    def _changer(self, event_id: object) -> Record | None:
        reader = self._actors.get(str(event_id))
        return self.actor(reader) if reader is not None else None

    def _reader(self, action: str, actor: Mapping[str, Any]) -> _Reader:
        reader = (action, actor["kind"], actor["id"], tuple(actor["roles"]))
        return self._readers.setdefault(reader, reader)


def _span(spans: dict[Any, _Span], name: object, at: str) -> None:
    known = spans.get(name)
    if known is None:
        spans[name] = _Span(at, at)
    else:
        known.again(at)
