"""Reads a backup into the two databases, which are emptied before; nobody else may use them meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import psycopg

from cloud.backup.model import Manifest
from cloud.backup.package import DUMPS, content_of
from cloud.backup.programs import Programs
from cloud.backup.snapshots import Connection, counts_of, rows_of
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.keys.ports import RootKey
from cloud.storage.roles import CONTROL_DATABASE, DATA_DATABASE, DATABASE_OWNERS, default_rights
from cloud.storage.server import Server

_OTHERS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND usename LIKE 'luminescent\\_%'"
)
_OTHERS_WAIT_S: Final = 10.0
_POLL_S: Final = 0.2


@contextlib.contextmanager
def connected(server: Server, role: str, database: str) -> Iterator[Connection]:
    """A connection of a role in autocommit, without a limit to how long a statement runs.

    Raises:
        ProviderUnavailableError: The server does not answer, or refuses.
    """
    url = server.url(role, database)
    query = {name: value for name, value in url.query.items() if name != "options"}
    try:
        connection = psycopg.connect(
            **query,  # type: ignore[arg-type]
            user=url.username,
            password=None if url.password is None else str(url.password),
            dbname=url.database,
            autocommit=True,
            application_name="luminescent-cloud backup",
            options="-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=60000",
        )
    except psycopg.OperationalError:
        # From None: what libpq says may hold the parameters.
        raise ProviderUnavailableError(
            "database", reason=f"does not let {role} in; give its password in role_passwords_file"
        ) from None
    try:
        yield connection
    except psycopg.Error as exc:
        raise ProviderUnavailableError("database", reason=f"failed (SQLSTATE {exc.sqlstate})") from exc
    finally:
        connection.close()


class Loader:
    """Reads backups into the databases of a server.

    Args:
        server: The server.
        programs: PostgreSQL's programs.
    """

    def __init__(self, server: Server, programs: Programs) -> None:
        self._server = server
        self._programs = programs

    def check_alone(self) -> None:
        """Nobody else is connected to the databases.

        Raises:
            ConfigurationError: Somebody is, still after a few seconds.
        """
        for database, owner in DATABASE_OWNERS.items():
            with connected(self._server, owner, database) as connection:
                give_up_at = time.monotonic() + _OTHERS_WAIT_S
                while others := _number(connection, _OTHERS):
                    if time.monotonic() > give_up_at:
                        raise ConfigurationError(
                            f"{others} other connection(s) use {database}: stop the service on every machine first"
                        )
                    time.sleep(_POLL_S)

    def empty(self) -> None:
        """Nothing is in the databases any more.

        Raises:
            ConfigurationError: The extension of vectors cannot be put back.
        """
        for database, owner in DATABASE_OWNERS.items():
            with connected(self._server, owner, database) as connection:
                connection.execute("DROP OWNED BY CURRENT_USER CASCADE")
                if database == DATA_DATABASE:
                    self._mend(connection)
        failpoints.reach("data_restore.emptied")

    def load(self, directory: Path, manifest: Manifest, key: RootKey | None, told: Callable[[str, int], None]) -> None:
        """Everything of the backup is in the empty databases, and counted.

        Raises:
            ConfigurationError: It is damaged, or sealed with another key; or not all of it is there.
            ProviderUnavailableError: The server failed.
        """
        backup_id = manifest.backup.backup_id
        for database, name in DUMPS.items():
            pieces = content_of(directory, backup_id, name, key)
            self._programs.load(
                self._server.url(DATABASE_OWNERS[database], database), _told(pieces, partial(told, name))
            )
        with connected(self._server, DATABASE_OWNERS[CONTROL_DATABASE], CONTROL_DATABASE) as connection:
            counts = counts_of(connection)
        with connected(self._server, DATABASE_OWNERS[DATA_DATABASE], DATA_DATABASE) as connection:
            rows = rows_of(counts_of(connection))
        if dict(counts) != dict(manifest.contents.counts) or rows != manifest.contents.rows:
            raise ConfigurationError("the restored databases do not hold what the manifest says; use another backup")

    @staticmethod
    def _mend(connection: Connection) -> None:
        """What went with the owner's things and is in no dump: what it grants on tables to come, and the extension."""
        for statement in default_rights():
            connection.execute(statement.encode())
        row = connection.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')").fetchone()
        if row is not None and not row[0]:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def check_opens(directory: Path, manifest: Manifest, key: RootKey | None) -> None:
    """The backup is sealed with this key, or with none.

    Raises:
        ConfigurationError: It is not.
    """
    sealed_with = manifest.contents.sealed_with
    if sealed_with is not None and key is None:
        raise ConfigurationError(f"this backup is sealed with key {sealed_with}: name its file with --key-file")
    if sealed_with is None and key is not None:
        raise ConfigurationError("this backup is not sealed: leave --key-file out")
    for name in DUMPS.values():
        next(content_of(directory, manifest.backup.backup_id, name, key), None)


def _told(pieces: Iterable[bytes], told: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        told(done)


def _number(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
