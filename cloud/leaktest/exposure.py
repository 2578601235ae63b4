"""What a caller got to see: every text in an answer or an error, and its shape without the values. Pure but for files.

A shape tells an absent thing from a foreign one: kinds, numbers and error codes, and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from cloud.kernel.errors import LuminescentError
from src.memory.schemas import Memory

_LINES: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        request_id: Under which its audit event is found.
        value: What it returned.
        error: What it raised, if it did.
    """

    request_id: str
    value: object = None
    error: Exception | None = None

    @property
    def refused(self) -> bool:
        """Whether it was refused with one of the product's own errors."""
        return isinstance(self.error, LuminescentError)

    def text(self) -> str:
        """Everything that can be read in it, files that it names included."""
        return "\n".join(_texts(self.error if self.error is not None else self.value))

    def memories(self) -> list[Memory]:
        """The memories in it, those in files of one memory a line included."""
        return list(_memories(self.value))

    def shape(self) -> object:
        """What it looks like without its values."""
        if self.error is not None:
            code = getattr(self.error, "code", None)
            return (type(self.error).__name__, code, getattr(self.error, "reason", None), str(self.error))
        return _shape(self.value)


def _texts(value: object) -> Iterator[str]:
    match value:
        case None | bool() | int() | float() | datetime():
            return
        case str():
            yield value
        case bytes():
            yield value.decode("utf-8", "replace")
        case Path():
            for path in sorted(value.rglob("*")) if value.is_dir() else [value]:
                if path.is_file():
                    yield from (path.name, path.read_bytes().decode("utf-8", "replace"))
        case BaseException():
            yield from (str(value), *map(repr, value.args))
            yield from _texts(dict(vars(value)))
            # What a traceback would print, and nothing that was cut off on purpose.
            yield from _texts(value.__cause__ or (None if value.__suppress_context__ else value.__context__))
        case Enum():
            yield from _texts(value.value)
        case BaseModel():
            yield from _texts(value.model_dump())
        case Mapping():
            for key, item in value.items():
                yield from (*_texts(key), *_texts(item))
        case Iterable():
            for item in value:
                yield from _texts(item)
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield from _texts(getattr(value, field.name))
        case _:
            yield from (str(value), repr(value))


def _memories(value: object) -> Iterator[Memory]:
    match value:
        case Memory():
            yield value
        case Path():
            if value.suffix == _LINES and value.is_file():
                yield from map(Memory.model_validate_json, value.read_bytes().splitlines())
        case str() | bytes() | BaseModel():
            return
        case Mapping():
            for item in value.values():
                yield from _memories(item)
        case Iterable():
            for item in value:
                yield from _memories(item)
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield from _memories(getattr(value, field.name))
        case _:
            return


def _shape(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str() | bytes() | Path() | datetime():
            return type(value).__name__
        case BaseModel():
            return type(value).__name__
        case Mapping():
            return {str(key): _shape(item) for key, item in value.items()}
        case Iterable():
            return [_shape(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return (type(value).__name__, {field.name: _shape(getattr(value, field.name)) for field in fields(value)})
        case _:
            return type(value).__name__
