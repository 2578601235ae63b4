"""Backup, restore and drill as an operator types them: nobody comes back who was erased, and nobody else is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.typed import document, run
from tests.support.homes import temporary_home
from tests.support.processes import Installation

SETTINGS = {"embedder": "hashing", "worker": "thread"}


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home(prepared=True) as made:
        with Installation(made, SETTINGS) as installation:
            child = installation.child()
            for tenant in ("acme", "gone"):
                child.ask("tenant", tenant=tenant, limit=100)
            for user in ("alice", "bob", "carol"):
                told = [f"{user} likes {user}ish things", "all the same"]
                child.ask("store", tenant="acme", user=user, contents=told)
            child.ask("store", tenant="gone", user="dave", contents=["dave's fact"])
            child.ask("drain")
            # What waits in intake is in a backup too.
            child.ask("store", tenant="acme", user="bob", contents=["bob's last word"])
        yield made


def contents(home: Path, *users: str, tenant: str = "acme") -> dict[str, list[str]]:
    """What each person's memories say, read by a new process."""
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        return {user: sorted(one["content"] for one in child.ask("search", tenant=tenant, user=user)) for user in users}


def typed(home: Path, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """The document of a command, which must end so."""
    finished = run("--json", *arguments, home=home)
    assert finished.returncode == code, finished.stderr
    return document(finished)


def problems(home: Path) -> list[str]:
    """What `doctor` calls a problem."""
    found = document(run("--json", "doctor", home=home))["findings"]
    return [f"{one['check']}: {one['what']}" for one in found if one["level"] == "problem"]


def test_whoever_was_erased_since_is_not_back_and_others_are(home: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    made = typed(home, "backup", backup, "--days", "9")
    assert sorted(path.name for path in backup.iterdir()) == ["control.dump", "data.dump", "manifest.note"]
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} == {0o600}
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        assert child.ask("erase", tenant="acme", user="alice")["state"] == "verified"
        child.ask("store", tenant="acme", user="carol", contents=["younger than the backup"])
    assert run("tenants", "close", "gone", "--yes", home=home).returncode == 0

    done = typed(home, "restore", backup)

    assert (done["erased_again"], done["closed_again"]) == (1, 1)
    assert done["backup_id"] == made["backup_id"]
    assert contents(home, "alice", "bob", "carol") == {
        "alice": [],
        "bob": ["all the same", "bob likes bobish things", "bob's last word"],
        "carol": ["all the same", "carol likes carolish things"],
    }
    assert problems(home) == []
    assert [one["backup_id"] for one in typed(home, "backup", "list")["backups"]] == [made["backup_id"]]
    # Again, and the person came anew meanwhile: nothing of before is hers.
    with Installation(home, SETTINGS) as installation:
        installation.child().ask("store", tenant="acme", user="alice", contents=["a new beginning"])
    assert typed(home, "restore", backup)["erased_again"] == 1
    assert contents(home, "alice")["alice"] == []


def test_a_drill_says_what_would_be_lost_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    typed(home, "backup", backup)
    with Installation(home, SETTINGS) as installation:
        assert installation.child().ask("erase", tenant="acme", user="alice")["state"] == "verified"
        before = set(Path("/tmp").glob("luminescent-drill-*"))
        found = typed(home, "backup", "drill", backup)
        assert set(Path("/tmp").glob("luminescent-drill-*")) == before
    assert found["problems"] == []
    assert found["erased_again"] == 1
    assert found["opened"] >= 5
    assert found["rpo_s"] > 0
    assert 0 < found["rto_s"] < 120
    assert contents(home, "alice", "carol")["carol"] == ["all the same", "carol likes carolish things"]
    assert problems(home) == []
