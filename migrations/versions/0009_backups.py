"""Backups of the data that are still kept, and how far the erasure ledger was seen.

Revision: 0009
Follows: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the list of backups, and the place in the erasure ledger."""
    op.create_table(
        "data_backups",
        sa.Column("backup_id", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("backup_id", name=op.f("pk_data_backups")),
        comment="Backups of both databases; each is here before its first byte is written.",
    )
    op.create_table(
        "erasure_ledger",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("line_hash", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("ck_erasure_ledger_singleton")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_erasure_ledger")),
        comment="How far these databases have followed the erasure ledger, which is kept outside them; one row.",
    )
    run_script("0009_backups.sql")
