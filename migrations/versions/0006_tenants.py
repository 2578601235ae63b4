"""Tenants whose terms change and that are closed; what the control plane remembers of the keyring.

Revision: 0006
Follows: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _remember_keyring()


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
