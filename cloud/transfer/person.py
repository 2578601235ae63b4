"""Reads the memories of a person's export (`luminescent-cloud gdpr export`): a directory, its `memories.jsonl`, a ZIP.

Of a record the fields of a memory are taken, without loss. What else stands there tells what became of the memory
where it was, and stays there: its id, its changes, who read it, its vector.

A memory that was deleted, replaced or expired is skipped and counted, unless it is asked for. What was encrypted is
decrypted first, by whoever has the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from cloud.kernel.errors import UnreadableFileError
from cloud.transfer.json_text import json_object
from cloud.transfer.jsonl import MAX_LINE_BYTES, lines
from cloud.transfer.model import Entry, EntryError, PersonChoice, Position
from src.memory.schemas import Memory

MEMORIES: Final = "memories.jsonl"
SCHEMA: Final = "memories.schema.json"
FIRST_NAME: Final = b"changes"
"""Of a record: its members are in the order of their names, and no line of another format begins so."""
SCHEMA_BYTES: Final = 2**20
_VERSIONS: Final = frozenset({"2"})
_IDENTITY: Final = re.compile(r"urn:luminescent-cloud:person-export:(\d{1,9}):memory")
_ACTIVE: Final = "active"
_TAKEN: Final = tuple(sorted(frozenset(Memory.model_fields) - {"id", "last_accessed_at"}))


def check_schema(data: bytes) -> None:
    """Return if the schema beside the memories is of a version that is read; the first version had none.

    Raises:
        UnreadableFileError: It is of another one, or no schema.
    """
    try:
        identity = json_object(data).get("$id")
    except EntryError:
        identity = None
    named = _IDENTITY.fullmatch(identity) if isinstance(identity, str) else None
    if named is None:
        raise UnreadableFileError("format", f"{SCHEMA} is not that of a person's export")
    if named[1] not in _VERSIONS:
        raise UnreadableFileError(
            "format", "the export is of a version that this program does not know: use a newer one"
        )


def entries(file: BinaryIO, user_id: str | None, choice: PersonChoice) -> Iterator[Entry]:
    """An entry for each memory; lines are counted from 1, blank ones included.

    Args:
        file: `memories.jsonl`.
        user_id: Whose memories those are that name nobody.
        choice: Which of them are taken, and whose they become.
    """
    for position, size, data in lines(file):
        if data is None:
            yield Entry(position, size, fault=f"longer than {MAX_LINE_BYTES // 2**20} MiB")
        else:
            yield _entry(position, size, data, user_id, choice)


def _entry(position: Position, size: int, data: bytes, user_id: str | None, choice: PersonChoice) -> Entry:
    try:
        record = json_object(data)
        state = record.get("state")
        if not isinstance(state, str) or "revision" not in record:
            raise EntryError("not a memory of a person's export: 'state' or 'revision' is missing")
    except EntryError as error:
        return Entry(position, size, fault=str(error))
    if state != _ACTIVE and not choice.include_removed:
        return Entry(position, size, skipped=True)
    values = {name: record[name] for name in _TAKEN if name in record}
    if choice.as_user is not None:
        values["user_id"] = choice.as_user
    elif values.get("user_id") is None and user_id is not None:
        values["user_id"] = user_id
    own = record.get("id")
    return Entry(position, size, values, id=own if isinstance(own, str) else None)
