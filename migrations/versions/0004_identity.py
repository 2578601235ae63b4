"""API keys with ranges and last use, revoked tokens, refused attempts that are counted.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import CIDR, JSONB

from migrations import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """API keys with ranges and last use, revoked tokens, refused attempts that are counted."""
    op.add_column(
        "api_keys",
        sa.Column("ip_ranges", sa.ARRAY(CIDR()), server_default=sa.text("'{}'::cidr[]"), nullable=False),
    )
    op.add_column("api_keys", sa.Column("ranges_sealed", sa.LargeBinary(), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("successor_id", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_api_keys_ranges"), "api_keys", "subject_id IS NULL OR ip_ranges = '{}'::cidr[]")
    op.create_table(
        "revoked_tokens",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("token_tag", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "revoked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_revoked_tokens_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "token_tag", name=op.f("pk_revoked_tokens")),
        comment="SHA-256 of tokens that open nothing any more, until they would have expired by themselves.",
    )
    op.create_table(
        "refusals",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("further", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("source", "minute", name=op.f("pk_refusals")),
        comment="Refused strangers of the present minute: all, and by reason those without an event of their own.",
    )
    run_script("0004_identity.sql")
