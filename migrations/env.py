"""Runs migrations on the connection that start-up hands over; there is no offline mode and no configuration file."""

from __future__ import annotations

from alembic import context

from cloud.storage.metadata import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
