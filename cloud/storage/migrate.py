"""Brings the control-plane database to the version of this code; refuses one that is newer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud.kernel.errors import ConfigurationError

_LOCK_ID = 0x6C635F6D  # 'lc_m': one migrating process at a time, wherever it runs


class RevisionState(StrEnum):
    """How a database compares with this code."""

    CURRENT = "current"
    EMPTY = "empty"
    OLDER = "older"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class Revision:
    """The revision of a database.

    Attributes:
        found: What it is at; `None` if nothing was ever migrated.
        wanted: What this code needs.
        state: How the two compare. One that this code does not know was made by newer code.
    """

    found: str | None
    wanted: str
    state: RevisionState

    def require_current(self) -> None:
        """The database is at the revision of this code.

        Raises:
            ConfigurationError: It is not; the message says what to do.
        """
        match self.state:
            case RevisionState.CURRENT:
                return
            case RevisionState.NEWER:
                raise _newer(str(self.found))
            case RevisionState.EMPTY | RevisionState.OLDER:
                at = "empty" if self.found is None else f"at revision {self.found}"
                raise ConfigurationError(
                    f"the control-plane database is {at}, and this version needs {self.wanted}: run"
                    " luminescent-cloud db upgrade as the owner of the schema, or set migrate_on_start=true"
                )


def revision_of(connection: sa.Connection) -> Revision:
    """How the database of `connection` compares with this code. Any role may ask that can read `alembic_version`."""
    found = MigrationContext.configure(connection).get_current_revision()
    return _compared(found, _script(_config()))


def state_of(revision: str) -> RevisionState:
    """How a database at `revision` would compare with this code."""
    return _compared(revision, _script(_config())).state


def migrate(url: sa.URL, record: Callable[[sa.Connection, Revision], None] | None = None) -> str:
    """Apply the migrations that are missing, as the owner of the schema, one process at a time.

    Args:
        url: The control plane, as the owner.
        record: Called once with what was found before, within the transaction of the last migration, or one of its
            own where none was missing; what it does commits with that. Not called if a migration failed.

    Returns:
        The revision that the database is at now.

    Raises:
        ConfigurationError: The database was made by a newer version of this software.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    config = _config()
    script = _script(config)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:id)"), {"id": _LOCK_ID})
        connection.commit()
        try:
            revision = _compared(MigrationContext.configure(connection).get_current_revision(), script)
            if revision.state is RevisionState.NEWER:
                raise _newer(str(revision.found))
            connection.commit()
            config.attributes["connection"] = connection
            if record is not None:
                config.attributes["on_version_apply"] = _at_last(record, revision)
            command.upgrade(config, "head")
            connection.commit()
            if record is not None and revision.state is RevisionState.CURRENT:
                record(connection, revision)
                connection.commit()
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:id)"), {"id": _LOCK_ID})
            connection.commit()
    return revision.wanted


def _at_last(record: Callable[[sa.Connection, Revision], None], before: Revision) -> Callable[..., None]:
    """What Alembic calls after each migration, within its transaction, and does something after the last alone."""

    def applied(*, ctx: MigrationContext, heads: set[str], **_others: object) -> None:
        if heads == {before.wanted}:
            assert ctx.connection is not None
            record(ctx.connection, before)

    return applied


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "migrations:")
    return config


def _script(config: Config) -> ScriptDirectory:
    return ScriptDirectory.from_config(config)


def _compared(found: str | None, script: ScriptDirectory) -> Revision:
    wanted = script.get_current_head()
    assert wanted is not None
    if found is None:
        return Revision(None, wanted, RevisionState.EMPTY)
    if found == wanted:
        return Revision(found, wanted, RevisionState.CURRENT)
    known = {revision.revision for revision in script.walk_revisions()}
    return Revision(found, wanted, RevisionState.OLDER if found in known else RevisionState.NEWER)


def _newer(found: str) -> ConfigurationError:
    return ConfigurationError(
        f"the control-plane database is at revision {found}, which this version does not know;"
        " install the version that made it, or a newer one"
    )
