"""Databases of the peers' own on the installation's PostgreSQL, and the proof that it loses nothing.

The server lets in the installation's own roles alone. While it serves a measurement it gets one more line per peer:
that peer's role, that peer's database, by password, over the same socket.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import URL

from cloud.storage.embedded import EmbeddedPostgres

DURABILITY = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_NAME = re.compile(r"bench_[a-z0-9_]{1,40}")


def make_databases(server: EmbeddedPostgres, home: Path, names: Iterable[str]) -> dict[str, str]:
    """A database for each name, owned by a role of that name, with the extension `vector`; their URLs.

    The roles get no further rights. The URLs hold passwords, which last as long as the home does.
    """
    urls = {}
    connect = server._server.cluster.connect
    rules = home / "postgres/pg_hba.conf"
    lines = ""
    with connect("postgres") as connection:
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(f"not a name for a database of a peer: {name}")
            password = secrets.token_urlsafe(24)
            known = sql.Identifier(name)
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(known, sql.Literal(password))
            )
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(known, known))
            lines += f"local {name} {name} scram-sha-256\n"
            urls[name] = _url(home, name, password)
        with rules.open("a") as file:
            file.write(lines)
        connection.execute("SELECT pg_reload_conf()")
    for name in urls:
        with connect(name) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return urls


def check_durability(url: str) -> dict[str, str]:
    """What holds for whoever connects there; all of it is as it must be for an acknowledged write to last.

    Raises:
        RuntimeError: It is not; what is measured then would be something else.
    """
    with psycopg.connect(plain(url)) as connection:
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(DURABILITY)]
        ).fetchall()
    found = {str(name): str(setting) for name, setting in rows}
    if found != DURABILITY:
        raise RuntimeError(f"the server is not durable: {found}")
    return found


def database_bytes(url: str) -> int:
    """What the database at `url` takes, the write-ahead log left out."""
    with psycopg.connect(plain(url)) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def plain(url: str) -> str:
    """The URL as psycopg itself reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _url(home: Path, name: str, password: str) -> str:
    url = URL.create(
        "postgresql+psycopg",
        username=name,
        password=password,
        database=name,
        query={"host": str(home / "postgres/socket")},
    )
    return url.render_as_string(hide_password=False)
