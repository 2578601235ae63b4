"""Archives in the control plane: what is recorded of them, and the leaves that go into them or are removed.

Leaves and events are removed by server functions alone, which remove nothing that is not recorded as archived and
nothing young; no role may delete them otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from cloud.audit.archive import Archive, ArchivedLeaf, utc
from cloud.audit.canonical import canonical
from cloud.audit.retention import Month
from cloud.kernel.errors import ConfigurationError
from cloud.storage.advisory import advisory_locks
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import audit_archives, audit_events, audit_leaves, audit_trees, tenants

_PAGE: Final = 1_000
_LOCK: Final = (0x6C73, 1)  # 'ls', beside the sequencer's
_CHECK_VIOLATION: Final = "23514"
_MONTHS: Final = sa.text(
    "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = 'public.audit_leaves'::regclass ORDER BY 1"
)
_NAME: Final = "audit_leaves_"
_REMOVE: Final = sa.text("SELECT lc_audit_remove(:log, :first, :limit)")
_DROP: Final = sa.text("SELECT lc_audit_drop_month(:month)")


class PostgresArchives:
    """What is archived, and what may be.

    Args:
        engine: Engine of the role that maintains the installation.
    """

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def alone(self) -> AbstractContextManager[bool]:
        """Yields whether nobody else archives while the block runs."""
        return advisory_locks(self._engine, (_LOCK,), wait_s=0.0)

    def months(self) -> Sequence[Month]:
        """The months that have a partition, in their order."""
        names = [str(name).removeprefix(_NAME).split("_") for (name,) in self._engine.rows(_MONTHS)]
        return sorted(Month(int(year), int(month)) for year, month in names)

    def logs(self) -> Mapping[str, str | None]:
        """Every log that has leaves, and its tenant's plan."""
        query = (
            sa.select(audit_trees.c.log_id, tenants.c.plan)
            .join(tenants, tenants.c.tenant_id == audit_trees.c.log_id, isouter=True)
            .order_by(audit_trees.c.log_id)
        )
        return {log_id: plan for log_id, plan in self._engine.rows(query)}  # noqa: C416 - rows are no pairs to dict()

    def first_leaf(self, log_id: str, month: Month) -> int | None:
        """The first leaf that a log got in a month, if the database has one."""
        query = (
            sa.select(audit_leaves.c.leaf_index)
            .where(audit_leaves.c.log_id == log_id, *_within(month))
            .order_by(audit_leaves.c.leaf_index)
            .limit(1)
        )
        rows = self._engine.rows(query)
        return int(rows[0][0]) if rows else None

    def is_quiet(self, log_id: str, before: datetime, actions: str) -> bool:
        """Whether all events that got their leaves before then have an action that begins with `actions`."""
        query = (
            sa.select(sa.literal(1))
            .select_from(audit_leaves)
            .join(audit_events, audit_events.c.event_id == audit_leaves.c.event_id)
            .where(audit_leaves.c.log_id == log_id, audit_leaves.c.sequenced_at < before)
            .where(audit_events.c.event["action"].as_string().not_like(f"{actions}%"))
            .limit(1)
        )
        return not self._engine.rows(query)

    def run(self, log_id: str, month: Month, first: int) -> Iterator[ArchivedLeaf]:
        """The leaves of a month from `first` on that follow each other, read in pages.

        Raises:
            ConfigurationError: A leaf has no event.
        """
        expected = first
        while page := self._leaves(log_id, month, expected):
            for row in page:
                if row.leaf_index != expected:
                    return
                if row.event is None:
                    raise ConfigurationError(f"leaf {expected} of the audit log of {log_id} has no event")
                yield ArchivedLeaf(
                    expected,
                    str(row.event_id),
                    utc(row.occurred_at),
                    utc(row.sequenced_at),
                    bytes(row.leaf_hash),
                    canonical(row.event),
                )
                expected += 1

    def _leaves(self, log_id: str, month: Month, first: int) -> Sequence[Row]:
        query = (
            sa.select(
                audit_leaves.c.leaf_index,
                audit_leaves.c.event_id,
                audit_leaves.c.sequenced_at,
                audit_leaves.c.leaf_hash,
                audit_events.c.occurred_at,
                audit_events.c.event,
            )
            .join(audit_events, audit_events.c.event_id == audit_leaves.c.event_id, isouter=True)
            .where(audit_leaves.c.log_id == log_id, audit_leaves.c.leaf_index >= first, *_within(month))
            .order_by(audit_leaves.c.leaf_index)
            .limit(_PAGE)
        )
        return self._engine.rows(query)

    def of(self, log_id: str, first: int = 0, end: int | None = None) -> Sequence[Archive]:
        """The archives, the deleted ones too, that hold leaves from `first` to `end`, in their order."""
        table = audit_archives.c
        query = sa.select(audit_archives).where(table.log_id == log_id, table.end_leaf > first)
        if end is not None:
            query = query.where(table.first_leaf < end)
        return [_archive(row) for row in self._engine.rows(query.order_by(table.first_leaf))]

    def all(self) -> Sequence[Archive]:
        """Every archive that was ever made, the deleted ones too."""
        query = sa.select(audit_archives).order_by(audit_archives.c.log_id, audit_archives.c.first_leaf)
        return [_archive(row) for row in self._engine.rows(query)]

    def record(self, archive: Archive) -> None:
        """These leaves are in this file from now on.

        Raises:
            ConfigurationError: They are recorded to be in another.
        """
        values = {
            "log_id": archive.log_id,
            "first_leaf": archive.first,
            "end_leaf": archive.end,
            "month": _first_day(archive.month),
            "oldest_at": archive.oldest_at,
            "newest_at": archive.newest_at,
            "sha256": archive.sha256,
            "bytes": archive.bytes,
        }
        table = audit_archives.c
        mine = (table.log_id == archive.log_id) & (table.first_leaf == archive.first)

        def work(connection: sa.Connection) -> bytes:
            # It is there if an earlier attempt was committed, and its answer lost.
            connection.execute(insert(audit_archives).values(values).on_conflict_do_nothing())
            return bytes(connection.execute(sa.select(table.sha256).where(mine)).scalar_one())

        if self._engine.transaction(work) != archive.sha256:
            raise ConfigurationError(f"{archive.leaves} are in another archive already")

    def remove(self, archive: Archive) -> int:
        """Remove a batch of leaves, with their events, that are in this archive; returns how many.

        Raises:
            ConfigurationError: The database refuses: they are in no archive that it knows, or too young.
        """
        bound = {"log": archive.log_id, "first": archive.first, "limit": _PAGE}
        try:
            return self._engine.transaction(lambda c: int(c.execute(_REMOVE, bound).scalar_one()))
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) != _CHECK_VIOLATION:
                raise
            raise ConfigurationError(
                f"the database does not remove {archive.leaves}: they are in no archive that it knows, or not a week"
                " past the end of their month by its clock"
            ) from exc

    def drop(self, month: Month) -> bool:
        """Drop the partition of a month if nothing is in it, and it can be had without waiting long."""
        bound = {"month": _first_day(month)}
        return self._engine.transaction(lambda c: bool(c.execute(_DROP, bound).scalar_one()))

    def mark_deleted(self, archive: Archive, at: datetime) -> None:
        """Its file goes."""
        table = audit_archives
        statement = (
            sa.update(table)
            .where(table.c.log_id == archive.log_id, table.c.first_leaf == archive.first, table.c.deleted_at.is_(None))
            .values(deleted_at=at)
        )
        self._engine.transaction(lambda c: c.execute(statement))


def _within(month: Month) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    at = audit_leaves.c.sequenced_at
    return at >= month.begins, at < month.ends


def _first_day(month: Month) -> date:
    return month.begins.date()


def _archive(row: Row) -> Archive:
    return Archive(
        row.log_id,
        row.first_leaf,
        row.end_leaf,
        Month(row.month.year, row.month.month),
        utc(row.oldest_at),
        utc(row.newest_at),
        bytes(row.sha256),
        row.bytes,
        utc(row.deleted_at) if row.deleted_at else None,
    )
