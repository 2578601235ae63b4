"""The index of the keyring: which slot belongs to which tenant and subject, and who a link tag stands for.

It holds no key, wrapped or not, and no user id. What it holds is still personal until it is erased, so:

- `secure_delete`: SQLite overwrites what it deletes with zeros, in its own pages.
- The rollback journal is kept (`PERSIST`), and overwritten by `scrub_journal` after a destruction. `WAL` and the
  journal keep copies of changed pages; `DELETE` and `TRUNCATE` free those copies' blocks without overwriting them.
  `PERSIST` ends a transaction by a synced write of the journal's header, so a committed one cannot come back after a
  power failure, as it can while the removal of a journal file is not durable yet.
- Transactions begin with `IMMEDIATE`, `synchronous` is `FULL`, temporary data stays in memory.

One connection under one lock: a writer keeps readers out while it commits anyway, whichever connection they use.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.keys.model import KeyringCounts

INDEX_FORMAT: Final = 2
_BUSY_TIMEOUT_MS: Final = 5_000
_JOURNAL_KEPT_BYTES: Final = 256 * 1024
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE tenants (tenant_id TEXT PRIMARY KEY, slot INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE subjects (
    subject_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    slot INTEGER NOT NULL,
    tag BLOB NOT NULL UNIQUE
) WITHOUT ROWID;
CREATE INDEX subjects_of_tenant ON subjects (tenant_id);
CREATE TABLE spares (
    tenant_id TEXT NOT NULL, subject_id TEXT NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (tenant_id, subject_id)
) WITHOUT ROWID;
CREATE TABLE free_slots (slot INTEGER PRIMARY KEY);
"""
_SINCE_FORMAT_2: Final = (
    "CREATE TABLE former_tenant_keys (tenant_id TEXT NOT NULL, version INTEGER NOT NULL, slot INTEGER NOT NULL,"
    " PRIMARY KEY (tenant_id, version)) WITHOUT ROWID",
    "CREATE TABLE rotations (tenant_id TEXT PRIMARY KEY, begun_at TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE backups (backup_id TEXT PRIMARY KEY, made_at TEXT NOT NULL, expires_at TEXT NOT NULL,"
    " epoch INTEGER NOT NULL, root_key_id TEXT NOT NULL, complete INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta (name, value) VALUES ('epoch', 1)",
)
"""Former keys of tenants, rotations under way, backups, and the epoch that counts every change."""
_ABOUT_TENANTS: Final = ("tenants", "subjects", "spares", "former_tenant_keys", "rotations")


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A subject or a spare."""

    subject_id: str
    tenant_id: str
    slot: int


class SqliteIndex:
    """The index in one SQLite file. Methods that change it are called inside `transaction`."""

    def __init__(self, path: Path) -> None:
        """Opens an existing index.

        Raises:
            ConfigurationError: It is missing, damaged, or of another version.
        """
        self.path = path
        self._journal = path.with_name(path.name + "-journal")
        self._lock = threading.RLock()
        if not path.is_file():
            raise ConfigurationError(f"the keyring's index {path} is missing; restore the keyring's backup")
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            # Whatever it was, nobody gets this object to close it.
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, str | bytes | int]) -> SqliteIndex:
        """A new index that holds `meta` and its own format version."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.executescript("BEGIN;" + _SCHEMA + ";".join(_SINCE_FORMAT_2) + ";")
            rows = {"format": INDEX_FORMAT, **meta}
            db.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", rows.items())
            db.execute("COMMIT")
        finally:
            db.close()
        return cls(path)

    def _prepare(self) -> None:
        with _translated():
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
            modes = (
                self._db.execute("PRAGMA journal_mode = PERSIST").fetchone()[0],
                self._db.execute("PRAGMA secure_delete = ON").fetchone()[0],
            )
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA temp_store = MEMORY")
            self._db.execute("PRAGMA trusted_schema = OFF")
            if modes != ("persist", 1):
                raise ConfigurationError("this SQLite cannot delete securely; use a build with secure_delete")
            if self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise ConfigurationError("the keyring's index is damaged; restore the keyring's backup")
            if self.meta("format") == 1:
                self._upgrade()
            found = self.meta("format")
        if found != INDEX_FORMAT:
            raise ConfigurationError(f"the keyring's index has format {found!r}, this version reads {INDEX_FORMAT}")

    def _upgrade(self) -> None:
        """From format 1, whole or not at all; of several processes that open it at once, one does it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if self.meta("format") == 1:
                for statement in _SINCE_FORMAT_2:
                    self._db.execute(statement)
                self.set_meta("format", INDEX_FORMAT)
            self._db.execute("COMMIT")
        except BaseException:
            # An interruption too: a transaction left open would hold up every other process.
            self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def transaction(self, *, counts: bool = True) -> Iterator[None]:
        """Everything inside is durable when it ends, or nothing of it happened; the epoch counts it, if it counts."""
        with self._lock, _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                if counts:
                    self._db.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
                self._db.execute("COMMIT")
            except BaseException:
                # As above.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def meta(self, name: str) -> str | bytes | int | None:
        """A value given to `create` or `set_meta`."""
        rows: list[tuple[str | bytes | int]] = self.query("SELECT value FROM meta WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: str | bytes | int | None) -> None:
        """Replaces a value; `None` removes it."""
        if value is None:
            self.execute("DELETE FROM meta WHERE name = ?", (name,))
        else:
            self.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))

    def number(self, name: str) -> int:
        """A value that is a number: `epoch` counts the changes of this keyring, `capacity` the slots known here."""
        value = self.meta(name)
        if not isinstance(value, int):
            raise ConfigurationError("the keyring's index is damaged; restore the keyring's backup")
        return value

    def capacity(self) -> int:
        """How many slots the index has given out or may give out."""
        return self.number("capacity")

    def image(self) -> bytes:
        """The whole index as a file; the holder of the writer lock gets what is committed last."""
        # Through SQLite: to open and close the file beside it would drop the locks that this process has on it.
        with self._lock, _translated():
            return self._db.serialize()

    def stored(self) -> bytes:
        """The file as it lies on the disk, free pages and all.

        Under the lock: to open and close it beside a transaction would drop the locks that this process has on it.
        """
        with self._lock, _translated():
            return self.path.read_bytes()

    def tag_of(self, subject_id: str) -> bytes | None:
        """The link tag that stands for a subject."""
        rows: list[tuple[bytes]] = self.query("SELECT tag FROM subjects WHERE subject_id = ?", (subject_id,))
        return rows[0][0] if rows else None

    def counts(self) -> KeyringCounts:
        """Numbers of rows."""
        tables = ("tenants", "subjects", "spares", "free_slots")
        query = ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)  # noqa: S608  # names from above
        (row,) = self.query(f"SELECT {query}", ())
        return KeyringCounts(*row)

    def tenant_slot(self, tenant_id: str) -> int | None:
        """The slot of a tenant's key."""
        rows: list[tuple[int]] = self.query("SELECT slot FROM tenants WHERE tenant_id = ?", (tenant_id,))
        return rows[0][0] if rows else None

    def subject_by_tag(self, tag: bytes) -> SubjectRow | None:
        """Who a link tag stands for."""
        rows: list[tuple[str, str, int]] = self.query(
            "SELECT subject_id, tenant_id, slot FROM subjects WHERE tag = ?", (tag,)
        )
        return SubjectRow(*rows[0]) if rows else None

    def subject_by_id(self, tenant_id: str, subject_id: str) -> SubjectRow | None:
        """A linked subject of this tenant."""
        rows: list[tuple[str, str, int]] = self.query(
            "SELECT subject_id, tenant_id, slot FROM subjects WHERE subject_id = ? AND tenant_id = ?",
            (subject_id, tenant_id),
        )
        return SubjectRow(*rows[0]) if rows else None

    def subject_ids(self, tenant_id: str) -> tuple[str, ...]:
        """All linked subjects of a tenant, sorted."""
        rows: list[tuple[str]] = self.query(
            "SELECT subject_id FROM subjects WHERE tenant_id = ? ORDER BY subject_id", (tenant_id,)
        )
        return tuple(row[0] for row in rows)

    def slots_under(self, tenant_id: str) -> tuple[int, ...]:
        """The slots of all subjects and spares of a tenant, and of its former keys."""
        rows: list[tuple[int]] = self.query(
            "SELECT slot FROM subjects WHERE tenant_id = ?1 UNION ALL SELECT slot FROM spares WHERE tenant_id = ?1"
            " UNION ALL SELECT slot FROM former_tenant_keys WHERE tenant_id = ?1",
            (tenant_id,),
        )
        return tuple(row[0] for row in rows)

    def add_slots(self, first: int, count: int) -> None:
        """Makes `count` slots from number `first` on free to be taken."""
        self.release_slots(range(first, first + count))
        self.execute("UPDATE meta SET value = ? WHERE name = 'capacity'", (first + count - 1,))

    def take_slots(self, count: int) -> tuple[int, ...]:
        """Up to `count` free slots, lowest first; they are free no more."""
        rows: list[tuple[int]] = self.query(
            "DELETE FROM free_slots WHERE slot IN (SELECT slot FROM free_slots ORDER BY slot LIMIT ?) RETURNING slot",
            (count,),
        )
        return tuple(sorted(row[0] for row in rows))

    def release_slots(self, slots: Iterable[int]) -> None:
        """Gives back slots, which must have been overwritten."""
        with _translated():
            self._db.executemany("INSERT INTO free_slots (slot) VALUES (?)", ((slot,) for slot in slots))

    def add_tenant(self, tenant_id: str, slot: int) -> None:
        """Records the slot of a new tenant's key."""
        self.execute("INSERT INTO tenants (tenant_id, slot) VALUES (?, ?)", (tenant_id, slot))

    def add_spares(self, spares: Sequence[SubjectRow]) -> None:
        """Records keys made ahead, whose slots are durable."""
        with _translated():
            self._db.executemany(
                "INSERT INTO spares (tenant_id, subject_id, slot) VALUES (?, ?, ?)",
                [(spare.tenant_id, spare.subject_id, spare.slot) for spare in spares],
            )

    def take_spare(self, tenant_id: str) -> SubjectRow | None:
        """One key made ahead; it is a spare no more."""
        rows: list[tuple[str, str, int]] = self.query(
            "DELETE FROM spares WHERE tenant_id = ?1 AND subject_id ="
            " (SELECT subject_id FROM spares WHERE tenant_id = ?1 LIMIT 1) RETURNING subject_id, tenant_id, slot",
            (tenant_id,),
        )
        return SubjectRow(*rows[0]) if rows else None

    def link(self, subject: SubjectRow, tag: bytes) -> None:
        """Makes `tag` stand for `subject`."""
        self.execute(
            "INSERT INTO subjects (subject_id, tenant_id, slot, tag) VALUES (?, ?, ?, ?)",
            (subject.subject_id, subject.tenant_id, subject.slot, tag),
        )

    def delete_subject(self, subject: SubjectRow) -> None:
        """Deletes a subject with its link and gives back its slot, which must have been overwritten."""
        self.execute("DELETE FROM subjects WHERE subject_id = ?", (subject.subject_id,))
        self.release_slots((subject.slot,))

    def delete_tenant(self, tenant_id: str, slots: Sequence[int]) -> None:
        """Deletes a tenant with all that is under it and gives back `slots`, all of them overwritten."""
        for table in _ABOUT_TENANTS:
            self.execute(f"DELETE FROM {table} WHERE tenant_id = ?", (tenant_id,))  # noqa: S608  # names from above
        self.release_slots(slots)

    def scrub_journal(self) -> None:
        """Overwrites the journal's copies of earlier pages with zeros, in place and durably.

        Only for the holder of the writer lock and outside a transaction: then the journal is spent, and zeros, which
        is all that is written here, never look like a journal to be played back.
        """
        with self._lock, _translated():
            # A read first: if the last writer died within its commit, this plays its journal back.
            self.meta("format")
            descriptor = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                os.pwrite(descriptor, bytes(size), 0)
                os.fdatasync(descriptor)
                if size > _JOURNAL_KEPT_BYTES:
                    os.ftruncate(descriptor, _JOURNAL_KEPT_BYTES)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def execute(self, sql: str, parameters: tuple[object, ...]) -> None:
        """Runs a statement that changes something, for `cloud.keys.register`."""
        with self._lock, _translated():
            self._db.execute(sql, parameters)

    def query(self, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        """All rows of a statement, for `cloud.keys.register`."""
        # fetchall, not fetchone: an unfinished statement would keep its read lock on the file.
        with self._lock, _translated():
            return self._db.execute(sql, parameters).fetchall()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        # Locked, full or failing storage may work later; a missing table or a malformed page will not.
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
        if isinstance(exc, sqlite3.OperationalError | sqlite3.ProgrammingError) and code != sqlite3.SQLITE_ERROR:
            raise ProviderUnavailableError("keyring", reason="could not use its index") from exc
        raise ConfigurationError("the keyring's index is damaged; restore the keyring's backup") from exc
    except OSError as exc:
        raise ProviderUnavailableError("keyring", reason="could not use its index") from exc
