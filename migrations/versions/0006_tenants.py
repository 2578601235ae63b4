"""Tenants whose terms change and that are closed; what the control plane remembers of the keyring.

Revision: 0006
Follows: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the state `closing`, the record of what a closing erased, and what is known of the keyring."""
    _close_tenants()
    _remember_keyring()


def _close_tenants() -> None:
    op.drop_constraint(op.f("ck_tenants_state"), "tenants")
    op.create_check_constraint(
        op.f("ck_tenants_state"), "tenants", "state IN ('active', 'suspended', 'closing', 'closed')"
    )
    op.create_table(
        "tenant_closings",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("counts", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column(
            "requested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_tenant_closings_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_closings")),
        comment="Tenants that are closed or being closed, with what was erased; a crash resumes what is not completed.",
    )
    run_script("0006_rights.sql")


def _remember_keyring() -> None:
    op.create_table(
        "keyring_state",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("keyring_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("root_key_id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("ck_keyring_state_singleton")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_keyring_state")),
        comment="The keyring that belongs here, as it was seen last; one row.",
    )
    op.create_table(
        "keyring_backups",
        sa.Column("backup_id", sa.Text(), nullable=False),
        sa.Column("keyring_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("root_key_id", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("backup_id", name=op.f("pk_keyring_backups")),
        comment="Backups of the keyring, known here too: one restored from an earlier backup forgot the later ones.",
    )
    run_script("0006_keyring.sql")
