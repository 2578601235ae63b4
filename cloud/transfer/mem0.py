"""Reads what mem0 gives out: a list of memories, or pages `{"results": [...]}`, one after another.

| mem0 | here |
|---|---|
| `memory` | `content` |
| `user_id` | `user_id` |
| `created_at` | `created_at` |
| `expiration_date` | `expires_at`: the end of that day, UTC |
| `metadata` | `metadata` |
| `categories`, `agent_id`, `app_id`, `run_id`, `actor_id`, `role` | `metadata`, under the same names |
| the category `user_preferences` | `memory_type` `preference`; `fact` otherwise |
| all else but `score` | `provenance.mem0` |

Source: docs.mem0.ai, API reference, "Get Memories"; `mem0.Memory.get_all` of the open-source package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from cloud.transfer.elements import elements
from cloud.transfer.json_text import json_object
from cloud.transfer.model import Entry, EntryError, Position

MAX_ELEMENT_BYTES: Final = 4 * 2**20
LISTS: Final = ("results", "memories")
_KEPT_IN_METADATA: Final = ("categories", "agent_id", "app_id", "run_id", "actor_id", "role")
_MAPPED: Final = frozenset({"memory", "user_id", "metadata", "created_at", "expiration_date", "score"})
_PREFERENCES: Final = "user_preferences"


def entries(read: Callable[[int], bytes], user_id: str | None) -> Iterator[Entry]:
    """An entry for each element, counted from 1 over all pages.

    Args:
        read: Returns at most so many bytes, and none at the end.
        user_id: Whose memories those are that name nobody, such as an agent's.

    Raises:
        UnreadableFileError: It is no such list, or ends early.
    """
    found = elements(read, max_bytes=MAX_ELEMENT_BYTES, within=LISTS, what="list of mem0's memories")
    for number, (data, size) in enumerate(found, start=1):
        position = Position(number)
        if data is None:
            yield Entry(position, size, fault=f"longer than {MAX_ELEMENT_BYTES // 2**20} MiB")
            continue
        try:
            item = json_object(data)
            values = _values(item, user_id)
        except EntryError as error:
            yield Entry(position, size, fault=str(error))
        else:
            own = item.get("id")
            yield Entry(position, size, values, id=own if isinstance(own, str) else None)


def _values(item: dict[str, object], user_id: str | None) -> dict[str, object]:
    if "memory" not in item:
        raise EntryError("invalid memory: field 'memory' is missing")
    person = item.get("user_id")
    if person is None and user_id is None:
        raise EntryError("names no user_id; give a person for such entries with --user")
    values: dict[str, object] = {
        "user_id": user_id if person is None else person,
        "content": item["memory"],
        "memory_type": _memory_type(item.get("categories")),
        "source": "mem0",
        "metadata": _metadata(item),
        "provenance": {"mem0": {name: value for name, value in item.items() if _is_provenance(name, value)}},
    }
    if item.get("created_at") is not None:
        values["created_at"] = item["created_at"]
    if item.get("expiration_date") is not None:
        values["expires_at"] = _end_of(item["expiration_date"])
    return values


def _metadata(item: dict[str, object]) -> dict[str, object]:
    given = item.get("metadata")
    if given is not None and not isinstance(given, dict):
        raise EntryError("invalid memory: field 'metadata': must be a JSON object")
    also = {name: item[name] for name in _KEPT_IN_METADATA if item.get(name) is not None}
    # What the application itself wrote there comes first.
    return {**also, **(given or {})}


def _is_provenance(name: str, value: object) -> bool:
    return value is not None and name not in _MAPPED and name not in _KEPT_IN_METADATA


def _memory_type(categories: object) -> str:
    return "preference" if isinstance(categories, list) and _PREFERENCES in categories else "fact"


def _end_of(day: object) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(str(day)[:10]), time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise EntryError("invalid memory: field 'expiration_date': is no date") from None
