"""What an operator asks of an installation that may not open: its schema, a look at its databases, a look at it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from cloud.audit.model import Outcome
from cloud.audit.postgres import PostgresAuditStore
from cloud.backup.model import Drilled, RestoredData
from cloud.kernel.access import Action
from cloud.kernel.errors import LuminescentError
from cloud.kernel.findings import Finding, Level, warning
from cloud.kernel.ids import SYSTEM_LOG
from cloud.keys.ports import RootKey
from cloud.settings import CloudSettings
from cloud.startup.doctor import CHECKS, DATABASE_CHECKS, Check, Context, examine
from cloud.startup.doctor.context import Obstacle
from cloud.startup.drill import drill as drill_backup
from cloud.startup.restoring import Request, Told
from cloud.startup.restoring import restore as restore_backup
from cloud.startup.servers import external_server, found_revision, operators_draft
from cloud.startup.servers import upgrade as upgrade_server
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.migrate import Revision, RevisionState
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE, MAINTENANCE_ROLE
from cloud.storage.server import Server


def revision(settings: CloudSettings) -> Revision:
    """How the control plane's schema compares with this code.

    Raises:
        ConfigurationError: The server or the home cannot be used; the message says what to change.
        ProviderUnavailableError: The server did not answer.
    """
    with Context(settings) as context:
        if context.external is not None:
            # For its message: it says who was refused, and why.
            with context.external.connect(APP_ROLE, CONTROL_DATABASE):
                pass
        found = found_revision(context.server)
        if found.state is RevisionState.CURRENT:
            _record(context, Action.DATABASE_CHECK, [])
        return found


def upgrade(settings: CloudSettings) -> Revision:
    """Bring the control plane's schema to this code's, as its owner; recorded with both ends.

    Returns:
        What was found before.

    Raises:
        ConfigurationError: The database is newer, or the owner's password is not configured.
        ProviderUnavailableError: The server did not answer, or a migration failed and was rolled back.
    """
    server: Server = external_server(settings) or EmbeddedPostgres.open(settings.home)
    try:
        return upgrade_server(server)
    finally:
        server.close()


def check_databases(settings: CloudSettings) -> Sequence[Finding]:
    """What is right and what is wrong with the databases; recorded where they can record."""
    return _look(settings, DATABASE_CHECKS, Action.DATABASE_CHECK)


def doctor(settings: CloudSettings) -> Sequence[Finding]:
    """What is right and what is wrong with the whole installation; recorded where it can record."""
    return _look(settings, CHECKS, Action.DOCTOR)


def _look(settings: CloudSettings, checks: Sequence[Check], action: Action) -> list[Finding]:
    with Context(settings) as context:
        findings = examine(context, checks)
        try:
            _record(context, action, findings)
        except (LuminescentError, Obstacle, sa.exc.DBAPIError):
            mend = "see to what is said of the control plane above"
            findings.append(warning("audit", "this look could not be recorded in the audit log", mend))
        return findings


def _record(context: Context, action: Action, findings: Sequence[Finding]) -> None:
    """The look's one event, with how much it found of which level."""
    context.require(f"role {APP_ROLE}")
    context.require("revision")
    store = PostgresAuditStore(context.engine(APP_ROLE), context.engine(MAINTENANCE_ROLE))
    counts = Counter(finding.level for finding in findings)
    store.append(
        SYSTEM_LOG,
        operators_draft(action).document(),
        outcome=Outcome.ALLOWED.value,
        reason=None,
        resource_ids=(),
        counts={f"{level.value}": counts[level] for level in Level if counts[level]},
    )


def restore(
    settings: CloudSettings,
    directory: Path,
    key: RootKey | None,
    *,
    expired: bool = False,
    without_ledger: bool = False,
    told: Told = lambda *_: None,
) -> RestoredData:
    """Put the databases of a backup in place of the present ones; see `cloud.startup.restoring`."""
    request = Request(directory, key, expired=expired, without_ledger=without_ledger)
    return restore_backup(settings, request, told)


def drill(
    settings: CloudSettings,
    directory: Path,
    key: RootKey | None,
    *,
    expired: bool = False,
    told: Told = lambda *_: None,
) -> Drilled:
    """Restore a backup in a home of its own, look at it, and take that away again; see `cloud.startup.drill`."""
    return drill_backup(settings, Request(directory, key, expired=expired), told)
