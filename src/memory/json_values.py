"""JSON values as they are kept: plain, bounded, and free of what no store and no line of JSON can hold."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime
from typing import TypeAlias

from pydantic import BaseModel

from src.memory.schemas import as_utc

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "dict[str, JsonValue]"

MAX_DEPTH = 32
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MAX_INTEGER_BITS = 8192  # CPython refuses to write or read integers of more than 4,300 digits as text.


class NotJsonError(ValueError):
    """A value that JSON cannot hold, or not within the limits.

    Attributes:
        reason: What is wrong with it, without the value.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def text_fault(text: str, *, max_bytes: int | None = None) -> str | None:
    """What keeps `text` from being stored, or `None`.

    Args:
        text: Any string.
        max_bytes: Largest length in UTF-8, if there is one.

    Returns:
        A reason such as `holds a NUL character`, without the text.
    """
    # Every character takes at least a byte: no need to encode what is too long already.
    if max_bytes is not None and len(text) > max_bytes:
        return f"is larger than {max_bytes} bytes"
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    if max_bytes is not None and size > max_bytes:
        return f"is larger than {max_bytes} bytes"
    return "holds a NUL character" if "\0" in text else None


def plain_json(value: object, *, max_bytes: int, dump_models: bool = False) -> JsonValue:
    """A copy of `value` out of plain dicts, lists, strings, numbers, booleans and nulls; it shares nothing.

    Args:
        value: Dicts with string keys, lists, tuples (which become lists) and scalars, at most 32 levels deep.
        max_bytes: Largest size as compact JSON in UTF-8.
        dump_models: Whether pydantic models and dataclasses become objects and datetimes become ISO 8601 text.

    Returns:
        The copy.

    Raises:
        NotJsonError: It holds something else, such as a set, NaN, a NUL or itself, or is too deep or too large.
    """
    if value is None:
        return None
    plain = _Copier(max_values=max_bytes, dump_models=dump_models).copy(value, depth=0)
    if len(_encode(plain).encode()) > max_bytes:
        raise NotJsonError(f"is larger than {max_bytes} bytes as JSON")
    return plain


class _Copier:
    """Copies one value; counts what it met, so that a huge one is refused before all of it is copied."""

    def __init__(self, *, max_values: int, dump_models: bool) -> None:
        self._max_values = max_values
        self._dump_models = dump_models
        self._values = 0

    def copy(self, value: object, *, depth: int) -> JsonValue:
        self._values += 1
        if self._values > self._max_values:
            raise NotJsonError(f"is larger than {self._max_values} bytes as JSON")
        if depth > MAX_DEPTH:
            raise NotJsonError(f"is nested more than {MAX_DEPTH} levels deep")
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value)
            case int():
                if value.bit_length() > _MAX_INTEGER_BITS:
                    raise NotJsonError("holds an integer that is too long")
                return int(value)
            case float():
                if not math.isfinite(value):
                    raise NotJsonError("holds a number that is not finite")
                return float(value)
            case list() | tuple():
                return [self.copy(item, depth=depth + 1) for item in value]
            case dict():
                return {self._key(key): self.copy(item, depth=depth + 1) for key, item in value.items()}
        if self._dump_models:
            return self.copy(_dumped(value), depth=depth + 1)
        raise NotJsonError(f"holds a value that is not JSON ({type(value).__name__})")

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise NotJsonError("has a key that is not a string")
        return self._text(key)

    def _text(self, text: str) -> str:
        fault = text_fault(text)
        if fault is not None:
            raise NotJsonError(fault)
        # A subclass of str, such as a member of an enum, becomes the plain string it stands for.
        return str.__str__(text)


def _dumped(value: object) -> object:
    if isinstance(value, datetime):
        return as_utc(value).isoformat()
    if isinstance(value, BaseModel):
        try:
            return value.model_dump(mode="json", warnings=False)
        except ValueError:
            # Without its cause: the text of that error may quote the value.
            raise NotJsonError("holds a model that cannot be written as JSON") from None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise NotJsonError(f"holds a value that is not JSON ({type(value).__name__})")
