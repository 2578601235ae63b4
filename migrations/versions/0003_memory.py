"""Revisions, history, undelete and purge of memories.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Revisions, history, undelete and purge of memories."""
    op.add_column("subjects", sa.Column("purged_generation", sa.BigInteger(), server_default="0", nullable=False))
    for column in (
        sa.Column("stored_event", sa.Uuid(), nullable=True),
        sa.Column("superseded_by", sa.Uuid(), nullable=True),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_accessed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purge_started_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("memories", column)
    op.drop_constraint(op.f("ck_memories_state"), "memories", type_="check")
    op.create_check_constraint(
        op.f("ck_memories_state"), "memories", "state IN ('active', 'expired', 'deleted', 'superseded')"
    )
    op.create_index(
        "ix_memories_kept", "memories", ["tenant_id", "state"], postgresql_where=sa.text("state <> 'active'")
    )
    op.create_table(
        "memory_changes",
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "change IN ('updated', 'deleted', 'undeleted', 'superseded')", name=op.f("ck_memory_changes_change")
        ),
        sa.ForeignKeyConstraint(
            ["memory_id"], ["memories.memory_id"], name=op.f("fk_memory_changes_memory_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("memory_id", "event_id", name=op.f("pk_memory_changes")),
        comment="What was done to a memory after it was stored; who did it says the audit event.",
    )
    op.create_index(op.f("ix_memory_changes_subject_id"), "memory_changes", ["subject_id"], unique=False)
    for script in ("0003_memory.sql", "0003_store.sql", "0003_purge.sql", "0003_rights.sql"):
        run_script(script)
