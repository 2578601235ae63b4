"""Backups, restores and drills as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cloud.gdpr.ledger import LedgerPlace
from cloud.gdpr.replay import Replayed


@dataclass(frozen=True, slots=True)
class DataBackup:
    """A backup of both databases, as the control plane knows it.

    Attributes:
        backup_id: Its id, 16 hexadecimal digits.
        location: Its directory.
        made_at: From when on what was stored may be missing in it (UTC); nothing older is.
        expires_at: Until when it may be kept (UTC).
        complete: Whether it was finished.
        deleted_at: When its files were deleted (UTC); `None` while they may exist.
    """

    backup_id: str
    location: Path
    made_at: datetime
    expires_at: datetime
    complete: bool
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a backup, as its manifest says.

    Attributes:
        installation: Random name of the installation.
        software: Version that made it.
        revision: Of the control plane's schema.
        pixeltable: Version of Pixeltable.
        server: Version of PostgreSQL, as the server numbers it.
        sealed_with: Id of the key that it is sealed with; `None` if it is not.
        ledger: How long the erasure ledger was.
        keyring_id: The keyring that it needs.
        keyring_epoch: How far that was.
        newest_event_at: When the newest audit event in it happened (UTC).
        counts: Rows by table.
        rows: Rows of memories in Pixeltable.
    """

    installation: str
    software: str
    revision: str
    pixeltable: str
    server: int
    sealed_with: str | None
    ledger: LedgerPlace
    keyring_id: str
    keyring_epoch: int
    newest_event_at: datetime | None
    counts: Mapping[str, int]
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A backup and what is in it.

    Attributes:
        backup: The backup.
        contents: What it holds.
        files: Size in bytes and SHA-256 by name of each file.
    """

    backup: DataBackup
    contents: Contents
    files: Mapping[str, tuple[int, str]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True, slots=True)
class Expired:
    """What became of the backups that expired.

    Attributes:
        deleted: Their files are gone.
        out_of_reach: Their files could not be looked at from here, or are not to be found, or are nobody's.
    """

    deleted: tuple[DataBackup, ...]
    out_of_reach: tuple[DataBackup, ...]


@dataclass(frozen=True, slots=True)
class RestoredData:
    """What a restore did.

    Attributes:
        manifest: What was restored.
        replayed: Whom the ledger removed again.
        logs_cut: Audit logs that go on from an earlier head.
        upgraded: Whether the schema was brought to this version's.
    """

    manifest: Manifest
    replayed: Replayed
    logs_cut: int
    upgraded: bool


@dataclass(frozen=True, slots=True)
class Drilled:
    """What a drill measured.

    Attributes:
        manifest: The backup that was tried.
        rpo: Age of the newest event in it when the drill began: what would be lost.
        rto: How long it took until the installation could be served from it.
        replayed: Whom the ledger removed again.
        opened: Sealed memories that were opened with the keyring.
        problems: What does not hold, in sentences; empty if all does.
    """

    manifest: Manifest
    rpo: timedelta | None
    rto: timedelta
    replayed: Replayed
    opened: int
    problems: tuple[str, ...]
