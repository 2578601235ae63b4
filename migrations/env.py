"""Runs migrations on the connection that start-up hands over; there is no offline mode and no configuration file."""

from __future__ import annotations

from alembic import context

from cloud.storage.metadata import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    on_version_apply=attributes.get("on_version_apply"),
)
with context.begin_transaction():
    context.run_migrations()
