"""The disk fills up: callers learn it as trouble that may pass, and nothing acknowledged is lost when it has."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.laws import assert_whole
from tests.e2e.typed import run
from tests.support.homes import kill_server
from tests.support.processes import Installation

pytestmark = pytest.mark.crash

SIZE_MB = 160


@contextmanager
def small_disk() -> Iterator[Path]:
    """A directory that is a file system of its own, as large as an empty installation and a little more."""
    directory = Path(tempfile.mkdtemp(prefix="lum-", dir="/tmp"))
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", directory],
            check=False,
            capture_output=True,
        ).returncode
    )
    try:
        if not mounted:
            pytest.skip("a file system of a given size needs the right to mount one")
        yield directory
    finally:
        if mounted:
            kill_server(directory)
            subprocess.run(["umount", directory], check=True)
        directory.rmdir()


def test_a_full_disk_is_reported_as_passing_trouble_and_loses_nothing() -> None:
    with small_disk() as home:
        settings = {"embedder": "hashing", "worker": "thread", "deadline_s": 4.0, "statement_s": 2.0}
        with Installation(home, settings) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100_000)
            child.ask("store", tenant="acme", user="alice", contents=["before it was full"])
            child.ask("drain")
            ballast = home / "ballast"
            fill(ballast)
            for number in range(40):
                child.ask("store", tenant="acme", user="alice", contents=[f"{number} " + "x" * 60_000] * 5, tasks=5)
                if any(operation.error for operation in installation.journal.of("acme")):
                    break
            errors = [operation.error for operation in installation.journal.of("acme") if operation.error]
            assert errors, "it was to become full"
            assert {(error["error"], error["retryable"]) for error in errors} == {("ProviderUnavailableError", True)}
            ballast.unlink()
            child.ask("store", tenant="acme", user="alice", contents=["after there was room again"])
            assert_whole(installation, "acme", ("alice",))
            assert child is installation.child()
            last = installation.journal.of("acme", "store")[-1]
            assert last.acknowledged


def test_commands_on_a_full_disk_say_so_and_work_again_with_room() -> None:
    with small_disk() as home:
        assert run("tenants", "create", "acme", home=home).returncode == 0
        ballast = home / "ballast"
        fill(ballast)
        looked, upgraded = run("doctor", home=home), run("db", "upgrade", home=home)
        for full in (looked, upgraded):
            assert full.returncode == 1, full.stdout + full.stderr
            assert "Traceback" not in full.stderr
            assert "unexpected" not in full.stderr
        assert "PROBLEM  disk: 0.0 GiB free" in looked.stdout
        assert "No space left" in upgraded.stderr
        ballast.unlink()
        for command in (("db", "upgrade"), ("doctor",), ("tenants", "create", "acme")):
            assert run(*command, home=home).returncode == 0


def fill(ballast: Path) -> None:
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            return
