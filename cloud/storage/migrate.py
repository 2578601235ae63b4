"""Brings the control-plane database to the version of this code; refuses one that is newer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud.kernel.errors import ConfigurationError

_LOCK_ID = 0x6C635F6D  # 'lc_m': one migrating process at a time, wherever it runs


def migrate(url: sa.URL) -> str:
    """Apply the migrations that are missing, as the owner of the schema, one process at a time.

    Returns:
        The revision that the database is at now.

    Raises:
        ConfigurationError: The database was made by a newer version of this software.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    config = Config()
    config.set_main_option("script_location", "migrations:")
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:id)"), {"id": _LOCK_ID})
        connection.commit()
        try:
            current = MigrationContext.configure(connection).get_current_revision()
            known = {revision.revision for revision in script.walk_revisions()}
            if current is not None and current not in known:
                raise ConfigurationError(
                    f"the control-plane database is at revision {current}, which this version does not know;"
                    " install the version that made it, or a newer one"
                )
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:id)"), {"id": _LOCK_ID})
            connection.commit()
    head = script.get_current_head()
    assert head is not None
    return head
