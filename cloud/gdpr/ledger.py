"""The erasure ledger: who was erased and which tenants were closed, signed and kept outside the databases.

A restored backup knows nothing of what was erased since it was taken; this does, and it is replayed before anything is
served. It also lists the backups of the data, so that a restored database does not forget those that are younger.

`erasures.ndjson` in a directory of its own holds a record a line, each a signed note: a title, the record's number, the
hash of the line before, and the record. So a line that is changed, removed, inserted or reordered is noticed, and by
its place (number, bytes, hash) a ledger that was cut off is noticed by whoever saw it longer: the control plane and
every backup. Subject ids in it point to nobody once key and link are destroyed.

Rules:

1. A line is durable before `append` returns; what a process was killed in has no newline, is no record, and is cut off
   by the next who writes.
2. One process writes at a time, under a lock on the file.
3. What does not hold is not read past: it raises.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from cloud.audit.keyfile import AuditKeys
from cloud.audit.verify import VerificationError, VerifierKey, open_note
from cloud.gdpr.model import Erasure
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.home import private_directory, sync_directory

LEDGER: Final = "erasures.ndjson"
_TITLE: Final = "luminescent erasure ledger"
_NO_LINE: Final = hashlib.sha256(b"").hexdigest()


class Entry(StrEnum):
    """What a record is about."""

    ERASURE = "erasure"
    CLOSING = "closing"
    BACKUP = "backup"
    BACKUP_GONE = "backup_gone"


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One record.

    Attributes:
        entry: What it is about.
        at: When it was written (UTC).
        tenant_id: The tenant, for an erasure and a closing.
        subject_id: The subject that was erased.
        reference: Id of the erasure, of the closing or of the backup.
        expires_at: Until when the backup may be kept (UTC).
        location: Where the backup is.
    """

    entry: Entry
    at: datetime
    tenant_id: str | None = None
    subject_id: str | None = None
    reference: str | None = None
    expires_at: datetime | None = None
    location: str | None = None

    def text(self) -> str:
        """The record as its line has it."""
        fields: dict[str, str | None] = {
            "entry": self.entry.value,
            "at": self.at.isoformat(),
            "tenant_id": self.tenant_id,
            "subject_id": self.subject_id,
            "reference": self.reference,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "location": self.location,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None}, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> LedgerRecord:
        """The record of `text`.

        Raises:
            ValueError: It is none.
        """
        try:
            fields: Mapping[str, str] = json.loads(text)
            expires_at = fields.get("expires_at")
            return cls(
                Entry(fields["entry"]),
                datetime.fromisoformat(fields["at"]),
                fields.get("tenant_id"),
                fields.get("subject_id"),
                fields.get("reference"),
                datetime.fromisoformat(expires_at) if expires_at else None,
                fields.get("location"),
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError("not a record of the erasure ledger") from exc


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """A place between two lines of the ledger.

    Attributes:
        records: How many records are before it.
        size_bytes: How many bytes.
        line_hash: SHA-256 of the line before it, in hexadecimal.
    """

    records: int = 0
    size_bytes: int = 0
    line_hash: str = _NO_LINE


class FileErasureLedger:
    """`ErasureLedger` in a directory; safe for threads and processes of one machine.

    Args:
        directory: The directory; made if missing. Another disk is better than the home.
        keys: The installation's audit keys, which sign it.
        clock: The time, UTC.

    Raises:
        ConfigurationError: The directory is not private.
    """

    def __init__(self, directory: Path, keys: Callable[[], AuditKeys], clock: Callable[[], datetime]) -> None:
        self._path = private_directory(directory) / LEDGER
        self._keys = keys
        self._clock = clock

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    def exists(self) -> bool:
        """Whether there is a record, or part of one."""
        return self._path.exists()

    def append(self, erasure: Erasure) -> None:
        tenant_id, subject_id, erasure_id = erasure.tenant_id, erasure.subject_id, erasure.erasure_id
        if erasure.whole_tenant:
            self.add(LedgerRecord(Entry.CLOSING, self._clock(), tenant_id, reference=erasure_id))
        elif subject_id is not None:
            self.add(LedgerRecord(Entry.ERASURE, self._clock(), tenant_id, subject_id, erasure_id))
        # Of nobody nothing was kept, so no backup brings anything back.

    def add(self, *records: LedgerRecord) -> None:
        """Keep these, durably; one that says the same as one that is there is left out.

        Raises:
            ConfigurationError: They cannot be written, or what is there does not hold.
            ProviderUnavailableError: The disk is full.
        """
        try:
            with self._locked() as descriptor:
                content = _whole(descriptor)
                place = place_of(content)
                for record in self._new(content, records):
                    line = self._line(record, place)
                    if os.pwrite(descriptor, line, place.size_bytes) != len(line):
                        raise _no_room()
                    place = _after(place, line)
                try:
                    os.fsync(descriptor)
                except OSError:
                    # The next one would say that all is well. What may not be on the disk must not count as there.
                    os.ftruncate(descriptor, len(content))
                    raise
                sync_directory(self._path.parent)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_room() from exc
            raise ConfigurationError(f"{self._path} cannot be written: {exc.strerror}") from exc
        failpoints.reach("ledger.appended")

    def end(self) -> LedgerPlace:
        """The place after the last record; looks at its last line alone."""
        return place_of(self._content())

    def since(self, place: LedgerPlace) -> Sequence[tuple[LedgerPlace, LedgerRecord]]:
        """Every record after `place` with the place behind it, once it is certain that none is forged or missing.

        Raises:
            ConfigurationError: The ledger was changed or cut off, or is another one; the message says what to do.
        """
        return list(self._read(self._content(), place))

    def set_aside(self) -> Path | None:
        """Takes away a ledger that does not hold, so that a new one begins; returns where it is now."""
        if not self._path.exists():
            return None
        name = f"{LEDGER}.{self._clock():%Y%m%dT%H%M%SZ}"
        there, number = self._path.with_name(f"{name}.aside"), 1
        while there.exists():
            # An earlier one stays: a clock may say the same time twice.
            number += 1
            there = self._path.with_name(f"{name}.{number}.aside")
        self._path.rename(there)
        sync_directory(self._path.parent)
        return there

    def _new(self, content: bytes, records: Sequence[LedgerRecord]) -> list[LedgerRecord]:
        """Those that no line says yet; lines are read only if one may."""
        if not any((record.reference or record.tenant_id or "").encode() in content for record in records):
            return list(records)
        seen = {_meaning(record) for _, record in self._read(content, LedgerPlace())}
        return [record for record in records if _meaning(record) not in seen]

    def _read(self, content: bytes, since: LedgerPlace) -> Iterator[tuple[LedgerPlace, LedgerRecord]]:
        """The records; the signature of the last line, which names the hash of each before it, stands for all."""
        keys = self._keys()
        if len(content) < since.size_bytes or _hash_at(content, since.size_bytes) != since.line_hash:
            raise self._broken("it is shorter than it was, or another one")
        lines = content[since.size_bytes :].splitlines(keepends=True)
        place = since
        found = []
        for line in lines:
            try:
                text = json.loads(line)
                number, before, record = _fields(_text_of(text))
                if (number, before) != (place.records + 1, place.line_hash):
                    raise self._broken(f"line {place.records + 1} does not follow the one before")
                place = _after(place, line)
                found.append((place, LedgerRecord.parse(record)))
            except (ValueError, TypeError) as exc:
                raise self._broken(f"line {place.records + 1} is none of it") from exc
        if lines and not any(_signed(json.loads(lines[-1]), key.verifier(keys.name)) for key in keys.keys):
            raise self._broken(f"line {place.records} is not signed by this installation")
        yield from found

    def _line(self, record: LedgerRecord, place: LedgerPlace) -> bytes:
        keys = self._keys()
        text = f"{_TITLE}\n{place.records + 1}\n{place.line_hash}\n{record.text()}\n"
        return json.dumps(keys.current.note(text, keys.name), ensure_ascii=False).encode() + b"\n"

    def _content(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return _complete(file.read())
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise ConfigurationError(f"{self._path} cannot be read: {exc.strerror}") from exc

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _broken(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"the erasure ledger {self._path} does not hold: {what}. Put the right one back; if there is none, "
            "luminescent-cloud backup ledger --rebuild makes a new one of what the control plane knows"
        )


def _no_room() -> ProviderUnavailableError:
    return ProviderUnavailableError("erasure ledger", reason="cannot be written: No space left on device")


def place_of(content: bytes) -> LedgerPlace:
    """The place after the last line of a ledger's content."""
    return LedgerPlace(content.count(b"\n"), len(content), _hash_at(content, len(content)))


def _whole(descriptor: int) -> bytes:
    """The content, after what a process was killed in is cut off."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    complete = _complete(content)
    if len(complete) < len(content):
        os.ftruncate(descriptor, len(complete))
    return complete


def _complete(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _hash_at(content: bytes, end: int) -> str:
    """The hash of the line that ends at `end`."""
    if end and content[end - 1 : end] != b"\n":
        return ""
    start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return hashlib.sha256(content[start:end]).hexdigest()


def _after(place: LedgerPlace, line: bytes) -> LedgerPlace:
    return LedgerPlace(place.records + 1, place.size_bytes + len(line), hashlib.sha256(line).hexdigest())


def _meaning(record: LedgerRecord) -> tuple[str | None, ...]:
    """What two records have in common that say the same."""
    return (record.entry.value, record.tenant_id, record.subject_id, record.reference)


def _text_of(note: object) -> str:
    """The text of a note whose signature is not looked at here."""
    if not isinstance(note, str):
        raise TypeError
    return note.rpartition("\n\n")[0]


def _fields(text: str) -> tuple[int, str, str]:
    found = re.fullmatch(rf"{_TITLE}\n(\d{{1,18}})\n([0-9a-f]{{64}})\n([^\n]*)", text)
    if found is None:
        raise ValueError("not a line of the erasure ledger")
    return int(found[1]), found[2], found[3]


def _signed(note: str, key: VerifierKey) -> bool:
    try:
        open_note(note, key)
    except VerificationError:
        return False
    return True
