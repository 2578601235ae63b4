"""Laws of the roles: the password's verifier, and one set of roles wherever they are made."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import cloud
from cloud.storage.cluster import Cluster
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.roles import DATABASE_OWNERS, ROLE_DATABASES, provision, scram_matches, scram_verifier
from tests.support.homes import temporary_home

ROLES_SQL = Path(cloud.__file__).parents[1] / "infra/postgres/roles.sql"


def acl(column: str) -> str:
    """An access list in an order that does not depend on that of the grants."""
    return f"ARRAY(SELECT unnest({column})::text ORDER BY 1)"


FACTS = {
    "roles": "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,"
    " rolbypassrls, rolconnlimit, rolvaliduntil, rolconfig FROM pg_roles WHERE rolname LIKE 'luminescent%' ORDER BY 1",
    "memberships": "SELECT roleid::regrole::text, member::regrole::text, admin_option, inherit_option, set_option"
    " FROM pg_auth_members WHERE member::regrole::text LIKE 'luminescent%' ORDER BY 1, 2",
    "databases": f"SELECT datname, datdba::regrole::text, pg_encoding_to_char(encoding), {acl('datacl')}"
    " FROM pg_database WHERE datname LIKE 'luminescent%' ORDER BY 1",
    "functions": f"SELECT proname, {acl('proacl')} FROM pg_proc WHERE proname LIKE 'pg_switch_wal' ORDER BY 1",
    "defaults": f"SELECT defaclrole::regrole::text, defaclobjtype, {acl('defaclacl')} FROM pg_default_acl"
    " ORDER BY 1, 2",
    "schema": f"SELECT nspname, {acl('nspacl')} FROM pg_namespace WHERE nspname = 'public'",
    "extensions": "SELECT extname, extversion FROM pg_extension ORDER BY 1",
}


def facts(cluster: Cluster) -> dict[tuple[str, str], list[tuple[object, ...]]]:
    found = {}
    for database in DATABASE_OWNERS:
        with cluster.connect(database) as connection:
            for name, query in FACTS.items():
                found[database, name] = connection.execute(query.encode()).fetchall()
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server without any role or database of ours."""
    with temporary_home(prepared=True) as home, EmbeddedPostgres.open(home) as server:
        bare = server._server.cluster
        drop_everything(bare)
        yield bare


def drop_everything(cluster: Cluster) -> None:
    with cluster.connect("postgres") as connection:
        for database in DATABASE_OWNERS:
            connection.execute(f"DROP DATABASE IF EXISTS {database}".encode())
        for role in ROLE_DATABASES:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


def run_roles_sql(cluster: Cluster, password: str) -> None:
    command = [cluster.binaries / "psql", "-X", "-q", "-h", cluster.home.socket, "-U", "postgres", "-d", "postgres"]
    for role in ROLE_DATABASES:
        command += ["-v", f"{role.removeprefix('luminescent_')}_password={password}-{role}"]
    done = subprocess.run([*command, "-f", ROLES_SQL], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


def test_the_script_for_external_servers_makes_what_the_embedded_server_gets(cluster: Cluster) -> None:
    run_roles_sql(cluster, "first")
    by_script = facts(cluster)
    drop_everything(cluster)
    passwords = {role: f"p-{role}" for role in ROLE_DATABASES}
    provision(cluster.connect, passwords)
    embedded = facts(cluster)
    assert embedded == by_script
    assert embedded["luminescent_control", "roles"], "the comparison compared nothing"

    run_roles_sql(cluster, "second")
    assert facts(cluster) == embedded, "the script is not safe to run again"
    with cluster.connect("postgres") as connection:
        stored = dict(connection.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())
    for role in ROLE_DATABASES:
        assert scram_matches(f"second-{role}", stored[role])
    provision(cluster.connect, passwords)
    assert facts(cluster) == embedded
    with cluster.connect("postgres") as connection:
        stored = dict(connection.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())
    for role, password in passwords.items():
        assert scram_matches(password, stored[role]), "a foreign password was not reset"


def test_no_role_has_a_right_beyond_logging_in(cluster: Cluster) -> None:
    provision(cluster.connect, {role: f"p-{role}" for role in ROLE_DATABASES})
    with cluster.connect("postgres") as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'luminescent%' AND rolcanlogin AND NOT"
            " (rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole OR rolreplication)"
        ).fetchall()
        assert {name for (name,) in rows} == set(ROLE_DATABASES)
        memberships = connection.execute(
            "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members"
            " WHERE member::regrole::text LIKE 'luminescent%' OR roleid::regrole::text LIKE 'luminescent%'"
        ).fetchall()
        assert memberships == [("luminescent_maintenance", "pg_checkpoint")]


def test_what_was_interrupted_is_completed(cluster: Cluster) -> None:
    passwords = {role: f"p-{role}" for role in ROLE_DATABASES}
    provision(cluster.connect, passwords)
    whole = facts(cluster)
    drop_everything(cluster)
    with cluster.connect("postgres") as connection:
        connection.execute("CREATE ROLE luminescent_owner")
        connection.execute("CREATE ROLE luminescent_app SUPERUSER")
        connection.execute("CREATE DATABASE luminescent_control OWNER luminescent_owner")
    provision(cluster.connect, passwords)
    assert facts(cluster) == whole


def test_what_is_there_already_costs_one_connection(cluster: Cluster) -> None:
    passwords = {role: f"p-{role}" for role in ROLE_DATABASES}
    provision(cluster.connect, passwords)
    connections: list[str] = []

    def connect(database: str) -> psycopg.Connection[tuple[object, ...]]:
        connections.append(database)
        return cluster.connect(database)

    provision(connect, passwords)
    assert connections == ["postgres"]


def test_a_failing_statement_leaves_no_mark_that_all_was_done(cluster: Cluster) -> None:
    passwords = {role: f"p-{role}" for role in ROLE_DATABASES}
    drop_everything(cluster)

    def connect(database: str) -> psycopg.Connection[tuple[object, ...]]:
        if database == "luminescent_data":
            raise psycopg.OperationalError("interrupted")
        return cluster.connect(database)

    with pytest.raises(psycopg.OperationalError):
        provision(connect, passwords)
    provision(cluster.connect, passwords)
    with cluster.connect("luminescent_data") as connection:
        assert connection.execute("SELECT extname FROM pg_extension WHERE extname = 'vector'").fetchone()


def test_the_verifier_proves_the_server_as_in_the_standards_example() -> None:
    """RFC 7677 §3: user "user", password "pencil"."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = scram_verifier("pencil", salt=salt)
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    stored_key, server_key = (base64.b64decode(part) for part in verifier.split("$")[2].split(":"))
    signature = base64.b64encode(hmac.digest(server_key, message, "sha256"))
    assert signature == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_signature = hmac.digest(stored_key, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, client_signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


@pytest.mark.parametrize("other", [None, "", "md5abc", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA"])
def test_a_verifier_of_another_password_does_not_match(other: str | None) -> None:
    assert scram_matches("pencil", scram_verifier("pencil"))
    assert not scram_matches("pencil", scram_verifier("Pencil"))
    assert not scram_matches("pencil", other)
