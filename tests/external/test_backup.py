"""Erasure to the bytes, backup and restore on an external server: the same as on the embedded one, said where not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.storage.embedded import programs_directory
from tests.support.external import ExternalServer, external_server
from tests.support.homes import temporary_home
from tests.support.processes import Installation
from tests.support.typed import Finished, document, run

USERS = ("alice", "bob")
REACHED = {"logical", "cryptographic", "store", "file", "wal"}


def in_the_clear(server: ExternalServer) -> dict[str, str]:
    """Settings of the same server without TLS, which the bundled programs do not speak; over the loopback."""
    places = {f"{name}_url": server.plain_url(f"luminescent_{name}") for name in ("control", "data")}
    return server.settings(**places)


def typed(home: Path, settings: dict[str, str], *arguments: str | Path) -> Finished:
    """A command with these settings, run to its end."""
    given = {f"LUMINESCENT_CLOUD_{name.upper()}": text for name, text in settings.items()}
    return run("--json", *arguments, home=home, variables=given)


def done(home: Path, settings: dict[str, str], *arguments: str | Path) -> dict[str, Any]:
    """The document of a command, which must succeed."""
    finished = typed(home, settings, *arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return document(finished)


@contextmanager
def running(home: Path, settings: dict[str, str], **more: object) -> Iterator[Installation]:
    """An installation on the server, whose child is open."""
    with Installation(home, {"embedder": "hashing", "worker": "thread", **settings, **more}) as installation:
        installation.child()
        yield installation


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[ExternalServer, Path]]:
    """A server of its own, and a home with two people's memories on it."""
    with external_server() as server, temporary_home() as home:
        settings = in_the_clear(server)
        with server.admin() as admin:
            # As docs/erasure-levels.md asks of whoever wants the level of the log.
            admin.execute(b"ALTER SYSTEM SET wal_recycle = off")
            admin.execute(b"SELECT pg_reload_conf()")
        done(home, settings, "db", "upgrade")
        with running(home, settings) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100)
            for user in USERS:
                child.ask("store_many", tenant="acme", user=user, contents=[f"{user}'s fact {n}" for n in range(5)])
            child.ask("drain")
        yield server, home


def contents(home: Path, settings: dict[str, str]) -> dict[str, int]:
    """How many memories of each person are found."""
    with running(home, settings) as installation:
        child = installation.child()
        return {user: len(child.ask("search", tenant="acme", user=user)) for user in USERS}


def reached(server: ExternalServer) -> list[tuple[str, set[str]]]:
    """State of each erasure, and the levels that were reached."""
    with server.admin("luminescent_control") as admin:
        rows = admin.execute("SELECT state, levels FROM erasures").fetchall()
    return [
        (state, {name for name, told in levels.items() if told["reached_at"] is not None}) for state, levels in rows
    ]


def test_whoever_was_erased_since_is_not_back_and_the_bytes_are_gone(
    place: tuple[ExternalServer, Path], tmp_path: Path
) -> None:
    server, home = place
    settings, backup = in_the_clear(server), tmp_path / "backup"
    made = done(home, settings, "backup", backup)
    assert made["memories"] == 10
    with running(home, settings, rewrite_at_once=True) as installation:
        answer = installation.child().ask("erase", tenant="acme", user="alice")
        assert answer["state"] in ("verified", "certified")
    assert reached(server) == [("certified", REACHED)]
    files = relations(server)

    restored = done(home, settings, "restore", backup)
    assert (restored["backup_id"], restored["erased_again"]) == (made["backup_id"], 1)
    # Whatever the windows: before anything is served.
    assert reached(server) == [("certified", REACHED)]
    assert relations(server).keys() == files.keys()
    assert contents(home, settings) == {"alice": 0, "bob": 5}
    found = done(home, settings, "doctor")["findings"]
    assert [one for one in found if one["level"] == "problem"] == []
    assert [one["backup_id"] for one in done(home, settings, "backup", "list")["backups"]] == [made["backup_id"]]


def relations(server: ExternalServer) -> dict[str, int]:
    """Files of the control plane's tables."""
    with server.admin("luminescent_control") as admin:
        rows = admin.execute(
            "SELECT relname, pg_relation_filenode(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    return dict(rows)


def test_a_drill_beside_the_service_runs_on_a_server_of_its_own(
    place: tuple[ExternalServer, Path], tmp_path: Path
) -> None:
    server, home = place
    settings = in_the_clear(server)
    done(home, settings, "backup", tmp_path / "backup")
    before = contents(home, settings)
    with running(home, settings):
        found = done(home, settings, "backup", "drill", tmp_path / "backup")
    assert found["problems"] == []
    assert found["opened"] >= 5
    assert contents(home, settings) == before


def test_programs_that_cannot_speak_tls_or_are_too_old_name_the_setting(
    place: tuple[ExternalServer, Path], tmp_path: Path
) -> None:
    server, home = place
    refused = typed(home, server.settings(), "backup", tmp_path / "backup")
    assert refused.returncode == 1
    assert "postgres_programs_dir" in refused.stderr
    assert "TLS" in refused.stderr
    elsewhere = server.settings(postgres_programs_dir=str(tmp_path / "none"))
    missing = typed(home, elsewhere, "backup", tmp_path / "backup")
    assert missing.returncode == 1
    assert "postgres_programs_dir" in missing.stderr
    assert list(tmp_path.iterdir()) == []
    # Nothing is counted that never was.
    listed = done(home, in_the_clear(server), "backup", "list")["backups"]
    assert str(tmp_path / "backup") not in [one["directory"] for one in listed]


def test_programs_of_the_setting_are_used(place: tuple[ExternalServer, Path], tmp_path: Path) -> None:
    """Wrappers stand for programs with TLS: they reach the same server past its door."""
    server, home = place
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore"):
        wrapper = programs / name
        wrapper.write_text(
            "#!/bin/sh\nfor one do shift\n"
            f'set -- "$@" "$(printf %s "$one" | sed -E "s/port=\'?{server.tls_port}\'?/port={server.port}/;'
            "s/sslmode='?verify-full'?/sslmode=disable/;s/sslrootcert=[^ ]*//\")\"\ndone\n"
            f'exec "{programs_directory() / name}" "$@"\n'
        )
        wrapper.chmod(0o755)
    settings = server.settings(postgres_programs_dir=str(programs))
    before = contents(home, settings)
    made = done(home, settings, "backup", tmp_path / "backup")
    assert done(home, settings, "restore", tmp_path / "backup")["backup_id"] == made["backup_id"]
    assert contents(home, settings) == before


def test_a_restore_is_refused_while_somebody_is_connected_from_anywhere(
    place: tuple[ExternalServer, Path], tmp_path: Path
) -> None:
    server, home = place
    settings = in_the_clear(server)
    done(home, settings, "backup", tmp_path / "backup")
    with running(home, settings):
        refused = typed(home, settings, "restore", tmp_path / "backup")
    assert refused.returncode == 1
    assert "stop the service" in refused.stderr
    assert contents(home, settings)["bob"] == 5
