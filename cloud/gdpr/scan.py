"""The residue scan: looks for fingerprints in every file of an installation, and says where it found which.

A fingerprint that is found is a residue, with one exception: an id in a place where the data map keeps it, such as the
audit log. In the write-ahead log that is decided by the record in which it stands. Nothing that was looked for is ever
shown.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy import URL

from cloud.gdpr.catalog import CATALOG, Kind, OnErasure
from cloud.gdpr.fingerprints import IDS, Fingerprint, FingerprintSet, Trace
from cloud.gdpr.matching import Matcher
from cloud.storage.relations import Relation, Relations, file_of, files_at, relations_of
from cloud.storage.roles import CONTROL_DATABASE, DATA_DATABASE, MAINTENANCE_ROLE, PIXELTABLE_ROLE
from cloud.storage.upkeep import Session, quoted, session

_WAL: Final = "pg_wal"
_STATISTICS: Final = "pg_statistic"

KEPT_TABLES: Final = frozenset(
    place.location for place in CATALOG if place.kind is Kind.CONTROL_TABLE and place.on_erasure is OnErasure.ANONYMOUS
)
KEPT_DIRECTORIES: Final = tuple(
    place.location for place in CATALOG if place.kind is Kind.DIRECTORY and place.on_erasure is OnErasure.ANONYMOUS
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Fingerprints of one sort that were found in one file.

    Attributes:
        where: `heap`, `index`, `toast`, `statistics`, `catalog`, `wal`, `keyring`, `rows`, or the first directory.
        what: The table, or the file below its root.
        path: The file.
        trace: What was found.
        is_kept: Whether the data map keeps it there.
        items: How many different things of the person.
        count: How often.
        first_offset: Where in the file it stands first, in bytes.
    """

    where: str
    what: str
    path: str
    trace: Trace
    is_kept: bool
    items: int
    count: int
    first_offset: int


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan found.

    Attributes:
        findings: What was found where.
        files: Files that were looked through.
        size_bytes: How much that was.
        taken_s: How long it took.
        unreachable: What could not be looked into, and why.
        found: Each thing of the person that was found, by where: its sort and number.
    """

    findings: tuple[Finding, ...]
    files: int
    size_bytes: int
    taken_s: float
    unreachable: tuple[str, ...]
    found: Mapping[str, frozenset[tuple[Trace, int]]] = field(repr=False, default_factory=dict)

    @property
    def residue(self) -> tuple[Finding, ...]:
        """What should not be there after an erasure."""
        return tuple(finding for finding in self.findings if not finding.is_kept)


@dataclass(slots=True)
class _Tally:
    items: set[int] = field(default_factory=set)
    count: int = 0
    first_offset: int = -1


class Scanner:
    """Looks through an installation.

    Args:
        home: Its home directory.
        url: Where and as whom to connect, by role and database.
        is_embedded: Whether the databases' files are in the home.
        waldump: PostgreSQL's `pg_waldump`, where it is at hand.
        through: Files that must not be opened beside whoever uses them, and how they are read.
    """

    def __init__(
        self,
        home: Path,
        url: Callable[[str, str], URL],
        *,
        is_embedded: bool,
        waldump: Path | None,
        through: Mapping[Path, Callable[[], bytes]],
    ) -> None:
        self.home = home.resolve()
        self._url = url
        self._is_embedded = is_embedded
        self._waldump = waldump
        self._through = {path.resolve(): read for path, read in through.items()}

    def search(
        self,
        taken: FingerprintSet,
        *,
        also: Sequence[Path] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ScanReport:
        """Look for the fingerprints everywhere in the home, in the databases, and in other directories.

        Args:
            taken: What to look for.
            also: Directories outside the home, such as those for temporary files.
            progress: Told how many bytes of how many are done.

        Raises:
            ConfigurationError: A role may not connect.
            ProviderUnavailableError: The server did not answer.
        """
        search = _Search(taken.fingerprints, self._waldump, self._data_directory)
        began_s = time.monotonic()
        with ExitStack() as stack:
            control = stack.enter_context(session(self._url(MAINTENANCE_ROLE, CONTROL_DATABASE)))
            data = stack.enter_context(session(self._url(PIXELTABLE_ROLE, DATA_DATABASE)))
            if self._is_embedded:
                search.relations = relations_of((control, data))
                # First: the checkpoint below removes what nothing needs any more.
                for path, _ in _files(self._data_directory / _WAL, search.unreachable):
                    search.file(self.home, path, None)
                # What is in the server's memory alone would be missed, and what is gone there might still be on disk.
                control.execute(b"CHECKPOINT")
            else:
                search.unreachable.append("the server's files: heap, indexes, TOAST, free space, write-ahead log")
                for name, connection in (("control", control), ("data", data)):
                    search.rows(name, connection)
        files = [(root, path) for root in (self.home, *also) for path in _files(root, search.unreachable)]
        total = sum(size for _, (_, size) in files)
        for root, (path, _) in files:
            if path.is_relative_to(self._data_directory / _WAL):
                continue
            search.file(root, path, self._through.get(path.resolve()))
            progress(min(search.size_bytes, total), total)
        return search.report(time.monotonic() - began_s)

    @property
    def _data_directory(self) -> Path:
        return self.home / "postgres/data"


class _Search:
    """One search: what is looked for, and what was found so far."""

    def __init__(self, fingerprints: Sequence[Fingerprint], waldump: Path | None, data: Path) -> None:
        self._fingerprints = fingerprints
        self._matcher = Matcher([one.pattern for one in fingerprints])
        self._waldump = waldump
        self._data = data
        self.relations: Relations = {}
        self.unreachable: list[str] = []
        self.size_bytes = 0
        self._files = 0
        self._found: dict[tuple[str, str, str, Trace, bool], _Tally] = {}

    def rows(self, name: str, connection: Session) -> None:
        """Every row that can be seen in a database, and the planner's statistics that this role may see."""
        tables = [
            str(row[0])
            for row in connection.execute(
                b"SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                b" AND has_table_privilege(oid, 'SELECT')"
            )
        ]
        for table in tables:
            self._copied(connection, f"public.{quoted(table)}", Relation(table, "rows"), f"{name}.{table}")
        self._copied(connection, "(SELECT * FROM pg_stats)", Relation(_STATISTICS, "rows"), f"{name}.pg_stats")

    def _copied(self, connection: Session, source: str, relation: Relation, path: str) -> None:
        with connection.cursor().copy(f"COPY {source} TO STDOUT (FORMAT binary)".encode()) as copy:
            content = io.BytesIO(b"".join(bytes(piece) for piece in copy))
        for number, at in self._looked_through(content):
            one = self._fingerprints[number]
            kept = one.trace in IDS and relation.table in KEPT_TABLES
            self._note(relation.part, relation.table, path, one, kept, at)

    def file(self, root: Path, path: Path, through: Callable[[], bytes] | None) -> None:
        """Look through one file; one that is gone meanwhile holds nothing."""
        try:
            if through is not None:
                hits = self._looked_through(io.BytesIO(through()))
            else:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                with os.fdopen(descriptor, "rb") as file:
                    hits = self._looked_through(file, is_log=path.is_relative_to(self._data / _WAL))
        except FileNotFoundError:
            return
        except OSError as exc:
            self.unreachable.append(f"{path}: {exc.strerror}")
            return
        if hits:
            self._attribute(root, path, hits)

    def _looked_through(self, file: BinaryIO, *, is_log: bool = False) -> list[tuple[int, int]]:
        hits = list(self._matcher.in_log(file) if is_log else self._matcher.in_file(file))
        self._files += 1
        self.size_bytes += file.tell()
        return hits

    def _attribute(self, root: Path, path: Path, hits: Sequence[tuple[int, int]]) -> None:
        shown = str(path.relative_to(root)) if root != path else str(path)
        ids = [at for number, at in hits if self._fingerprints[number].trace in IDS]
        where, what, kept = self._place(path, shown)
        in_log: Mapping[int, bool] = {}
        if where == "wal" and ids and self._waldump is not None:
            files = files_at(self._waldump, path, ids)
            in_log = {at: bool(files.get(at)) and all(map(self._is_kept, files[at])) for at in ids}
        for number, at in hits:
            one = self._fingerprints[number]
            self._note(where, what, shown, one, one.trace in IDS and (kept or in_log.get(at, False)), at)

    def _place(self, path: Path, shown: str) -> tuple[str, str, bool]:
        """Where a file is, what it is part of, and whether the data map keeps ids there."""
        if path.is_relative_to(self._data):
            inside = path.relative_to(self._data).as_posix()
            if inside.startswith(f"{_WAL}/"):
                return "wal", path.name, False
            relation = self.relations.get(file_of(inside) or (0, 0))
            if relation is None:
                return "postgres", inside, False
            if relation.part == "catalog":
                return ("statistics" if relation.table == _STATISTICS else "catalog"), relation.table, False
            return relation.part, relation.table, relation.table in KEPT_TABLES
        first = shown.partition("/")[0]
        return first, shown, any(shown == one or shown.startswith(f"{one}/") for one in KEPT_DIRECTORIES)

    def _is_kept(self, file: tuple[int, int]) -> bool:
        relation = self.relations.get(file)
        return relation is not None and relation.part != "catalog" and relation.table in KEPT_TABLES

    def _note(self, where: str, what: str, path: str, one: Fingerprint, is_kept: bool, at: int) -> None:
        tally = self._found.setdefault((where, what, path, one.trace, is_kept), _Tally())
        tally.items.add(one.item)
        tally.count += 1
        tally.first_offset = at if tally.first_offset < 0 else min(tally.first_offset, at)

    def report(self, taken_s: float) -> ScanReport:
        """What was found, in the order of places."""
        found: dict[str, set[tuple[Trace, int]]] = {}
        findings = []
        for (where, what, path, trace, is_kept), tally in sorted(self._found.items()):
            found.setdefault(where, set()).update((trace, item) for item in tally.items)
            findings.append(
                Finding(where, what, path, trace, is_kept, len(tally.items), tally.count, tally.first_offset)
            )
        by_where = {where: frozenset(things) for where, things in found.items()}
        return ScanReport(tuple(findings), self._files, self.size_bytes, taken_s, tuple(self.unreachable), by_where)


def _files(root: Path, unreachable: list[str]) -> Iterator[tuple[Path, int]]:
    """Every regular file under a directory, without following links, and its size."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            unreachable.append(f"{error.filename}: {error.strerror}")

    for directory, _, names in os.walk(root, onerror=failed):
        for name in names:
            path = Path(directory) / name
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size
