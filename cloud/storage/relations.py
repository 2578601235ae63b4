"""Which relation a file of a cluster belongs to, and which relations a place in the write-ahead log is about."""

from __future__ import annotations

import bisect
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.storage.upkeep import Session

_FILE: Final = re.compile(r"base/(\d+)/(\d+)(?:_(?:fsm|vm|init))?(?:\.\d+)?")
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_RECORD: Final = re.compile(r"lsn: ([0-9A-F]+)/([0-9A-F]+),")
_BLOCK: Final = re.compile(r"rel \d+/(\d+)/(\d+)")
_TIMEOUT_S: Final = 120
_QUERY: Final = (
    b"SELECT (SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode(c.oid),"
    b" c.relkind::text, coalesce(h.relname, t.relname, c.relname),"
    # The index of a TOAST table belongs to the table too.
    b" c.relnamespace = 'pg_catalog'::regnamespace"
    b" FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid"
    b" LEFT JOIN pg_class h ON h.reltoastrelid = coalesce(i.indrelid, c.oid)"
    b" LEFT JOIN pg_class t ON t.oid = i.indrelid"
    b" WHERE pg_relation_filenode(c.oid) IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Relation:
    """What a file is part of.

    Attributes:
        table: The table itself, or the one that an index or a TOAST table belongs to.
        part: `heap`, `index`, `toast` or `catalog`.
    """

    table: str
    part: str


Relations = Mapping[tuple[int, int], Relation]
"""By database and file number."""


def relations_of(connections: Sequence[Session]) -> Relations:
    """The relations of the databases of these connections, as they are now."""
    found: dict[tuple[int, int], Relation] = {}
    for connection in connections:
        for database, file, kind, table, is_catalog in connection.execute(_QUERY):
            part = "catalog" if is_catalog else {"i": "index", "t": "toast"}.get(kind, "heap")
            found[int(database), int(file)] = Relation(str(table), part)
    return found


def file_of(path: str) -> tuple[int, int] | None:
    """Database and file number of a path below the data directory; `None` for a file of another sort."""
    found = _FILE.fullmatch(path)
    return (int(found[1]), int(found[2])) if found else None


def files_at(program: Path, segment: Path, offsets: Sequence[int]) -> dict[int, frozenset[tuple[int, int]]]:
    """Database and file numbers that the log's records at these offsets are about; empty where that is not known.

    Args:
        program: PostgreSQL's `pg_waldump`.
        segment: A segment.
        offsets: Offsets in it, in bytes.
    """
    begin = _begin_of(segment)
    if begin is None:
        return {}
    records = sorted(_records(program, segment))
    starts = [position for position, _ in records]
    found = {}
    for offset in offsets:
        at = bisect.bisect_right(starts, begin + offset) - 1
        found[offset] = records[at][1] if at >= 0 else frozenset()
    return found


def _records(program: Path, segment: Path) -> Iterator[tuple[int, frozenset[tuple[int, int]]]]:
    """Position of each record of a segment, the last one of the segment before included, and what it is about."""
    before = _before(segment)
    first = before if before is not None and before.exists() else segment
    # It ends in an error wherever the log ends; what it wrote until then counts.
    done = subprocess.run(
        [program, "-p", segment.parent, first.name, segment.name], capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    for line in done.stdout.decode("ascii", "replace").splitlines():
        if found := _RECORD.search(line):
            files = frozenset((int(database), int(file)) for database, file in _BLOCK.findall(line))
            yield (int(found[1], 16) << 32) + int(found[2], 16), files


def _begin_of(segment: Path) -> int | None:
    if not _SEGMENT.fullmatch(segment.name):
        return None
    size = segment.stat().st_size
    return (int(segment.name[8:16], 16) << 32) + int(segment.name[16:], 16) * size


def _before(segment: Path) -> Path | None:
    begin, size = _begin_of(segment), segment.stat().st_size
    if begin is None or begin < size:
        return None
    number = begin // size - 1
    each = (1 << 32) // size
    return segment.with_name(f"{segment.name[:8]}{number // each:08X}{number % each:08X}")
