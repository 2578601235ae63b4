"""An external PostgreSQL: somebody else starts, stops, recovers and backs it up; the service connects and checks.

Rules:

1. Nothing of the server is changed, but by migrations, and those only as the owner.
2. Before anything is served, every role that serves has connected once, so that a wrong password, host or database is
   said at the start and by name.
3. `recover` waits for the server and does nothing to it.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import URL

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.place import DatabasePlace
from cloud.storage.roles import (
    APP_ROLE,
    CONTROL_DATABASE,
    DATA_DATABASE,
    KEYS_ROLE,
    MAINTENANCE_ROLE,
    PIXELTABLE_ROLE,
    ROLE_DATABASES,
    WORKER_ROLE,
)

SERVING: Final = (
    (APP_ROLE, CONTROL_DATABASE),
    (WORKER_ROLE, CONTROL_DATABASE),
    (KEYS_ROLE, CONTROL_DATABASE),
    (MAINTENANCE_ROLE, CONTROL_DATABASE),
    (PIXELTABLE_ROLE, DATA_DATABASE),
)
"""Each role that serves, and where it connects to; the owner and the backup do their work apart."""

SERVER_VERSION_MIN: Final = 160000
_COMPONENT: Final = "external PostgreSQL"
_POLL_S: Final = 0.25
_PASSING: Final = ("starting up", "shutting down", "too many clients", "remaining connection slots", "recovery mode")
"""Refusals that pass by themselves, as the server words them in English."""
_TLS_FAULTS: Final = ("certificate", "does not support SSL", "channel binding", "private key", "sslmode")
"""What libpq says of TLS that will be so the next time too; a connection that broke off may not."""

Connection = psycopg.Connection[tuple[object, ...]]


class ExternalPostgres:
    """A use of an external server, from `open` to `close`.

    Args:
        control: Where the control plane is.
        data: Where Pixeltable's tables are.
        passwords: Passwords by role; a role without one is left to libpq's own ways.
    """

    def __init__(self, control: DatabasePlace, data: DatabasePlace, passwords: Mapping[str, str]) -> None:
        self._places = {CONTROL_DATABASE: control, DATA_DATABASE: data}
        self._passwords = dict(passwords)
        self._lock = threading.Lock()
        self._answered_s = 0.0
        self._closed = False

    def open(self) -> None:
        """Every role that serves can connect, to a server that can be used.

        Raises:
            ConfigurationError: A role, a database or the server is not as it must be; the message says what to change.
            ProviderUnavailableError: The server cannot be reached.
        """
        for role, database in SERVING:
            with self.connect(role, database) as connection:
                check_version(connection)
                if database == DATA_DATABASE:
                    check_data_database(connection)

    def place(self, database: str) -> DatabasePlace:
        """Where a database of `cloud.storage.roles` is."""
        return self._places[database]

    def url(self, role: str, database: str) -> URL:
        self._check_known(role, database)
        return self._places[database].url(role, self._passwords.get(role))

    def pid(self) -> int | None:
        """`None`: its processes are not ours."""
        return None

    @contextmanager
    def connect(self, role: str, database: str) -> Iterator[Connection]:
        """A connection in autocommit, for looking around.

        Raises:
            ConfigurationError: The server refuses the role or the database, or TLS as it was asked for; the message
                quotes the refusal.
            ProviderUnavailableError: The server cannot be reached.
        """
        self._check_known(role, database)
        place = self._places[database]
        arguments = {"application_name": "luminescent-cloud check"}
        arguments |= place.connect_arguments(role, self._passwords.get(role))
        try:
            connection = psycopg.connect(**arguments, autocommit=True)  # type: ignore[arg-type]
        except psycopg.OperationalError as exc:
            # From None: a chain would print the parameters nowhere, but the text below says all there is to say.
            raise _refused(role, place, exc, has_password=role in self._passwords) from None
        try:
            yield connection
        finally:
            connection.close()

    def recover(self, within_s: float) -> None:
        began_s = time.monotonic()
        # The callers of one process share what one of them finds out.
        if not self._lock.acquire(timeout=max(0.0, within_s)):
            raise ProviderUnavailableError(_COMPONENT, reason="does not accept connections yet")
        try:
            while self._answered_s < began_s:
                if self._closed:
                    raise ProviderUnavailableError(_COMPONENT, reason="was closed by this process")
                if self._accepts():
                    self._answered_s = time.monotonic()
                elif time.monotonic() + _POLL_S > began_s + within_s:
                    raise ProviderUnavailableError(_COMPONENT, reason="does not accept connections yet")
                else:
                    time.sleep(_POLL_S)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing of the server is stopped."""
        self._closed = True

    def _accepts(self) -> bool:
        try:
            with self.connect(APP_ROLE, CONTROL_DATABASE):
                return True
        except ProviderUnavailableError:
            return False
        except ConfigurationError:
            # It answers; what it refuses is for the caller's own attempt to find out.
            return True

    def _check_known(self, role: str, database: str) -> None:
        if database not in ROLE_DATABASES.get(role, ()):
            raise ConfigurationError(f"role '{role}' has no access to a database '{database}'")


