"""The keyring's commands as an operator types them: losing it, an older copy, its backup, its rotation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.homes import temporary_home
from tests.support.processes import Installation
from tests.support.typed import document, run

SETTINGS = {"embedder": "hashing", "worker": "thread"}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with temporary_home(prepared=True) as made:
        with Installation(made, SETTINGS) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100)
            for user in ("alice", "bob"):
                child.ask("store", tenant="acme", user=user, contents=[f"{user}'s fact"])
            child.ask("drain")
        yield made


def contents(home: Path, *users: str) -> dict[str, list[str]]:
    """What each person's memories say, read by a new process."""
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        return {user: sorted(one["content"] for one in child.ask("search", tenant="acme", user=user)) for user in users}


def keyring(home: Path, *arguments: str | Path) -> dict[str, Any]:
    """The document of a keyring command, which must succeed."""
    finished = run("--json", "keyring", *arguments, home=home)
    assert finished.returncode == 0, finished.stderr
    return document(finished)


def codes(home: Path) -> tuple[int, list[str]]:
    """Exit code and findings of `keyring status`."""
    finished = run("--json", "keyring", "status", "--check", home=home)
    return finished.returncode, [finding["code"] for finding in document(finished)["findings"]]


def test_the_life_of_a_keyring(home: Path, tmp_path: Path) -> None:
    assert codes(home) == (0, ["backup_missing"])

    # Rotation.
    assert keyring(home, "rotate", "--tenant", "acme")["unreadable"] == 0
    former = keyring(home, "rotate", "--root")["former_root_key_id"]
    assert keyring(home, "destroy-root-key", former, "--yes")["destroyed"] is True
    assert contents(home, "alice", "bob") == {"alice": ["alice's fact"], "bob": ["bob's fact"]}

    # A backup; then somebody comes and somebody is erased.
    backup = tmp_path / "keyring.backup"
    made = keyring(home, "backup", "--out", backup, "--days", "9")
    older = Path(shutil.copytree(home / "keyring", tmp_path / "older"))
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        assert child.ask("erase", tenant="acme", user="alice")["state"] in ("verified", "certified")
        child.ask("store", tenant="acme", user="carol", contents=["carol's fact"])
    assert [one["backup_id"] for one in keyring(home, "backups")["backups"]] == [made["backup_id"]]
    assert codes(home) == (0, [])

    # It is lost: no new one is made in its place, and the status says what to do.
    (home / "keyring").rename(tmp_path / "lost")
    refused = run("tenants", "list", home=home)
    assert refused.returncode == 1
    assert "keyring restore" in refused.stderr
    assert not (home / "keyring").exists()
    assert codes(home) == (1, ["keyring_unusable"])

    # A copy from earlier: refused, with who was erased destroyed in it; then a person is missing.
    shutil.copytree(older, home / "keyring")
    refused = run("tenants", "list", home=home)
    assert refused.returncode == 1
    assert "copy from earlier" in refused.stderr
    assert "1 people who had been erased" in refused.stderr
    assert codes(home)[1][0] == "keyring_older"
    shutil.rmtree(home / "keyring")

    # The right one is back.
    (tmp_path / "lost").rename(home / "keyring")
    assert codes(home) == (0, [])
    assert contents(home, "alice", "bob", "carol") == {
        "alice": [],
        "bob": ["bob's fact"],
        "carol": ["carol's fact"],
    }

    # Restoring: only on demand, and nobody comes back.
    refused = run("keyring", "restore", backup, home=home)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    done = keyring(home, "restore", backup, "--replace")
    assert done["reconciled"] == {
        "destroyed_again": 1,
        "tenants_destroyed_again": 0,
        "unreadable": 1,
        "tenants_without_key": 0,
    }
    assert contents(home, "alice", "bob")["bob"] == ["bob's fact"]
    assert contents(home, "alice", "bob")["alice"] == []
    assert codes(home) == (0, [])

    # What was replaced is older from now on.
    (home / "keyring").rename(tmp_path / "restored")
    shutil.copytree(older, home / "keyring")
    assert codes(home)[1][0] == "keyring_older"
    assert keyring(home, "accept", "--yes")["unreadable"] == 1
    assert codes(home) == (0, [])
    assert contents(home, "bob") == {"bob": ["bob's fact"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("rotate",),
        ("rotate", "--root", "--tenant", "acme"),
        ("rotate", "--tenant", "acme", "--new-root-key-file", "FILE"),
        ("backup",),
        ("restore",),
        ("restore", "no-such-file"),
        ("accept",),
        ("destroy-root-key", "x"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_not_clear_is_a_usage_error(home: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "FILE").touch()
    given = [tmp_path / one if one == "FILE" else one for one in arguments]
    assert run("keyring", *given, home=home).returncode == 2


def test_a_backup_that_was_tampered_with_is_refused(home: Path, tmp_path: Path) -> None:
    keyring(home, "backup", "--out", tmp_path / "backup")
    content = bytearray((tmp_path / "backup").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "backup").write_bytes(content)
    refused = run("keyring", "restore", tmp_path / "backup", "--replace", home=home)
    assert refused.returncode == 1
    assert "damaged" in refused.stderr
    assert codes(home)[0] == 0
