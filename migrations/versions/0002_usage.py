"""Meters, the usage ledger and reservations.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LEDGER = "The usage ledger: append-only, one row per charged operation, signed deltas. Counters project from it."
_COUNTERS = (
    "Sums of the ledger: stocks in period 1970-01-01, flows by UTC month. Shard 0 of 'memories' is the tenant's write"
    " lock, taken before any subject's."
)
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Meters, the usage ledger and reservations."""
    # Written at every read: room on the page, so that a new version of a row stays beside the old one (HOT).
    op.execute("ALTER TABLE usage_counters SET (fillfactor = 40)")
    op.add_column("usage_counters", sa.Column("period", sa.Date(), server_default="1970-01-01", nullable=False))
    op.add_column("usage_counters", sa.Column("shard", sa.SmallInteger(), server_default="0", nullable=False))
    op.drop_constraint(op.f("pk_usage_counters"), "usage_counters")
    op.create_primary_key(op.f("pk_usage_counters"), "usage_counters", ["tenant_id", "meter", "period", "shard"])
    op.create_table_comment("usage_counters", _COUNTERS)
    for meter in ("memories", "stored_bytes", "writes", "reads"):
        op.add_column("usage_events", sa.Column(meter, sa.BigInteger(), server_default="0", nullable=False))
    op.alter_column("usage_events", "tokens", server_default="0")
    # Its check would lock the tenant's row in every charge; who inserts here has just read that row.
    op.drop_constraint(op.f("fk_usage_events_tenant_id"), "usage_events")
    op.create_table_comment("usage_events", _LEDGER)
    op.add_column("subjects", sa.Column("memories", sa.BigInteger(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("ck_subjects_memories"), "subjects", "memories >= 0")
    _create_reservations()
    run_script("0002_usage.sql")


def _create_reservations() -> None:
    op.create_table(
        "usage_reservations",
        sa.Column("reservation_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("actual", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), server_default="held", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("meter IN ('writes', 'reads', 'tokens')", name=op.f("ck_usage_reservations_meter")),
        sa.CheckConstraint(
            "state IN ('held', 'committed', 'released', 'expired')", name=op.f("ck_usage_reservations_state")
        ),
        sa.CheckConstraint("amount > 0 AND actual >= 0", name=op.f("ck_usage_reservations_amount")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_usage_reservations_tenant_id")),
        sa.PrimaryKeyConstraint("reservation_id", name=op.f("pk_usage_reservations")),
        comment="Units of a flow that are held for work under way, until they are committed, released or expire.",
    )
    op.create_index(
        "ix_usage_reservations_held",
        "usage_reservations",
        ["tenant_id", "meter"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(op.f("ix_usage_reservations_expires_at"), "usage_reservations", ["expires_at"], unique=False)
