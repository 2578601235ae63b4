"""Rows about a person in the control plane, by entry of the data map: found, told and deleted by one condition.

What an export tells and what an erasure removes cannot come apart here: both ask the same entry whose rows are whose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from cloud.storage.metadata import (
    api_keys,
    erasures,
    idempotency_keys,
    intake,
    legal_holds,
    memories,
    memory_changes,
    subjects,
)


@dataclass(frozen=True, slots=True)
class SubjectRows:
    """The rows of one table that are about a person.

    Attributes:
        table: The table.
        told: Columns that an export tells in the clear; what is left out opens something, can be compared and not
            read, or is told elsewhere.
        is_erased: Whether an erasure deletes them; others stay and point to nobody.
    """

    table: sa.Table
    told: tuple[str, ...] = ()
    is_erased: bool = True

    @property
    def place(self) -> str:
        """Its entry of the data map."""
        return f"control.{self.table.name}"

    def condition(self, tenant_id: str, subject_id: str) -> sa.ColumnElement[bool]:
        """Which rows are about this person of this tenant."""
        columns = self.table.c
        person = sa.literal(subject_id, sa.Uuid(as_uuid=False))
        whose = person == sa.any_(columns.subject_ids) if "subject_ids" in columns else columns.subject_id == subject_id
        return sa.and_(columns.tenant_id == tenant_id, whose)

    def find(self, connection: sa.Connection, tenant_id: str, subject_id: str) -> int:
        """How many there are."""
        query = sa.select(sa.func.count()).select_from(self.table).where(self.condition(tenant_id, subject_id))
        return int(connection.execute(query).scalar_one())

    def erase(self, connection: sa.Connection, tenant_id: str, subject_id: str) -> None:
        """Delete them."""
        connection.execute(sa.delete(self.table).where(self.condition(tenant_id, subject_id)))

    def tell(self, tenant_id: str, subject_id: str) -> sa.Select[Any]:
        """What is told of them, in the order of their key."""
        query = sa.select(*(self.table.c[name] for name in self.told)).where(self.condition(tenant_id, subject_id))
        return query.order_by(*self.table.primary_key)


_ROWS: Final = (
    # Each before those that it refers to.
    SubjectRows(intake),
    SubjectRows(memory_changes, ("memory_id", "revision", "change", "changed_at", "event_id")),
    SubjectRows(
        memories,
        (
            "memory_id",
            "state",
            "revision",
            "size_bytes",
            "stored_at",
            "stored_event",
            "last_accessed_at",
            "deleted_at",
            "superseded_at",
            "superseded_by",
        ),
    ),
    SubjectRows(
        api_keys, ("key_id", "roles", "created_at", "expires_at", "revoked_at", "last_used_at", "ranges_sealed")
    ),
    SubjectRows(idempotency_keys, ("memory_ids", "created_at")),
    SubjectRows(subjects, ("subject_id", "state", "created_at", "erased_at", "held"), is_erased=False),
    SubjectRows(
        erasures,
        (
            "erasure_id",
            "state",
            "counts",
            "received_at",
            "requested_at",
            "due_at",
            "extended_until",
            "extension_notified_at",
            "identity_verified_at",
            "identity_method",
            "previewed_at",
            "confirmed_at",
            "completed_at",
        ),
        is_erased=False,
    ),
    SubjectRows(legal_holds, ("hold_id", "review_at", "placed_at", "released_at"), is_erased=False),
)
ROWS: Final[Mapping[str, SubjectRows]] = {rows.place: rows for rows in _ROWS}
"""By entry of the data map, in the order in which they are deleted."""

ERASED_ROWS: Final = tuple(name for name, rows in ROWS.items() if rows.is_erased)
