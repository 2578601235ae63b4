"""The gate before storage: what `store` accepts, and how it names what it refuses.

Every provider passes what it is given through `accept`, also objects of `luminescent_cluster`'s own `Memory` and
objects built without validation, and arguments of reads through `check_*`. No message repeats a value.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime

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

_MISSING = object()


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
    return Memory.model_construct(
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
