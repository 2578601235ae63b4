"""Backup, restore and drill as an operator types them: nobody comes back who was erased, and nobody else is missing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.keys.rootkey import LocalRootKey
from cloud.storage.embedded import EmbeddedPostgres
from tests.support.homes import temporary_home
from tests.support.processes import Installation
from tests.support.typed import document, run

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
        assert child.ask("erase", tenant="acme", user="alice")["state"] in ("verified", "certified")
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
        assert installation.child().ask("erase", tenant="acme", user="alice")["state"] in ("verified", "certified")
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


def test_a_backup_beside_writes_has_every_one_of_before_and_each_once(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with temporary_home(prepared=True) as home:
        with Installation(home, SETTINGS) as installation:
            child, books = installation.child(), installation.books()
            child.ask("tenant", tenant="acme", limit=100_000)
            child.say("store", tenant="acme", user="alice", contents=[f"fact {n}" for n in range(20_000)], tasks=4)

            def acknowledged() -> set[str]:
                return {one.answer for one in list(installation.journal.of("acme", "store")) if one.acknowledged}

            while len(acknowledged()) < 200:
                time.sleep(0.05)
            before = acknowledged()
            made = typed(home, "backup", backup)
            went_on = len(acknowledged()) - len(before)
            child.kill()
        assert went_on > 0, "nothing was written meanwhile"
        typed(home, "restore", backup)
        with EmbeddedPostgres.open(home):
            ledger, intake, moved = set(books.ledger("acme")), books.waiting("acme"), books.materialized("acme")
        assert before <= ledger
        assert made["memories"] == len(ledger)
        assert len(intake) == len(set(intake))
        assert set(intake) | moved.keys() == ledger
        assert set(intake) & moved.keys() == set()
        assert len(contents(home, "alice")["alice"]) > 0


def test_a_restore_is_refused_while_the_service_runs_and_without_what_it_needs(home: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    typed(home, "backup", backup)
    with Installation(home, SETTINGS) as installation:
        installation.child()
        refused = run("restore", backup, home=home)
        assert refused.returncode == 1
        assert "stop the service first" in refused.stderr
        installation.child().ask("store", tenant="acme", user="bob", contents=["it goes on"])
    for missing, advice in (
        ("keyring", "keyring restore"),
        ("erasure-ledger", "--without-ledger"),
        ("secrets/audit-keys.json", "audit keys are missing"),
    ):
        (home / missing).rename(home / "locks" / "aside")
        refused = run("restore", backup, home=home)
        assert refused.returncode == 1
        assert advice in refused.stderr
        if (home / missing).is_dir():
            (home / missing).rmdir()
        (home / "locks" / "aside").rename(home / missing)
    assert "it goes on" in contents(home, "bob")["bob"]


def test_a_new_home_is_filled_from_a_sealed_backup_and_what_is_kept_beside_it(home: Path, tmp_path: Path) -> None:
    key = tmp_path / "backup.key"
    key.write_bytes(LocalRootKey.generate().text())
    key.chmod(0o600)
    typed(home, "backup", tmp_path / "backup", "--key-file", key)
    typed(home, "keyring", "backup", "--out", tmp_path / "keyring.backup")
    with Installation(home, SETTINGS) as installation:
        assert installation.child().ask("erase", tenant="acme", user="alice")["state"] in ("verified", "certified")
    with temporary_home(prepared=True) as new:
        for name in ("root.key", "audit-keys.json"):
            shutil.copy2(home / "secrets" / name, new / "secrets" / name)
        for name in ("audit-heads", "erasure-ledger"):
            shutil.copytree(home / name, new / name)
        typed(new, "keyring", "restore", tmp_path / "keyring.backup")
        done = typed(new, "restore", tmp_path / "backup", "--key-file", key)
        assert done["erased_again"] == 1
        assert contents(new, "alice", "carol") == {
            "alice": [],
            "carol": ["all the same", "carol likes carolish things"],
        }
        assert problems(new) == []
