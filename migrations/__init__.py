"""Alembic migrations of the control-plane database, shipped with the package and applied at start-up."""

from __future__ import annotations

from importlib.resources import files

from alembic import op


def run_script(name: str) -> None:
    """Run a script of `migrations/sql` in the migration's transaction."""
    # The driver's own cursor takes the script as it is: no colon or percent sign in it is a parameter.
    op.get_bind().connection.cursor().execute((files("migrations") / "sql" / name).read_text())
