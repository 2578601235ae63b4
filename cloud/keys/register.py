"""What the index remembers about the keyring as a whole: former keys, rotations under way, backups.

Methods that change something are called inside `SqliteIndex.transaction`. Nothing here is about one person.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cloud.keys.index import SqliteIndex, SubjectRow
from cloud.keys.reports import KeyringBackup

_ROOT: Final = "root_key_id"
_NEXT_ROOT: Final = "next_root_key_id"
_ROTATED_AT: Final = "rotated_at"


class Register:
    """Reads and writes these facts in an index."""

    def __init__(self, index: SqliteIndex) -> None:
        self._index = index

    # Root key

    def root_key_id(self) -> str:
        """The root key that the keyring is under; while it moves to another, the one that it comes from."""
        return str(self._index.meta(_ROOT))

    def next_root_key_id(self) -> str | None:
        """The root key that the keyring is moving to; `None` if no rotation of the root key is under way."""
        found = self._index.meta(_NEXT_ROOT)
        return None if found is None else str(found)

    def begin_root(self, key_id: str) -> None:
        """From now on keys are wrapped under `key_id`."""
        self._index.set_meta(_NEXT_ROOT, key_id)

    def abandon_root(self) -> None:
        """Takes back `begin_root`, before any key was wrapped under the new root key."""
        self._index.set_meta(_NEXT_ROOT, None)

    def end_root(self, key_id: str, now: datetime) -> None:
        """Every key is under `key_id`."""
        self._index.set_meta(_ROOT, key_id)
        self._index.set_meta(_NEXT_ROOT, None)
        self._index.set_meta(_ROTATED_AT, now.isoformat())

    # Tenants' keys

    def tenants(self) -> tuple[str, ...]:
        """Every tenant that has a key, sorted."""
        rows: list[tuple[str]] = self._index.query("SELECT tenant_id FROM tenants ORDER BY tenant_id", ())
        return tuple(row[0] for row in rows)

    def former_slots(self, tenant_id: str) -> tuple[int, ...]:
        """The slots of a tenant's former keys, oldest first."""
        rows: list[tuple[int]] = self._index.query(
            "SELECT slot FROM former_tenant_keys WHERE tenant_id = ? ORDER BY version", (tenant_id,)
        )
        return tuple(row[0] for row in rows)

    def begin_tenant(self, tenant_id: str, slot: int, now: datetime) -> None:
        """A rotation is under way; `slot` is where the present key is kept from now on."""
        self._index.execute(
            "INSERT INTO former_tenant_keys (tenant_id, version, slot) SELECT ?1, count(*) + 1, ?2"
            " FROM former_tenant_keys WHERE tenant_id = ?1",
            (tenant_id, slot),
        )
        self._index.execute("INSERT INTO rotations (tenant_id, begun_at) VALUES (?, ?)", (tenant_id, now.isoformat()))

    def end_tenant(self, tenant_id: str, now: datetime) -> None:
        """Every key of the tenant is under its new key."""
        self._index.execute("DELETE FROM rotations WHERE tenant_id = ?", (tenant_id,))
        self._index.set_meta(_ROTATED_AT, now.isoformat())

    def rotating_tenants(self) -> tuple[str, ...]:
        """The tenants whose rotation has begun and not ended, sorted."""
        rows: list[tuple[str]] = self._index.query("SELECT tenant_id FROM rotations ORDER BY tenant_id", ())
        return tuple(row[0] for row in rows)

    def rotated_at(self) -> datetime | None:
        """When the last rotation of any key ended."""
        found = self._index.meta(_ROTATED_AT)
        return None if found is None else datetime.fromisoformat(str(found))

    def spares_after(self, tenant_id: str, after: str, limit: int) -> list[SubjectRow]:
        """Up to `limit` keys made ahead, by id, from the first after `after` on."""
        rows: list[tuple[str, str, int]] = self._index.query(
            "SELECT subject_id, tenant_id, slot FROM spares WHERE tenant_id = ? AND subject_id > ?"
            " ORDER BY subject_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [SubjectRow(*row) for row in rows]

    def subjects_after(self, tenant_id: str, after: str, limit: int) -> list[SubjectRow]:
        """Up to `limit` linked subjects, by id, from the first after `after` on."""
        rows: list[tuple[str, str, int]] = self._index.query(
            "SELECT subject_id, tenant_id, slot FROM subjects WHERE tenant_id = ? AND subject_id > ?"
            " ORDER BY subject_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [SubjectRow(*row) for row in rows]

    def keys_under(self, tenant_id: str) -> int:
        """How many keys a tenant's key wraps."""
        (row,) = self._index.query(
            "SELECT (SELECT count(*) FROM subjects WHERE tenant_id = ?1)"
            " + (SELECT count(*) FROM spares WHERE tenant_id = ?1)",
            (tenant_id,),
        )
        return int(row[0])

    # Backups

    def add_backup(self, backup: KeyringBackup) -> None:
        """Records a backup; one that is known already stays as it is, complete if either says so."""
        self._index.execute(
            "INSERT INTO backups (backup_id, made_at, expires_at, epoch, root_key_id, complete)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (backup_id) DO UPDATE SET complete = max(complete, excluded.complete)",
            (
                backup.backup_id,
                backup.made_at.isoformat(),
                backup.expires_at.isoformat(),
                backup.epoch,
                backup.root_key_id,
                int(backup.complete),
            ),
        )

    def drop_backup(self, backup_id: str) -> None:
        """Forgets a backup whose file was never finished and is gone."""
        self._index.execute("DELETE FROM backups WHERE backup_id = ? AND complete = 0", (backup_id,))

    def backups(self) -> tuple[KeyringBackup, ...]:
        """Every backup that was begun, oldest first."""
        rows: list[tuple[str, str, str, int, str, int]] = self._index.query(
            "SELECT backup_id, made_at, expires_at, epoch, root_key_id, complete FROM backups ORDER BY made_at", ()
        )
        return tuple(
            KeyringBackup(
                backup_id=backup_id,
                made_at=datetime.fromisoformat(made_at),
                expires_at=datetime.fromisoformat(expires_at),
                epoch=epoch,
                root_key_id=root_key_id,
                complete=bool(complete),
            )
            for backup_id, made_at, expires_at, epoch, root_key_id, complete in rows
        )
