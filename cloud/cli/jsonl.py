"""Reads memories from JSON Lines: one memory a line, a line at a time, whatever the size of the file.

A line that is no memory is a fault with its number; it never stops the reading. Chunks depend on the bytes of the file
alone, so the same file always gives the same chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, NoReturn

from pydantic import ValidationError

from src.errors import InvalidMemoryError
from src.memory.schemas import Memory
from src.memory.validation import accept

CHUNK_LINES: Final = 500
CHUNK_BYTES: Final = 8 * 2**20
MAX_LINE_BYTES: Final = 4 * 2**20
"""More than the largest memory that can be stored takes with every character escaped."""
_SKIP_BYTES: Final = 2**20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset(Memory.model_fields)
_NAME_CHARACTERS: Final = 40


class LineError(ValueError):
    """A line is no memory; the message says why, without a value of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file.

    Attributes:
        number: Counted from 1.
        data: Its bytes without the line break, or `None` for a line that is too long to be a memory.
    """

    number: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that follow each other.

    Attributes:
        lines: Those that are not blank.
        end_bytes: Where in the file the chunk ends.
    """

    lines: tuple[Line, ...]
    end_bytes: int


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The lines of `file` in chunks of at most 500 lines and little more than 8 MiB."""
    lines: list[Line] = []
    size = position = number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        position += len(data)
        if number == 1:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        if len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
            position += _skip_line(file)
            lines.append(Line(number, None))
        elif not data.isspace() and data:
            lines.append(Line(number, data.rstrip(b"\r\n")))
            size += len(data)
        if len(lines) == CHUNK_LINES or size >= CHUNK_BYTES:
            yield Chunk(tuple(lines), position)
            lines, size = [], 0
    if lines:
        yield Chunk(tuple(lines), position)


def parse(line: Line, now: datetime) -> Memory:
    """The memory of a line, checked as `store` checks it.

    Raises:
        LineError: It is none.
    """
    if line.data is None:
        raise LineError(f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        values = json.loads(line.data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise LineError(f"invalid UTF-8 at byte {exc.start + 1}") from None
    except json.JSONDecodeError as exc:
        raise LineError(f"invalid JSON: {exc.msg} at character {exc.pos + 1}") from None
    except RecursionError:
        raise LineError("invalid JSON: nested too deeply") from None
    except LineError:
        raise
    except ValueError:
        raise LineError("invalid JSON: a number has too many digits") from None
    if not isinstance(values, dict):
        raise LineError("not a JSON object")
    for name in values:
        if name not in _FIELDS:
            raise LineError(f"invalid memory: unknown field {name[:_NAME_CHARACTERS]!r}")
    try:
        return accept(Memory.model_validate(values), now)
    except ValidationError as exc:
        fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
        raise LineError(f"invalid memory: field '{fault['loc'][0]}': {fault['msg']}") from None
    except InvalidMemoryError as exc:
        raise LineError(str(exc)) from None


def _refuse_constant(name: str) -> NoReturn:
    raise LineError(f"invalid JSON: {name} is no JSON number")


def _skip_line(file: BinaryIO) -> int:
    """Read up to the end of the line without keeping it; returns how many bytes."""
    skipped = 0
    while data := file.readline(_SKIP_BYTES):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped
