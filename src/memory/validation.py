"""The gate before storage: what `store` accepts, and how it names what it refuses.

Every provider passes what it is given through `accept`, also objects of `luminescent_cluster`'s own `Memory` and
objects built without validation, and arguments of reads through `check_*`. No message repeats a value.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from src.errors import InvalidFilterError, InvalidMemoryError
from src.memory.json_values import JsonObject, JsonValue, NotJsonError, plain_json, text_fault
from src.memory.schemas import Memory, MemoryType, as_utc

MAX_CONTENT_BYTES = 64 * 1024
MAX_RAW_SOURCE_BYTES = 256 * 1024
MAX_METADATA_BYTES = 64 * 1024
MAX_QUERY_BYTES = 64 * 1024
MAX_USER_ID_CHARACTERS = 256
MAX_SOURCE_CHARACTERS = 1024
MAX_LIMIT = 1000

UNCHANGEABLE = frozenset({"id", "user_id", "last_accessed_at"})
"""Fields of a stored memory that only the provider sets, or nobody changes."""

_MISSING = object()
_STAND_IN = Memory(user_id="-", content="-", memory_type=MemoryType.FACT, source="-")


def accept(memory: object, now: datetime) -> Memory:
    """A checked copy of `memory` that shares nothing with it, or an error that names the field.

    Args:
        memory: A `Memory`, or any object with its attributes.
        now: The present (aware, UTC); what expires by then is refused.

    Returns:
        A `Memory` without id: plain strings and JSON values, times in UTC, sizes in UTF-8 within the limits.

    Raises:
        InvalidMemoryError: A field is absent, of the wrong type, too large, or holds what cannot be stored.
    """
    return Memory.of_checked(
        user_id=_user_id(memory),
        content=_content(memory),
        memory_type=_memory_type(memory),
        confidence=_confidence(memory),
        source=_source(memory),
        raw_source=_raw_source(memory),
        extraction_version=_extraction_version(memory),
        created_at=_moment(memory, "created_at"),
        last_accessed_at=_moment(memory, "last_accessed_at"),
        expires_at=_expires_at(memory, as_utc(now)),
        metadata=_metadata(memory),
        provenance=_provenance(memory),
        id=None,
    )


def accept_changes(changes: object, now: datetime) -> dict[str, Any]:
    """Checked copies of the values that `changes` gives to fields of a memory, or an error that names the field.

    Args:
        changes: Values by name of a field of `Memory`; not empty.
        now: The present (aware, UTC).

    Returns:
        The same names, with values as `accept` gives them.

    Raises:
        InvalidMemoryError: A name is no field's, a field never changes, or a value cannot be stored.
    """
    if not isinstance(changes, Mapping) or not changes:
        raise InvalidMemoryError(field="changes", reason="must name at least one field")
    for name in changes:
        if name not in Memory.model_fields:
            # What is no field may be anything, content included: it is not repeated.
            raise InvalidMemoryError(field="changes", reason="names what is no field of a memory")
        if name in UNCHANGEABLE:
            raise InvalidMemoryError(field=name, reason="cannot be changed")
    accepted = accept(_STAND_IN.model_copy(update=dict(changes)), now)
    return {name: getattr(accepted, name) for name in changes}


def json_changes(changes: Mapping[str, object]) -> dict[str, object]:
    """Changes as JSON gives them, with times read from ISO 8601 text; everything else is left for `accept_changes`.

    Raises:
        InvalidMemoryError: A time is no ISO 8601 text; the error names its field.
    """
    read = dict(changes)
    for name in ("created_at", "expires_at"):
        value = read.get(name)
        if isinstance(value, str):
            try:
                read[name] = as_utc(datetime.fromisoformat(value))
            except ValueError:
                # Without its cause: the text of that error quotes the value.
                raise InvalidMemoryError(field=name, reason="is not an ISO 8601 time") from None
    return read


def check_revision(revision: object) -> int | None:
    """`revision` itself if it is a whole number from 1, or `None`.

    Raises:
        InvalidMemoryError: It is neither (field `expected_revision`).
    """
    if revision is None:
        return None
    if not isinstance(revision, int) or isinstance(revision, bool) or not 1 <= revision < 2**31:
        raise InvalidMemoryError(field="expected_revision", reason="must be a whole number from 1")
    return int(revision)


def wants_duplicates(context: Mapping[str, object]) -> bool:
    """Whether the context of a `store` asks for the duplicates of what is stored.

    Raises:
        InvalidMemoryError: `report_duplicates` is neither true nor false.
    """
    wanted = context.get("report_duplicates", False) if context else False
    if not isinstance(wanted, bool):
        raise InvalidMemoryError(field="report_duplicates", reason="must be true or false")
    return wanted


def check_user_id(user_id: object) -> str:
    """`user_id` itself if a person can have it: 1–256 characters, not blank, no control characters.

    Raises:
        InvalidFilterError: It cannot be anybody's (place `user_id`).
    """
    if not isinstance(user_id, str):
        raise InvalidFilterError(place="user_id", reason="must be a string")
    fault = _user_id_fault(user_id)
    if fault is not None:
        raise InvalidFilterError(place="user_id", reason=fault)
    return str.__str__(user_id)


def check_limit(limit: object) -> int:
    """`limit` itself if it is a whole number from 1 to 1,000.

    Raises:
        InvalidFilterError: It is not (place `limit`).
    """
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise InvalidFilterError(place="limit", reason="must be a whole number")
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidFilterError(place="limit", reason=f"must be from 1 to {MAX_LIMIT}")
    return int(limit)


def check_query(text: object) -> str:
    """`text` itself if it is well-formed text of at most 64 KiB; it may be empty.

    Raises:
        InvalidFilterError: It is not (place `query`).
    """
    if not isinstance(text, str):
        raise InvalidFilterError(place="query", reason="must be a string")
    fault = text_fault(text, max_bytes=MAX_QUERY_BYTES)
    if fault is not None:
        raise InvalidFilterError(place="query", reason=fault)
    return str.__str__(text)


def _field(memory: object, name: str) -> object:
    value: object = getattr(memory, name, _MISSING)
    if value is _MISSING:
        raise InvalidMemoryError(field=name, reason="is missing")
    return value


def _text(memory: object, name: str, *, max_bytes: int | None = None) -> str:
    value = _field(memory, name)
    if not isinstance(value, str):
        raise InvalidMemoryError(field=name, reason="must be a string")
    fault = text_fault(value, max_bytes=max_bytes)
    if fault is not None:
        raise InvalidMemoryError(field=name, reason=fault)
    # A subclass of str, such as a member of an enum, becomes the plain string it stands for.
    return str.__str__(value)


def _user_id_fault(user_id: str) -> str | None:
    if not user_id or user_id.isspace():
        return "is empty"
    if len(user_id) > MAX_USER_ID_CHARACTERS:
        return f"is longer than {MAX_USER_ID_CHARACTERS} characters"
    # Nothing printable is a control character, and most user ids are printable.
    if not user_id.isprintable() and any(unicodedata.category(character) == "Cc" for character in user_id):
        return "holds a control character"
    return text_fault(user_id)


def _user_id(memory: object) -> str:
    user_id = _text(memory, "user_id")
    fault = _user_id_fault(user_id)
    if fault is not None:
        raise InvalidMemoryError(field="user_id", reason=fault)
    return user_id


def _content(memory: object) -> str:
    content = _text(memory, "content", max_bytes=MAX_CONTENT_BYTES)
    if not content or content.isspace():
        raise InvalidMemoryError(field="content", reason="is empty")
    return content


def _source(memory: object) -> str:
    source = _text(memory, "source")
    if not source:
        raise InvalidMemoryError(field="source", reason="is empty")
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise InvalidMemoryError(field="source", reason=f"is longer than {MAX_SOURCE_CHARACTERS} characters")
    return source


def _raw_source(memory: object) -> str | None:
    if _field(memory, "raw_source") is None:
        return None
    return _text(memory, "raw_source", max_bytes=MAX_RAW_SOURCE_BYTES)


def _memory_type(memory: object) -> MemoryType:
    value = _field(memory, "memory_type")
    if isinstance(value, MemoryType):
        return value
    if isinstance(value, str):
        for member in MemoryType:
            if member.value == str.__str__(value):
                return member
    raise InvalidMemoryError(field="memory_type", reason="must be preference, fact or decision")


def _confidence(memory: object) -> float:
    value = _field(memory, "confidence")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidMemoryError(field="confidence", reason="must be a number")
    # Also false for NaN.
    if not 0 <= value <= 1:
        raise InvalidMemoryError(field="confidence", reason="must be from 0 to 1")
    return float(value)


def _extraction_version(memory: object) -> int:
    value = _field(memory, "extraction_version")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise InvalidMemoryError(field="extraction_version", reason="must be a whole number from 0 to 2,147,483,647")
    return int(value)


def _moment(memory: object, name: str) -> datetime:
    value = _field(memory, name)
    if not isinstance(value, datetime):
        raise InvalidMemoryError(field=name, reason="must be a datetime")
    return as_utc(value)


def _expires_at(memory: object, now: datetime) -> datetime | None:
    if _field(memory, "expires_at") is None:
        return None
    expires_at = _moment(memory, "expires_at")
    if expires_at <= now:
        raise InvalidMemoryError(field="expires_at", reason="is not in the future")
    return expires_at


def _metadata(memory: object) -> JsonObject:
    value = _json(memory, "metadata")
    if not isinstance(value, dict):
        raise InvalidMemoryError(field="metadata", reason="must be a JSON object")
    return value


def _provenance(memory: object) -> JsonValue:
    return _json(memory, "provenance", dump_models=True)


def _json(memory: object, name: str, *, dump_models: bool = False) -> JsonValue:
    try:
        return plain_json(_field(memory, name), max_bytes=MAX_METADATA_BYTES, dump_models=dump_models)
    except NotJsonError as exc:
        raise InvalidMemoryError(field=name, reason=exc.reason) from exc
