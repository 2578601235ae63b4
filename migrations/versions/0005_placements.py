"""Placements that tenants move between, and embedding models that are changed online.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Placements that tenants move between, and embedding models that are changed online."""
