"""Storing and reading decide as before and write in fewer statements.

Revision: 0011
Follows: 0010
"""

from __future__ import annotations

from migrations import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace what each store and each read runs."""
    run_script("0011_hot_path.sql")
