"""An external PostgreSQL as an operator runs one: over TCP, passwords by SCRAM, TLS at the door, our roles."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from cloud.storage.account import ServerAccount, server_account
from cloud.storage.embedded import programs_directory
from cloud.storage.roles import OWNER_ROLE, ROLE_DATABASES
from tests.support.nursery import ROOT
from tests.support.tls import Authority, tls_door

ROLES_SQL = ROOT / "infra/postgres/roles.sql"
SUPERUSER_PASSWORD = "of-the-superuser"


@dataclass(frozen=True, slots=True)
class ExternalServer:
    """A running server.

    Attributes:
        directory: Its own.
        port: Where it listens, in the clear.
        tls_port: Where the door with TLS is.
        authority: Who signed the door's certificate.
        account: Under which it runs.
        binaries: PostgreSQL's programs.
    """

    directory: Path
    port: int
    tls_port: int
    authority: Authority
    account: ServerAccount
    binaries: Path

    def url(self, database: str, **parameters: str) -> str:
        """The URL of a database behind the door, with TLS verified; parameters are added or replace these."""
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.authority.certificate)} | parameters
        query = "&".join(f"{name}={value}" for name, value in tls.items())
        return f"postgresql://127.0.0.1:{self.tls_port}/{database}?{query}"

    def plain_url(self, database: str) -> str:
        """The URL of a database without TLS."""
        return f"postgresql://127.0.0.1:{self.port}/{database}"

    def passwords(self, *, owner: bool = True) -> Path:
        """A file of the roles' passwords, with or without the owner's."""
        path = self.directory / ("all.json" if owner else "serving.json")
        if not path.exists():
            found = {role: password(role) for role in ROLE_DATABASES if owner or role != OWNER_ROLE}
            path.write_text(json.dumps(found))
            path.chmod(0o600)
        return path

    def settings(self, *, owner: bool = True, **more: str) -> dict[str, str]:
        """Settings of an installation on this server."""
        return {
            "control_url": self.url("luminescent_control"),
            "data_url": self.url("luminescent_data"),
            "role_passwords_file": str(self.passwords(owner=owner)),
            **more,
        }

    def environment(self, *, owner: bool = True, **more: str) -> dict[str, str]:
        """The same as environment variables."""
        return {f"LUMINESCENT_CLOUD_{name.upper()}": text for name, text in self.settings(owner=owner, **more).items()}

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection of the superuser, in autocommit."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=SUPERUSER_PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def run_roles_sql(
        self, *, user: str = "postgres", user_password: str = SUPERUSER_PASSWORD, **variables: str
    ) -> None:
        """Run `infra/postgres/roles.sql` as its head says."""
        given = {f"{role.upper()}_PASSWORD": password(role) for role in ROLE_DATABASES}
        command = [self.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        for name, value in variables.items():
            command += ["-v", f"{name}={value}"]
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", "postgres"]
        done = subprocess.run(
            [*command, *place, "-f", ROLES_SQL],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **given, "PGPASSWORD": user_password},
        )
        assert done.returncode == 0, done.stderr

    def stop(self, mode: str = "fast") -> None:
        """Stop it."""
        self._pg_ctl("stop", "-m", mode)

    def start(self) -> None:
        """Start it."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='' -c max_connections=200"
        )
        self._pg_ctl("start", "-l", str(self.directory / "server.log"), "-o", options)

    def _pg_ctl(self, verb: str, *arguments: str) -> None:
        done = self.account.run(
            [self.binaries / "pg_ctl", "-D", self.directory / "data", "-w", "-t", "60", *arguments, verb], timeout_s=90
        )
        assert done.returncode == 0, f"pg_ctl {verb} failed"


def password(role: str) -> str:
    """The password of a role, with a character that URLs and files of passwords have to quote."""
    return f"of {role}: 1@2/3%"


@contextlib.contextmanager
def external_server(*, with_roles: bool = True) -> Iterator[ExternalServer]:
    """A server of its own, gone afterwards."""
    account, binaries = server_account(), programs_directory()
    directory = Path(tempfile.mkdtemp(prefix="lum-ext-", dir="/tmp"))
    try:
        account.let_pass_to(binaries)
        secret = directory / "superuser"
        secret.write_text(SUPERUSER_PASSWORD)
        for path in (directory, secret):
            os.chown(path, account.uid, account.gid)
        authentication = ["--auth=scram-sha-256", f"--pwfile={secret}", "--username=postgres"]
        made = account.run(
            [binaries / "initdb", "-D", directory / "data", *authentication, "--encoding=UTF8", "--locale=C"],
            timeout_s=120,
            keep_errors=True,
        )
        assert made.returncode == 0, made.stderr
        authority = Authority.make(directory)
        port = _free_port()
        with tls_door(authority, port) as tls_port:
            server = ExternalServer(directory, port, tls_port, authority, account, binaries)
            server.start()
            try:
                if with_roles:
                    server.run_roles_sql()
                yield server
            finally:
                with contextlib.suppress(AssertionError):
                    server.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
