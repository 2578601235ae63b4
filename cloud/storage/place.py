"""Where an external database is: a URL as libpq understands it, without credentials.

Every parameter that libpq knows, TLS among them, is kept as it was given, for the control plane and for Pixeltable
alike. Rules:

1. No user and no password: each part of the service connects as a role of its own, whose password is kept elsewhere.
2. A database on another host is reached with TLS that the client insists on (`sslmode` of `require` or better), unless
   the deployment says that it needs none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from sqlalchemy import URL

from cloud.kernel.errors import ConfigurationError

_EXAMPLE: Final = "postgresql://db.example.com:5432/NAME?sslmode=verify-full&sslrootcert=/etc/ssl/postgres-ca.pem"
_INSISTING: Final = frozenset({"require", "verify-ca", "verify-full"})
_PORT: Final = "5432"
_DEFAULTS: Final[Mapping[str, str]] = {
    "connect_timeout": "5",
    # A peer that vanished without a word is noticed within a minute, not within the hours of most systems.
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "50000",
}
"""Where neither the URL nor a service file says otherwise."""


@dataclass(frozen=True, slots=True)
class DatabasePlace:
    """A database, and how to get there.

    Attributes:
        parameters: libpq's parameters, `dbname` among them.
    """

    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, *, setting: str, database: str, insecure: bool) -> DatabasePlace:
        """The place that `text` names.

        Args:
            text: A `postgresql://` URL.
            setting: Which setting it is, for messages.
            database: Name of the database where the URL names none.
            insecure: Whether another host may be reached without TLS.

        Raises:
            ConfigurationError: It cannot be used. The message quotes nothing that could be a password.
        """
        text = text.strip().replace("postgresql+psycopg://", "postgresql://", 1)
        try:
            found = {name: str(value) for name, value in conninfo_to_dict(text).items()}
        except psycopg.ProgrammingError:
            # Its text quotes the part it could not read, which may be a password.
            raise ConfigurationError(f"{setting} {_fault(text)}; it looks like {_EXAMPLE}") from None
        if {"user", "password"} & found.keys():
            raise ConfigurationError(
                f"{setting} names a user or a password: leave them out, each part of the service connects as a role "
                "of its own; their passwords go into role_passwords_file"
            )
        if not {"host", "hostaddr", "service"} & found.keys():
            raise ConfigurationError(f"{setting} names no host; it looks like {_EXAMPLE}")
        found.setdefault("dbname", database)
        if "service" not in found:
            found = {**_DEFAULTS, **found, "port": _ports(found)}
            if not found["port"].replace(",", "").isdecimal():
                raise ConfigurationError(f"{setting} names a port that is no number; it looks like {_EXAMPLE}")
        place = cls(found)
        if not (place.is_local or place.insists_on_tls or insecure):
            raise ConfigurationError(
                f"{setting} names another host without TLS: add sslmode=verify-full and sslrootcert=FILE, or set "
                "insecure_database=true if the network itself is protected"
            )
        return place

    @property
    def database(self) -> str:
        """Name of the database."""
        return self.parameters["dbname"]

    @property
    def is_local(self) -> bool:
        """Whether everything it connects to is this machine: a Unix socket, or a loopback address."""
        hosts = [name for key in ("host", "hostaddr") for name in self.parameters.get(key, "").split(",") if name]
        return bool(hosts) and all(_is_local(host) for host in hosts)

    @property
    def insists_on_tls(self) -> bool:
        """Whether libpq gives up rather than connect without TLS."""
        return self.parameters.get("sslmode") in _INSISTING

    @property
    def verifies_host(self) -> bool:
        """Whether libpq makes sure that it talks to the server it was told to."""
        return self.is_local or self.parameters.get("sslmode") == "verify-full"

    def __str__(self) -> str:
        """Database, host and port, for messages."""
        where = self.parameters.get("host") or self.parameters.get("hostaddr")
        if where is None:
            return f"{self.database} of service {self.parameters['service']}"
        return f"{self.database} on {where}:{self.parameters['port']}"

    def connect_arguments(self, role: str, password: str | None) -> dict[str, str]:
        """libpq's parameters for `role`; without a password libpq's own ways hold: passfile, service, certificate."""
        return {**self.parameters, "user": role} | ({} if password is None else {"password": password})

    def url(self, role: str, password: str | None) -> URL:
        """The same for SQLAlchemy."""
        query = {name: value for name, value in self.parameters.items() if name != "dbname"}
        return URL.create("postgresql+psycopg", username=role, password=password, database=self.database, query=query)


def _fault(text: str) -> str:
    """What is wrong with a URL that libpq refused."""
    try:
        parts = urlsplit(text)
        given = {name for name, _ in parse_qsl(parts.query)}
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("postgresql", "postgres"):
        return "is no postgresql:// URL"
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    unknown = sorted(name for name in given - known if name.isidentifier())
    return f"has parameters that libpq does not know: {', '.join(unknown)}" if unknown else "is no URL that libpq reads"


def _ports(found: Mapping[str, str]) -> str:
    """One port for each host: libpq is content with one for all, SQLAlchemy is not."""
    count = (found.get("host") or found["hostaddr"]).count(",") + 1
    ports = [port or _PORT for port in found.get("port", _PORT).split(",")]
    return ",".join(ports * count if len(ports) == 1 else ports)


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
