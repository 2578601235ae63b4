"""The databases: who gets in and how, what the server is, what the roles may, and which schema is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import psycopg

from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.kernel.findings import Finding, ok, problem, warning
from cloud.startup.doctor import host
from cloud.startup.doctor.context import Check, Context
from cloud.startup.servers import found_revision
from cloud.storage.durability import check_durability
from cloud.storage.engine import check_role
from cloud.storage.external import SERVING, Connection, check_data_database, check_version
from cloud.storage.migrate import RevisionState
from cloud.storage.roles import (
    APP_ROLE,
    CONTROL_DATABASE,
    DATA_DATABASE,
    MAINTENANCE_ROLE,
    OWNER_ROLE,
    PIXELTABLE_ROLE,
)

_ROLES_SQL: Final = "run infra/postgres/roles.sql again; it may be run at any time"
_SERVING_CONTROL: Final = tuple(role for role, database in SERVING if database == CONTROL_DATABASE)


def connections(context: Context) -> Iterator[Finding]:
    """Every role that serves gets in; the owner does where its password is configured."""
    # An embedded server that does not start is reported by this, the first check to need it.
    context.server  # noqa: B018
    for role, database in (*SERVING, (OWNER_ROLE, CONTROL_DATABASE)):
        try:
            with _connected(context, role, database):
                yield ok("connections", f"{role} connects to {database}")
        except LuminescentError as error:
            context.fail(f"role {role}")
            if role != OWNER_ROLE:
                yield problem("connections", str(error), None)
            elif context.external is None or context.settings.migrate_on_start:
                yield problem("connections", str(error), "give it the owner's password: it migrates at the start")
            else:
                what = f"{OWNER_ROLE} does not connect from here, which only db upgrade needs"
                yield ok("connections", what)


def tls(context: Context) -> Iterator[Finding]:
    """What goes to another machine is encrypted, and it is known to whom."""
    if context.external is None:
        yield ok("tls", "the embedded server has a socket in the home and listens on no network")
        return
    for role, database in ((APP_ROLE, CONTROL_DATABASE), (PIXELTABLE_ROLE, DATA_DATABASE)):
        place = context.external.place(database)
        with _connected(context, role, database) as connection:
            encrypted = bool(connection.pgconn.ssl_in_use)
        if encrypted and place.verifies_host:
            yield ok("tls", f"{place}: encrypted, the server's certificate is checked")
        elif place.is_local:
            yield ok("tls", f"{place}: {'encrypted' if encrypted else 'on this machine'}")
        elif encrypted:
            mode = place.parameters.get("sslmode")
            yield warning(
                "tls",
                f"{place}: encrypted, but sslmode={mode} does not tell the server from another one",
                "set sslmode=verify-full and sslrootcert=FILE in the URL",
            )
        else:
            yield warning(
                "tls",
                f"{place}: not encrypted, which insecure_database permits",
                "set sslmode=verify-full and sslrootcert=FILE in the URL, and leave out insecure_database",
            )


def server(context: Context) -> Iterator[Finding]:
    """The server is new enough, holds any text, and has room for a process's connections."""
    with _connected(context, APP_ROLE, CONTROL_DATABASE) as connection:
        check_version(connection)
        row = connection.execute(
            "SELECT current_setting('server_version'), current_setting('server_encoding'),"
            " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        ).fetchone()
    assert row is not None
    version, encoding, room = str(row[0]), row[1], int(str(row[2]))
    yield ok("server", f"PostgreSQL {version.split()[0]}")
    if encoding != "UTF8":
        yield problem(
            "server",
            f"the control database has the encoding {encoding}",
            "make it anew with ENCODING 'UTF8' TEMPLATE template0",
        )
    settings = context.settings
    wanted = 2 * (settings.control_pool_size + 3 * settings.background_pool_size + settings.data_pool_size)
    if wanted > room:
        yield warning(
            "server",
            f"one process may open {wanted} connections, and the server takes {room} in all",
            "raise max_connections, or lower control_pool_size, background_pool_size and data_pool_size",
        )


def data_database(context: Context) -> Iterator[Finding]:
    """Pixeltable's database has the extension, and its role may make tables and nothing more."""
    with _connected(context, PIXELTABLE_ROLE, DATA_DATABASE) as connection:
        check_data_database(connection)
    yield ok("data database", "the extension vector is there, and its role may make tables and no more")


def revision(context: Context) -> Iterator[Finding]:
    """The schema is the one that this code was made for."""
    context.require(f"role {APP_ROLE}")
    found = found_revision(context.server)
    at = f"at revision {found.found}" if found.found else "empty"
    match found.state:
        case RevisionState.CURRENT:
            yield ok("revision", f"the control plane is {at}, which is this version's")
            return
        case RevisionState.NEWER:
            text = f"the control plane is {at}, which this version does not know"
            yield problem("revision", text, "install the version that made it, or a newer one")
        case RevisionState.EMPTY | RevisionState.OLDER:
            text = f"the control plane is {at}, and this version needs {found.wanted}"
            if context.external is None:
                yield warning("revision", text, "the next start of the service upgrades it")
            else:
                yield problem("revision", text, "as the owner of the schema, run luminescent-cloud db upgrade")
    context.fail("revision")


def row_level_security(context: Context) -> Iterator[Finding]:
    """No role that serves can see past row-level security."""
    context.require("revision")
    for role in _SERVING_CONTROL:
        context.require(f"role {role}")
        check_role(context.engine(role))
    yield ok("row level security", f"holds {', '.join(_SERVING_CONTROL)}")


def durability(context: Context) -> Iterator[Finding]:
    """What any of the roles commits survives a power cut."""
    for role in _SERVING_CONTROL:
        context.require(f"role {role}")
        with context.engine(role).connection() as connection:
            check_durability(connection)
    with _connected(context, PIXELTABLE_ROLE, DATA_DATABASE) as connection:
        row = connection.execute("SHOW synchronous_commit").fetchone()
        if row is None or row[0] not in ("on", "remote_apply"):
            raise ConfigurationError(
                f"role '{PIXELTABLE_ROLE}' commits without waiting for the disk: set synchronous_commit to 'on'"
            )
    yield ok("durability", "fsync, full_page_writes and synchronous_commit are on")


def maintenance_rights(context: Context) -> Iterator[Finding]:
    """Erasure can have the write-ahead log closed and written out."""
    with _connected(context, MAINTENANCE_ROLE, CONTROL_DATABASE) as connection:
        row = connection.execute(
            "SELECT pg_has_role('pg_checkpoint', 'USAGE'), has_function_privilege('pg_switch_wal()', 'EXECUTE')"
            " AND has_function_privilege('pg_ls_waldir()', 'EXECUTE')"
        ).fetchone()
    if row == (True, True):
        yield ok("maintenance rights", "may write checkpoints, and close and list WAL segments")
        return
    yield warning(
        "maintenance rights",
        f"{MAINTENANCE_ROLE} may not write checkpoints, or close or list WAL segments: bytes of erased rows,"
        " unreadable without their key, stay in the log until the server reuses it",
        f"{_ROLES_SQL} as a superuser, where the server has one",
    )


@contextmanager
def _connection(context: Context, role: str, database: str) -> Iterator[Connection]:
    server = context.server
    if context.external is not None:
        with context.external.connect(role, database) as connection:
            yield connection
        return
    url = server.url(role, database)
    try:
        connection = psycopg.connect(
            host=str(url.query["host"]), user=role, password=url.password, dbname=database, autocommit=True
        )
    except psycopg.OperationalError as exc:
        raise ProviderUnavailableError("embedded PostgreSQL", reason=f"refused role '{role}'") from exc
    with connection:
        yield connection


def _connected(context: Context, role: str, database: str) -> AbstractContextManager[Connection]:
    """A connection of a role, unless `connections` has found that it gets none."""
    context.require(f"role {role}")
    return _connection(context, role, database)


CHECKS: Final[tuple[Check, ...]] = (
    connections,
    tls,
    server,
    data_database,
    revision,
    row_level_security,
    durability,
    maintenance_rights,
    host.clock,
)
