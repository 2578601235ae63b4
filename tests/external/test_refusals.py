"""What is wrong with an external server is said at the start, by name, and nothing is served before it is mended."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudSettings
from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.startup.installation import open_installation
from cloud.startup.servers import bring_up_to_date, found_revision, open_server
from cloud.storage.external import read_passwords
from cloud.storage.migrate import RevisionState
from tests.support.external import ExternalServer, password
from tests.support.tls import Authority


def opening(server: ExternalServer, **changed: object) -> LuminescentError:
    """The error with which an installation with these settings does not open."""
    settings: dict[str, Any] = server.settings(owner=False) | {"embedder": "hashing", "worker": "off"} | changed
    with pytest.raises(LuminescentError) as refused:
        open_server(CloudSettings(**settings))
    assert password("luminescent_app") not in str(refused.value)
    return refused.value


@contextmanager
def altered(server: ExternalServer, there: str, back: str, *, database: str = "postgres") -> Iterator[None]:
    """The server as `there` makes it, and after the block as `back` does."""
    with server.admin(database) as admin:
        admin.execute(there.encode())
        try:
            yield
        finally:
            admin.execute(back.encode())


def test_a_server_as_it_must_be_is_opened(server: ExternalServer) -> None:
    opened = open_server(CloudSettings(**server.settings(owner=False)))  # type: ignore[arg-type]
    assert opened.pid() is None
    assert found_revision(opened).state is RevisionState.CURRENT


# Passwords


def passwords(path: Path, **changed: str) -> Path:
    """A file of passwords that differ from the server's."""
    path.write_text(json.dumps({f"luminescent_{role}": text for role, text in changed.items()}))
    path.chmod(0o600)
    return path


def test_a_wrong_password_names_the_role_and_the_file(server: ExternalServer, tmp_path: Path) -> None:
    right = json.loads(server.passwords().read_text())
    wrong = {role.removeprefix("luminescent_"): text for role, text in right.items()} | {"worker": "s3cret"}
    error = opening(server, role_passwords_file=passwords(tmp_path / "wrong.json", **wrong))
    assert isinstance(error, ConfigurationError)
    assert "luminescent_worker" in str(error)
    assert "role_passwords_file" in str(error)
    assert "s3cret" not in str(error)


def test_a_missing_password_is_asked_for_by_name(server: ExternalServer) -> None:
    error = opening(server, role_passwords_file=None)
    assert "'luminescent_app'" in str(error)
    assert "put its password into role_passwords_file" in str(error)


