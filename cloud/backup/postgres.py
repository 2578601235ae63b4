"""`BackupStore` on the control plane, as the maintenance role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.backup.model import DataBackup
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import data_backups, intake, keyring_backups, placement_moves, placements, tenants


class PostgresBackupStore:
    """`BackupStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def add(self, backup: DataBackup) -> None:
        self._run(
            insert(data_backups)
            .values(
                backup_id=backup.backup_id,
                location=str(backup.location),
                made_at=backup.made_at,
                expires_at=backup.expires_at,
                complete=backup.complete,
            )
            .on_conflict_do_nothing()
        )

    def complete(self, backup_id: str) -> None:
        self._run(sa.update(data_backups).where(data_backups.c.backup_id == backup_id).values(complete=True))

    def deleted(self, backup_id: str, at: datetime) -> None:
        self._run(
            sa.update(data_backups)
            .where(data_backups.c.backup_id == backup_id, data_backups.c.deleted_at.is_(None))
            .values(deleted_at=at)
        )

    def all(self) -> Sequence[DataBackup]:
        rows = self._engine.rows(sa.select(data_backups).order_by(data_backups.c.made_at, data_backups.c.backup_id))
        return [
            DataBackup(
                row._mapping["backup_id"],
                Path(row._mapping["location"]),
                row._mapping["made_at"],
                row._mapping["expires_at"],
                row._mapping["complete"],
                row._mapping["deleted_at"],
            )
            for row in rows
        ]

    def placements(self) -> Sequence[str]:
        found = self._engine.rows(
            sa.union(
                sa.select(placements.c.placement),
                sa.select(tenants.c.placement),
                sa.select(intake.c.placement),
                sa.select(placement_moves.c.source),
                sa.select(placement_moves.c.target),
            )
        )
        return sorted(str(name) for (name,) in found)

    def revision(self) -> str:
        return str(self._engine.rows(sa.text("SELECT version_num FROM alembic_version"))[0][0])

    def keyring_expiries(self) -> Sequence[tuple[datetime, datetime]]:
        rows = self._engine.rows(sa.select(keyring_backups.c.made_at, keyring_backups.c.expires_at))
        return [(made_at, expires_at) for made_at, expires_at in rows]

    def _run(self, statement: sa.Executable) -> None:
        self._engine.transaction(lambda connection: connection.execute(statement))
