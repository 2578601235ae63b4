"""Placements that tenants move between, and embedding models that are changed online.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Placements that tenants move between, and embedding models that are changed online."""
    op.create_table(
        "placements",
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("read_column", sa.Text(), server_default="embedding", nullable=False),
        sa.Column("other_model", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="serving", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("gate", JSONB(), nullable=True),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('serving', 'filling', 'filled', 'switching', 'switched', 'emptying')",
            name=op.f("ck_placements_state"),
        ),
        sa.CheckConstraint("(other_model IS NULL) = (state = 'serving')", name=op.f("ck_placements_other_model")),
        sa.PrimaryKeyConstraint("placement", name=op.f("pk_placements")),
        comment="The Pixeltable tables, the embedding model that is read in each, and how far a change of it got.",
    )
    op.create_table(
        "placement_moves",
        sa.Column("move_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="copying", nullable=False),
        sa.Column("copied", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('copying', 'switched', 'done')", name=op.f("ck_placement_moves_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_placement_moves_tenant_id")),
        sa.PrimaryKeyConstraint("move_id", name=op.f("pk_placement_moves")),
        comment="Moves of tenants between placements, the finished ones too: where a tenant may have rows.",
    )
    op.create_index(op.f("ix_placement_moves_tenant_id"), "placement_moves", ["tenant_id"], unique=False)
    op.create_index(
        "uq_placement_moves_unfinished",
        "placement_moves",
        ["tenant_id"],
        unique=True,
        postgresql_where=sa.text("state <> 'done'"),
    )
    run_script("0005_rights.sql")