def check_version(connection: Connection) -> None:
    """The server is one that the migrations and Pixeltable were made for.

    Raises:
        ConfigurationError: It is older.
    """
    found = connection.info.server_version
    if found < SERVER_VERSION_MIN:
        raise ConfigurationError(
            f"the server is PostgreSQL {found // 10000}; {SERVER_VERSION_MIN // 10000} or later is needed: upgrade it"
        )


def check_data_database(connection: Connection) -> None:
    """Pixeltable can work in the database of this connection, under a role without further rights.

    Raises:
        ConfigurationError: The extension is missing, the role may not make tables, or it may do too much.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'),"
        " has_schema_privilege('public', 'CREATE'), rolsuper OR rolbypassrls OR rolcreaterole"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    has_vector, may_create, is_mighty = row
    if is_mighty:
        raise ConfigurationError(
            f"role '{connection.info.user}' is a superuser, bypasses row-level security or makes roles: "
            "run infra/postgres/roles.sql, which takes that away"
        )
    if not has_vector:
        raise ConfigurationError(
            f"database {connection.info.dbname} lacks the extension 'vector': as a superuser, run there "
            "CREATE EXTENSION vector"
        )
    if not may_create:
        raise ConfigurationError(
            f"role '{connection.info.user}' may not make tables in {connection.info.dbname}: "
            "make it the owner of that database, as infra/postgres/roles.sql does"
        )


def read_passwords(path: Path) -> dict[str, str]:
    """Passwords by role, from a JSON object in a file that nobody else reads.

    The file is this account's own and closed to all others, or root's and open to a group of ours, as a mounted secret
    is.

    Raises:
        ConfigurationError: It cannot be read, is open to others, or is no object of known roles.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(1 << 20)
    except OSError as exc:
        raise ConfigurationError(f"role_passwords_file {path} cannot be read: {exc.strerror}") from exc
    forbidden = 0o077 if found.st_uid == os.geteuid() else 0o037
    if found.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(found.st_mode) & forbidden:
        raise ConfigurationError(f"role_passwords_file {path} is open to others; run: chmod 600 {path}")
    try:
        passwords = json.loads(content)
    except ValueError:
        passwords = None
    if not isinstance(passwords, dict) or not all(isinstance(value, str) and value for value in passwords.values()):
        raise ConfigurationError(
            f'role_passwords_file {path} is no JSON object of passwords by role, such as {{"{APP_ROLE}": "…"}}'
        )
    if unknown := sorted(str(name) for name in passwords.keys() - ROLE_DATABASES.keys()):
        raise ConfigurationError(
            f"role_passwords_file {path} names roles that there are not: {', '.join(unknown)}; "
            f"the roles are {', '.join(ROLE_DATABASES)}"
        )
    return passwords


def _refused(
    role: str, place: DatabasePlace, exc: psycopg.OperationalError, *, has_password: bool
) -> ConfigurationError | ProviderUnavailableError:
    """The error that tells why `role` did not get in: names of roles, hosts and databases, nothing of a person."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    # With several hosts or addresses the last one that was tried; hints of libpq stand in lines below.
    said = next((line for line in reversed(lines) if " failed: " in line), lines[-1] if lines else "no reason given")
    reason = said.partition("FATAL:")[2].strip() or said.rpartition(" failed: ")[2].strip() or said
    if any(passing in said for passing in _PASSING):
        return ProviderUnavailableError(_COMPONENT, reason=f"does not take connections now ({reason})")
    text = f"role '{role}' cannot connect to {place}: {reason}"
    if "no password supplied" in said and not has_password:
        return ConfigurationError(f"{text}; put its password into role_passwords_file")
    if "password" in said:
        return ConfigurationError(
            f"{text}; role_passwords_file must hold the password that infra/postgres/roles.sql was given"
        )
    if any(lasting in said for lasting in _TLS_FAULTS):
        return ConfigurationError(f"{text}; see the TLS parameters of the URL")
    if "FATAL:" in said:
        return ConfigurationError(f"{text}; infra/postgres/roles.sql makes the roles and databases")
    return ProviderUnavailableError(_COMPONENT, reason=f"cannot be reached as {place} ({reason})")
