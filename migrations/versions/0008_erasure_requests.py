"""Requests for erasure with their states, what each level shows, certificates, and legal holds.

Revision: 0008
Follows: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")
_STATES = (
    "state IN ('received', 'identity_verified', 'previewed', 'held', 'confirmed', 'frozen', 'key_destroyed',"
    " 'rows_deleted', 'storage_rewritten', 'verified', 'certified', 'failed', 'rejected', 'cancelled')"
)
_ENDED = "('verified', 'certified', 'rejected', 'cancelled')"


def upgrade() -> None:
    """Give erasures a history before their confirmation and after their verification; add holds."""
    _widen_erasures()
    _add_holds()
    run_script("0008_holds.sql")
    run_script("0008_freeze.sql")


def _widen_erasures() -> None:
    op.drop_constraint(op.f("ck_erasures_state"), "erasures")
    op.alter_column("erasures", "subject_id", nullable=True)
    for column in (
        sa.Column("received_at", _INSTANT, nullable=True),
        sa.Column("due_at", _INSTANT, nullable=True),
        sa.Column("extended_until", _INSTANT, nullable=True),
        sa.Column("extension_reason_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("extension_notified_at", _INSTANT, nullable=True),
        sa.Column("identity_verified_at", _INSTANT, nullable=True),
        sa.Column("identity_method", sa.Text(), nullable=True),
        sa.Column("previewed_at", _INSTANT, nullable=True),
        sa.Column("preview_digest", sa.Text(), nullable=True),
        sa.Column("confirmed_at", _INSTANT, nullable=True),
        sa.Column("confirmed_by", sa.Text(), nullable=True),
        sa.Column("failed_step", sa.Text(), nullable=True),
        sa.Column("closing_reason_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("user_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("levels", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("next_level_at", _INSTANT, nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("commitment_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("changed_at", _INSTANT, server_default=_NOW, nullable=False),
    ):
        op.add_column("erasures", column)
    # What was recorded so far was received and confirmed in one call. What is unfinished is gone on with.
    op.execute(
        "UPDATE erasures SET received_at = requested_at, due_at = requested_at + interval '1 month',"
        " confirmed_at = requested_at,"
        " failed_step = CASE state WHEN 'incomplete' THEN 'verified' END,"
        " state = CASE state WHEN 'incomplete' THEN 'failed' ELSE state END"
    )
    op.alter_column("erasures", "received_at", nullable=False)
    op.alter_column("erasures", "due_at", nullable=False)
    op.create_check_constraint(op.f("ck_erasures_state"), "erasures", _STATES)
    op.create_check_constraint(
        op.f("ck_erasures_user_sealed"), "erasures", f"user_sealed IS NULL OR state NOT IN {_ENDED}"
    )
    op.create_index(
        "uq_erasures_open",
        "erasures",
        ["tenant_id", "subject_id"],
        unique=True,
        postgresql_where=sa.text(f"state NOT IN {_ENDED}"),
    )
    op.create_table_comment(
        "erasures", "Requests for erasure and how far each got; a crash resumes at the recorded state."
    )


def _add_holds() -> None:
    for table in ("subjects", "tenants"):
        op.add_column(table, sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "legal_holds",
        sa.Column("hold_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("reason_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("authority_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("review_at", _INSTANT, nullable=False),
        sa.Column("placed_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("released_at", _INSTANT, nullable=True),
        sa.Column("release_reason_sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_legal_holds_tenant_id")),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_legal_holds")),
        comment="What must be kept, of a person or of a whole tenant; `held` of the subject's or tenant's row"
        " follows it.",
    )
    op.create_index(
        "ix_legal_holds_held",
        "legal_holds",
        ["tenant_id", "subject_id"],
        unique=False,
        postgresql_where=sa.text("released_at IS NULL"),
    )
