"""What lets an erasure reach the bytes: columns that can be rewritten and searched, and closings that are erasures.

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
    """Sealed columns are not compressed, columns that name people have no statistics, a closing is an erasure."""
    run_script("0010_rewriting.sql")
