"""Reads memories from JSON Lines: one memory a line, a line at a time, whatever the size of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from cloud.transfer.json_text import json_object, shown_name
from cloud.transfer.model import Entry, EntryError, Position
from src.memory.schemas import Memory

MAX_LINE_BYTES: Final = 4 * 2**20
"""More than the largest memory that can be stored takes with every character escaped."""
_SKIP_BYTES: Final = 2**20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset(Memory.model_fields)


def entries(file: BinaryIO, user_id: str | None) -> Iterator[Entry]:
    """An entry for each line that is not blank; lines are counted from 1, blank ones included.

    Args:
        file: JSON Lines in UTF-8, with or without a byte order mark.
        user_id: Whose memories those are that name nobody.
    """
    for position, size, data in lines(file):
        if data is None:
            yield Entry(position, size, fault=f"longer than {MAX_LINE_BYTES // 2**20} MiB")
        else:
            yield _entry(position, size, data, user_id)


def lines(file: BinaryIO) -> Iterator[tuple[Position, int, bytes | None]]:
    """Place, size and text of each line that is not blank, without its break; no text of one that is too long."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(data)
        if number == 1:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        if len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
            yield Position(number), size + _skip_line(file), None
        elif data and not data.isspace():
            yield Position(number), size, data.rstrip(b"\r\n")


def _entry(position: Position, size: int, data: bytes, user_id: str | None) -> Entry:
    try:
        values = json_object(data)
        for name in values:
            if name not in _FIELDS:
                raise EntryError(f"invalid memory: unknown field {shown_name(name)}")
    except EntryError as error:
        return Entry(position, size, fault=str(error))
    own = values.pop("id", None)
    if user_id is not None and values.get("user_id") is None:
        values["user_id"] = user_id
    return Entry(position, size, values, id=own if isinstance(own, str) else None)


def _skip_line(file: BinaryIO) -> int:
    """Read up to the end of the line without keeping it; returns how many bytes."""
    skipped = 0
    while data := file.readline(_SKIP_BYTES):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped
