"""The roles and databases of an installation, and the statements that make them.

`infra/postgres/roles.sql` makes the same on an external server; a test compares the two.

Every role may log in and nothing else: what it may touch inside the control database is granted by the migrations.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
from psycopg import sql

CONTROL_DATABASE: Final = "luminescent_control"
DATA_DATABASE: Final = "luminescent_data"

OWNER_ROLE: Final = "luminescent_owner"
APP_ROLE: Final = "luminescent_app"
WORKER_ROLE: Final = "luminescent_worker"
KEYS_ROLE: Final = "luminescent_keys"
BACKUP_ROLE: Final = "luminescent_backup"
MAINTENANCE_ROLE: Final = "luminescent_maintenance"
PIXELTABLE_ROLE: Final = "luminescent_pixeltable"

ROLE_DATABASES: Final[Mapping[str, tuple[str, ...]]] = {
    OWNER_ROLE: (CONTROL_DATABASE,),
    APP_ROLE: (CONTROL_DATABASE,),
    WORKER_ROLE: (CONTROL_DATABASE,),
    KEYS_ROLE: (CONTROL_DATABASE,),
    BACKUP_ROLE: (CONTROL_DATABASE, DATA_DATABASE),
    MAINTENANCE_ROLE: (CONTROL_DATABASE, DATA_DATABASE),
    PIXELTABLE_ROLE: (DATA_DATABASE,),
}
"""Each role, and the databases it may connect to."""
DATABASE_OWNERS: Final[Mapping[str, str]] = {CONTROL_DATABASE: OWNER_ROLE, DATA_DATABASE: PIXELTABLE_ROLE}

_ATTRIBUTES: Final = "LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION"
_SCRAM_ITERATIONS: Final = 4096


def default_rights() -> tuple[str, ...]:
    """Statements, which Pixeltable's own role may run too: it makes its tables as they are needed, and a backup must
    read those as well."""
    return tuple(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {PIXELTABLE_ROLE} GRANT SELECT ON {kind} TO {BACKUP_ROLE}"
        for kind in ("TABLES", "SEQUENCES")
    )


def _grants() -> tuple[tuple[str, str], ...]:
    """(database, statement), each of which may be repeated without harm."""
    statements = [("postgres", "REVOKE ALL ON DATABASE postgres FROM PUBLIC")]
    statements += [("postgres", f"ALTER ROLE {role} {_ATTRIBUTES}") for role in ROLE_DATABASES]
    statements += [("postgres", f"GRANT pg_checkpoint TO {MAINTENANCE_ROLE}")]
    for database in DATABASE_OWNERS:
        allowed = ", ".join(role for role, databases in ROLE_DATABASES.items() if database in databases)
        statements += [
            (database, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC"),
            (database, f"GRANT CONNECT ON DATABASE {database} TO {allowed}"),
            (database, f"GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {MAINTENANCE_ROLE}"),
            # Names and sizes of segments: whether those of before an erasure are gone.
            (database, f"GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO {MAINTENANCE_ROLE}"),
        ]
    statements += [(DATA_DATABASE, statement) for statement in default_rights()]
    statements.append((DATA_DATABASE, "CREATE EXTENSION IF NOT EXISTS vector"))
    return tuple(statements)


def provision(connect: Callable[[str], psycopg.Connection[tuple[object, ...]]], passwords: Mapping[str, str]) -> None:
    """Every role and database exists as declared here, and every role's password is the one given.

    Cheap when that is so already: one connection, one look. A fingerprint of the statements, left as the control
    database's comment after the last of them, tells.

    Args:
        connect: Connects to a database as superuser, in autocommit.
        passwords: Password of each role of `ROLE_DATABASES`.
    """
    grants = _grants()
    fingerprint = f"provisioned {hashlib.sha256(repr(grants).encode()).hexdigest()[:16]}"
    with connect("postgres") as server:
        verifiers = {
            str(name): verifier
            for name, verifier in server.execute(
                "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)", [list(ROLE_DATABASES)]
            )
        }
        for role in ROLE_DATABASES:
            if role not in verifiers:
                server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            if not scram_matches(passwords[role], verifiers.get(role)):
                # The verifier, not the password: the server never sees the latter in a statement.
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
                server.execute(statement.format(sql.Identifier(role), sql.Literal(scram_verifier(passwords[role]))))
        comments = {
            str(name): comment
            for name, comment in server.execute(
                "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = ANY(%s)",
                [list(DATABASE_OWNERS)],
            )
        }
        if set(comments) == set(DATABASE_OWNERS) and comments[CONTROL_DATABASE] == fingerprint:
            return
        for database, owner in DATABASE_OWNERS.items():
            if database not in comments:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                server.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))
        for database in ("postgres", *DATABASE_OWNERS):
            with connect(database) as connection:
                for place, text in grants:
                    if place == database:
                        connection.execute(text.encode())
        statement = sql.SQL("COMMENT ON DATABASE {} IS {}")
        server.execute(statement.format(sql.Identifier(CONTROL_DATABASE), sql.Literal(fingerprint)))


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """What PostgreSQL stores in place of an ASCII password.

    Source: RFC 5802 §3, RFC 7677; PostgreSQL `pg_authid.rolpassword`.
    """
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def scram_matches(password: str, verifier: object) -> bool:
    """Whether `verifier` is one that `scram_verifier` makes of `password`, with whatever salt."""
    head = f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:"
    if not isinstance(verifier, str) or not verifier.startswith(head):
        return False
    salt = base64.b64decode(verifier.removeprefix(head).partition("$")[0])
    return hmac.compare_digest(scram_verifier(password, salt=salt), verifier)
