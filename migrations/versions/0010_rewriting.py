"""Columns are kept so that erased bytes leave the planner's statistics, and are found as they are until then.

Revision: 0010
Follows: 0009
"""

from __future__ import annotations

from migrations import run_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sealed columns are not compressed; columns that name people for good have no statistics."""
    run_script("0010_rewriting.sql")