def test_without_a_file_libpqs_own_passfile_serves(server: ExternalServer, tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    lines = [
        f"*:*:*:{role}:{text}".replace(": 1", "\\: 1")
        for role, text in json.loads(server.passwords().read_text()).items()
    ]
    passfile.write_text("\n".join(lines))
    passfile.chmod(0o600)
    urls = {
        name: server.url(f"luminescent_{database}", passfile=str(passfile))
        for name, database in (("control_url", "control"), ("data_url", "data"))
    }
    settings: dict[str, Any] = {**urls}
    open_server(CloudSettings(**settings)).close()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ('{"luminescent_app": 7}', "no JSON object"),
        ('{"luminescent_app": ""}', "no JSON object"),
        ('{"luminescent_ap": "s3cret"}', "names roles that there are not: luminescent_ap;"),
    ],
)
def test_a_file_of_something_else_is_refused_without_quoting_it(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "passwords.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=part) as refused:
        read_passwords(path)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_of_ours_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = passwords(tmp_path / "passwords.json", app="x")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_passwords(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_passwords(tmp_path / "none.json")


# Place


def test_a_host_that_does_not_answer_may_answer_later(server: ExternalServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = opening(server, control_url=f"postgresql://127.0.0.1:{port}/luminescent_control")
    assert isinstance(error, ProviderUnavailableError)
    assert f"luminescent_control on 127.0.0.1:{port}" in str(error)
    assert "refused" in str(error)


def test_a_host_without_a_name_is_named(server: ExternalServer) -> None:
    url = "postgresql://nowhere.invalid/luminescent_control?sslmode=verify-full"
    assert "nowhere.invalid" in str(opening(server, control_url=url))


@pytest.mark.parametrize(
    ("setting", "database", "part"),
    [
        ("control_url", "luminescent_nothing", "does not exist"),
        ("control_url", "luminescent_data", "permission denied"),
        ("data_url", "luminescent_control", "permission denied"),
    ],
)
def test_a_wrong_database_is_named(server: ExternalServer, setting: str, database: str, part: str) -> None:
    error = opening(server, **{setting: server.url(database)})
    assert isinstance(error, ConfigurationError)
    assert f"{database} on 127.0.0.1" in str(error)
    assert part in str(error)


# TLS


def test_a_server_of_another_authority_is_refused(server: ExternalServer, tmp_path: Path) -> None:
    other = Authority.make(tmp_path)
    error = opening(server, control_url=server.url("luminescent_control", sslrootcert=str(other.certificate)))
    assert isinstance(error, ConfigurationError)
    assert "certificate verify failed" in str(error)


def test_a_server_without_tls_is_refused_where_the_url_insists_on_it(server: ExternalServer) -> None:
    error = opening(server, control_url=server.plain_url("luminescent_control") + "?sslmode=require")
    assert isinstance(error, ConfigurationError)
    assert "does not support SSL" in str(error)


def test_parameters_of_tls_reach_libpq_for_both_planes(server: ExternalServer) -> None:
    """The door ends the encryption, so a password cannot be bound to it: only a client that was told to insists."""
    for setting in ("control_url", "data_url"):
        error = opening(server, **{setting: server.url(f"luminescent_{setting[:-4]}", channel_binding="require")})
        assert isinstance(error, ConfigurationError)
        assert "channel binding" in str(error)


# Databases and roles


def test_a_missing_extension_is_named_with_its_remedy(server: ExternalServer) -> None:
    with altered(server, "DROP EXTENSION vector CASCADE", "CREATE EXTENSION vector", database="luminescent_data"):
        error = opening(server)
    assert isinstance(error, ConfigurationError)
    assert "CREATE EXTENSION vector" in str(error)


def test_pixeltables_role_must_be_able_to_make_tables(server: ExternalServer) -> None:
    mine, theirs = (
        f"ALTER DATABASE luminescent_data OWNER TO {name}" for name in ("postgres", "luminescent_pixeltable")
    )
    with altered(server, f"{mine}; GRANT CONNECT ON DATABASE luminescent_data TO luminescent_pixeltable", theirs):
        assert "may not make tables" in str(opening(server))


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
@pytest.mark.parametrize("role", ["app", "worker", "keys", "maintenance", "pixeltable"])
def test_a_role_that_may_too_much_is_refused(
    server: ExternalServer, fresh_home: Path, role: str, attribute: str
) -> None:
    name = f"luminescent_{role}"
    settings: dict[str, Any] = server.settings(owner=False) | {"home": fresh_home, "worker": "off"}
    with (
        altered(server, f"ALTER ROLE {name} {attribute}", f"ALTER ROLE {name} NO{attribute}"),
        pytest.raises(ConfigurationError, match=name) as refused,
    ):
        open_installation(CloudSettings(**settings))
    assert "roles.sql" in str(refused.value)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_server_that_could_lose_what_it_acknowledged_is_refused(
    server: ExternalServer, fresh_home: Path, setting: str
) -> None:
    settings: dict[str, Any] = server.settings(owner=False) | {"home": fresh_home, "worker": "off"}
    with server.admin() as admin:
        admin.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        admin.execute(b"SELECT pg_reload_conf()")
        try:
            with pytest.raises(ConfigurationError, match=setting):
                open_installation(CloudSettings(**settings))
        finally:
            admin.execute(f"ALTER SYSTEM RESET {setting}".encode())
            admin.execute(b"SELECT pg_reload_conf()")


# Revision


@contextmanager
def at_revision(server: ExternalServer, revision: str | None) -> Iterator[None]:
    """The control plane says that it is at another revision."""
    with server.admin("luminescent_control") as admin:
        (real,) = admin.execute(b"SELECT version_num FROM alembic_version").fetchone()
        admin.execute(b"DELETE FROM alembic_version")
        if revision is not None:
            admin.execute(b"INSERT INTO alembic_version VALUES (%s)", [revision])
        try:
            yield
        finally:
            admin.execute(b"DELETE FROM alembic_version")
            admin.execute(b"INSERT INTO alembic_version VALUES (%s)", [real])


@pytest.mark.parametrize(
    ("revision", "part"),
    [("0001", "at revision 0001"), (None, "empty"), ("9999", "which this version does not know")],
)
def test_another_revision_is_refused_and_left_alone(server: ExternalServer, revision: str | None, part: str) -> None:
    settings = CloudSettings(**server.settings())  # type: ignore[arg-type]
    with at_revision(server, revision):
        opened = open_server(settings)
        with pytest.raises(ConfigurationError, match=part) as refused:
            bring_up_to_date(settings, opened)
        assert found_revision(opened).found == revision
    assert ("luminescent-cloud db upgrade" in str(refused.value)) == (revision != "9999")


def test_a_newer_revision_is_refused_also_where_the_start_may_migrate(server: ExternalServer) -> None:
    settings = CloudSettings(**server.settings(migrate_on_start="true"))  # type: ignore[arg-type]
    with at_revision(server, "9999"), pytest.raises(ConfigurationError, match="does not know"):
        bring_up_to_date(settings, open_server(settings))


# Settings


def test_one_url_without_the_other_is_refused(server: ExternalServer) -> None:
    with pytest.raises(ValueError, match="belong together"):
        CloudSettings(control_url=server.url("luminescent_control"))  # type: ignore[arg-type]


def test_no_text_of_the_settings_shows_a_url(server: ExternalServer) -> None:
    settings = CloudSettings(**server.settings())  # type: ignore[arg-type]
    assert "luminescent_control" not in repr(settings)
