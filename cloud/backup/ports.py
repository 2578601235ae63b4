"""What backups need of the control plane."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from cloud.backup.model import DataBackup


class BackupStore(Protocol):
    """The control plane's list of backups."""

    def add(self, backup: DataBackup) -> None:
        """Know of a backup, before its first byte is written."""
        ...

    def complete(self, backup_id: str) -> None:
        """It is whole."""
        ...

    def deleted(self, backup_id: str, at: datetime) -> None:
        """Its files are gone."""
        ...

    def all(self) -> Sequence[DataBackup]:
        """Every backup that was ever made, oldest first."""
        ...

    def placements(self) -> Sequence[str]:
        """Every table that rows of memories may move to and from, sorted."""
        ...

    def revision(self) -> str:
        """The revision of the schema."""
        ...

    def keyring_expiries(self) -> Sequence[tuple[datetime, datetime]]:
        """When each backup of the keyring was made, and when it expires."""
        ...
