"""`CustodyStore` on the control plane, as the maintenance role; what is about people names its tenant."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.keys.diagnosis import KeyringSeen
from cloud.keys.reports import KeyringBackup, KeyringMark
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import keyring_backups, keyring_state, memories, subjects, tenants
from cloud.tenancy.model import TenantState


class PostgresCustodyStore:
    """`CustodyStore` on the control plane."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def seen(self) -> KeyringSeen | None:
        rows = self._engine.rows(sa.select(keyring_state))
        if not rows:
            return None
        values = rows[0]._mapping
        return KeyringSeen(values["keyring_id"], values["epoch"], values["root_key_id"], values["seen_at"])

    def note(self, keyring: KeyringMark, now: datetime) -> None:
        given = _state(keyring, now)
        statement = insert(keyring_state).values(given)
        self._run(
            statement.on_conflict_do_update(
                index_elements=["singleton"],
                set_={**given, "epoch": sa.func.greatest(keyring_state.c.epoch, statement.excluded.epoch)},
                # Never another keyring in place of the one that belongs here.
                where=keyring_state.c.keyring_id == statement.excluded.keyring_id,
            )
        )

    def settle(self, keyring: KeyringMark, now: datetime) -> None:
        given = _state(keyring, now)
        statement = insert(keyring_state).values(given)
        self._run(statement.on_conflict_do_update(index_elements=["singleton"], set_=given))

    def add_backup(self, keyring_id: str, backup: KeyringBackup) -> None:
        self._run(
            insert(keyring_backups)
            .values(
                backup_id=backup.backup_id,
                keyring_id=keyring_id,
                epoch=backup.epoch,
                root_key_id=backup.root_key_id,
                made_at=backup.made_at,
                expires_at=backup.expires_at,
            )
            .on_conflict_do_nothing()
        )

    def backups(self, keyring_id: str) -> tuple[KeyringBackup, ...]:
        query = sa.select(keyring_backups).where(keyring_backups.c.keyring_id == keyring_id)
        rows = self._engine.rows(query.order_by(keyring_backups.c.made_at))
        return tuple(
            KeyringBackup(
                backup_id=row._mapping["backup_id"],
                made_at=row._mapping["made_at"],
                expires_at=row._mapping["expires_at"],
                epoch=row._mapping["epoch"],
                root_key_id=row._mapping["root_key_id"],
                complete=True,
            )
            for row in rows
        )

    def tenants(self) -> tuple[str, ...]:
        return self._tenants(tenants.c.state != TenantState.CLOSED.value)

    def closed(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        asked = sa.cast(sorted(tenant_ids), sa.ARRAY(sa.Text))
        return self._tenants((tenants.c.state == TenantState.CLOSED.value) & (tenants.c.tenant_id == sa.any_(asked)))

    def erased(self, tenant_id: str, subject_ids: Collection[str]) -> tuple[str, ...]:
        asked = sa.cast(sorted(subject_ids), sa.ARRAY(sa.Uuid(as_uuid=False)))
        query = (
            sa.select(subjects.c.subject_id)
            .where(subjects.c.tenant_id == tenant_id, subjects.c.state == "erased")
            .where(subjects.c.subject_id == sa.any_(asked))
        )
        return tuple(str(row[0]) for row in self._engine.rows(query))

    def living(self, tenant_id: str) -> tuple[str, ...]:
        stored = sa.select(memories.c.memory_id).where(
            memories.c.tenant_id == tenant_id, memories.c.subject_id == subjects.c.subject_id
        )
        query = sa.select(subjects.c.subject_id).where(
            subjects.c.tenant_id == tenant_id, subjects.c.state != "erased", sa.exists(stored)
        )
        return tuple(str(row[0]) for row in self._engine.rows(query))

    def _tenants(self, condition: sa.ColumnElement[bool]) -> tuple[str, ...]:
        query = sa.select(tenants.c.tenant_id).where(condition).order_by(tenants.c.tenant_id)
        return tuple(str(row[0]) for row in self._engine.rows(query))

    def _run(self, statement: sa.Executable) -> None:
        self._engine.transaction(lambda connection: connection.execute(statement))


def _state(keyring: KeyringMark, now: datetime) -> dict[str, object]:
    return {
        "singleton": True,
        "keyring_id": keyring.keyring_id,
        "epoch": keyring.epoch,
        "root_key_id": keyring.root_key_id,
        "seen_at": now,
    }
