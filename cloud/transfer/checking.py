"""From the values of an entry to a memory that can be stored, or to the reason why it cannot."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from cloud.kernel.errors import InvalidMemoryError
from cloud.transfer.json_text import shown_name
from cloud.transfer.model import Entry, EntryError
from src.memory.schemas import Memory
from src.memory.validation import accept


def checked(entry: Entry, now: datetime) -> Memory:
    """The memory of an entry, checked as `store` checks it.

    Raises:
        EntryError: It is none.
    """
    if entry.values is None:
        raise EntryError(entry.fault or "not a memory")
    try:
        return accept(Memory.model_validate(entry.values), now)
    except ValidationError as exc:
        fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
        raise EntryError(f"invalid memory: field {shown_name(str(fault['loc'][0]))}: {fault['msg']}") from None
    except InvalidMemoryError as exc:
        raise EntryError(str(exc)) from None


def person_of(entry: Entry) -> str | None:
    """Whose memory the entry says it is, whether or not it is one."""
    person = entry.values.get("user_id") if entry.values is not None else None
    return person if isinstance(person, str) else None
