"""Purging tells snapshots of what was deleted; rules of retention leave alone what was changed since they looked.

Revision: 0012
Follows: 0011
"""

from __future__ import annotations

from migrations import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace what marks for purging and what deletes by rule."""
    run_script("0012_retention.sql")
