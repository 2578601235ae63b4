"""Meters, the usage ledger and reservations.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Meters, the usage ledger and reservations."""
