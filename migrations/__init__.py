"""Alembic migrations of the control-plane database, shipped with the package and applied at start-up."""
