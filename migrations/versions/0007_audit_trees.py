"""Each log is a Merkle tree: pending events, leaves by month, tiles of hashes, heads, archives, work without outcome.

Revision: 0007
Follows: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Add the trees; what was recorded before becomes pending, so that it gets its leaves too."""
    op.create_table(
        "audit_pending",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_audit_pending")),
        comment="Events that are no leaf of their log's tree yet; written with the event, deleted with its leaf.",
    )
    op.create_table(
        "audit_leaves",
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.Column("sequenced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("log_id", "leaf_index", "sequenced_at", name=op.f("pk_audit_leaves")),
        postgresql_partition_by="RANGE (sequenced_at)",
        comment="Which event is which leaf of its log's tree, a partition a month (UTC); rows are only added, and"
        " removed once they are in an archive.",
    )
    op.create_index(op.f("ix_audit_leaves_event_id"), "audit_leaves", ["event_id"])
    op.create_table(
        "audit_archives",
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("first_leaf", sa.BigInteger(), nullable=False),
        sa.Column("end_leaf", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("oldest_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("newest_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("log_id", "first_leaf", name=op.f("pk_audit_archives")),
        sa.CheckConstraint("end_leaf > first_leaf", name=op.f("ck_audit_archives_leaves")),
        comment="Runs of leaves of one month that are in a file outside the database, the deleted files too.",
    )
    op.create_table(
        "audit_tiles",
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("log_id", "level", "number", name=op.f("pk_audit_tiles")),
        comment="Hashes of the trees in tiles of 256; only the last tile of a level still grows.",
    )
    op.create_table(
        "audit_trees",
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("log_id", name=op.f("pk_audit_trees")),
        comment="The head of each log: how many leaves its tree has, and the checkpoint that was signed for them.",
    )
    op.create_table(
        "audit_intents",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_audit_intents")),
        comment="Work that was begun and has no outcome yet; what stays here was cut off.",
    )
    run_script("0007_audit_trees.sql")
    run_script("0007_audit_months.sql")
