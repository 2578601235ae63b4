"""Tenants whose terms change and that are closed.

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
    """Add the state `closing`, and the record of what a closing erased."""
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
