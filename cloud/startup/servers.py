"""Picks the PostgreSQL of an installation by its settings, and sees to it that its schema is this code's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from cloud.audit.model import Actor, AuditDraft, Category, Outcome, reason_of
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_request_id
from cloud.settings import CloudSettings
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.external import ExternalPostgres, check_version, read_passwords
from cloud.storage.migrate import Revision, RevisionState, migrate, revision_of
from cloud.storage.place import DatabasePlace
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE, DATA_DATABASE, OWNER_ROLE
from cloud.storage.server import Server
from cloud.tenancy.identity import local_operator
from cloud.tenancy.postgres import append_event

_log = logging.getLogger(__name__)


def external_server(settings: CloudSettings) -> ExternalPostgres | None:
    """The external server that the settings name, not yet connected to; `None` if the embedded one is meant.

    Raises:
        ConfigurationError: A URL or the passwords' file cannot be used.
    """
    if settings.control_url is None or settings.data_url is None:
        return None
    control, data = (
        DatabasePlace.parse(
            url.get_secret_value(), setting=name, database=database, insecure=settings.insecure_database
        )
        for name, url, database in (
            ("control_url", settings.control_url, CONTROL_DATABASE),
            ("data_url", settings.data_url, DATA_DATABASE),
        )
    )
    path = settings.role_passwords_file
    return ExternalPostgres(control, data, read_passwords(path.expanduser()) if path else {})


def open_server(settings: CloudSettings) -> Server:
    """The server runs and takes connections of every role that serves.

    Raises:
        ConfigurationError: It cannot be used; the message says what to change.
        ProviderUnavailableError: It did not answer in time.
    """
    external = external_server(settings)
    if external is None:
        return EmbeddedPostgres.open(settings.home)
    external.open()
    return external


def open_for_restore(settings: CloudSettings) -> Server:
    """The server, whatever is in its databases; the embedded one runs.

    Raises:
        ConfigurationError: It cannot be used; the message says what to change.
        ProviderUnavailableError: It did not answer in time.
    """
    return external_server(settings) or EmbeddedPostgres.open(settings.home)


def bring_up_to_date(settings: CloudSettings, server: Server) -> None:
    """The control plane is at the revision of this code; an embedded one is brought there, an external one on request.

    An upgrade is recorded as `upgrade` does; filling a new, empty database is none.

    Raises:
        ConfigurationError: It is older and may not be upgraded here, or newer.
        ProviderUnavailableError: It did not answer, or a migration failed and was rolled back.
    """
    may_migrate = settings.migrate_on_start
    if may_migrate is None:
        may_migrate = settings.control_url is None
    if may_migrate:
        _upgrade(server, at_start=True)
    else:
        found_revision(server).require_current()


@contextlib.contextmanager
def refusals_recorded(server: Server) -> Iterator[None]:
    """A start that is refused in this block leaves one event, with the reason's code, wherever there is a log yet.

    What may pass by itself, such as a server that does not answer, refuses nothing and leaves none.
    """
    try:
        yield
    except LuminescentError as error:
        if not error.retryable:
            url = server.url(APP_ROLE, CONTROL_DATABASE)
            record_failure(url, operators_draft(Action.SERVICE_START), error)
        raise


def found_revision(server: Server, role: str = APP_ROLE) -> Revision:
    """How the control plane compares with this code, as a serving role sees it.

    Raises:
        ProviderUnavailableError: It did not answer.
    """
    engine = sa.create_engine(server.url(role, CONTROL_DATABASE), poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            return revision_of(connection)
    except sa.exc.DBAPIError as exc:
        raise ProviderUnavailableError("control plane") from exc


def upgrade(server: Server) -> Revision:
    """Bring the control plane to this code's revision as the owner, and record that as the local operator's doing.

    The event commits with the last step; an upgrade that was interrupted before is recorded by the run that ends it.

    Returns:
        What was found before.

    Raises:
        ConfigurationError: The database is newer.
        ProviderUnavailableError: The server did not answer, or a migration failed and was rolled back.
    """
    return _upgrade(server, at_start=False)


def _upgrade(server: Server, *, at_start: bool) -> Revision:
    """As `upgrade`. A start asks for no upgrade, so it records one only if the database was an older one."""
    before: list[Revision] = []
    draft = operators_draft(Action.DATABASE_UPGRADE)

    def record(connection: sa.Connection, found: Revision) -> None:
        before.append(found)
        if found.state is RevisionState.OLDER or not at_start:
            ends = {"from": found.found or "empty", "to": found.wanted}
            append_event(connection, SYSTEM_LOG, replace(draft, details=dict(ends)), Outcome.ALLOWED)

    if isinstance(server, ExternalPostgres):
        # For its message: it says why the owner does not get in.
        with server.connect(OWNER_ROLE, CONTROL_DATABASE) as connection:
            check_version(connection)
    url = server.url(OWNER_ROLE, CONTROL_DATABASE)
    try:
        migrate(url, record)
    except ConfigurationError as error:
        # A newer one: nothing was tried, and a start records that it was refused.
        if not at_start:
            record_failure(url, draft, error)
        raise
    except sa.exc.DBAPIError as exc:
        told = _told(exc)
        record_failure(url, draft, told)
        raise told from exc
    return before[0]


def _told(exc: sa.exc.DBAPIError) -> LuminescentError:
    state = getattr(exc.orig, "sqlstate", None)
    if state == "42501":
        return ConfigurationError(
            f"role '{OWNER_ROLE}' may not change the schema: make it the owner of the control database, as"
            " infra/postgres/roles.sql does"
        )
    return ProviderUnavailableError("control plane", reason=f"could not be upgraded (SQLSTATE {state})")


def record_failure(url: sa.URL, draft: AuditDraft, error: LuminescentError) -> None:
    """The failure is recorded where there is a log yet that this version can write to."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.begin() as connection:
            append_event(connection, SYSTEM_LOG, draft, Outcome.FAILED, reason=reason_of(error))
    except sa.exc.DBAPIError:
        _log.warning("the failed %s could not be recorded: there is no audit log that this version knows", draft.action)


def operators_draft(action: Action, details: dict[str, str] | None = None) -> AuditDraft:
    """The event of an action of whoever runs this process, begun where no installation is open."""
    operator = local_operator()
    actor = Actor(operator.kind, operator.name, tuple(sorted(role.value for role in operator.roles)))
    return AuditDraft(
        action=action,
        actor=actor,
        request_id=new_request_id(),
        category=Category.ADMINISTRATION,
        details=dict(details or {}),
    )
