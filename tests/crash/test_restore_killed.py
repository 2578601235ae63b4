"""A backup and a restore, killed at each place: nothing is served that is half there, and doing it again ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud import CloudSettings, init_cloud_extensions
from cloud.backup.loading import Loader
from cloud.backup.manifest import read
from cloud.backup.marker import RestoreMarker
from cloud.kernel.errors import ConfigurationError
from cloud.startup.auditing import audit_key_file
from cloud.startup.backups import programs
from cloud.startup.keyring import find_root_keys
from cloud.storage.embedded import EmbeddedPostgres
from tests.support.homes import temporary_home
from tests.support.processes import Died, Installation
from tests.support.typed import Finished, document, run

pytestmark = pytest.mark.crash

SETTINGS = {"embedder": "hashing", "worker": "thread"}
KILLED = -9
TWO_DAYS_ON = (
    "import datetime\nfrom cloud.startup import backups\nnow = backups.system_clock\n"
    "backups.system_clock = lambda: now() + datetime.timedelta(days=2)\n"
)
EVERYTHING = {"bob": ["bob's fact", "bob's other fact"], "carol": ["carol's fact"]}


def killed_at(home: Path, place: str, *arguments: str | Path, first: str = "") -> Finished:
    """A command whose process is killed at a place."""
    code = (
        f"{first}import os, signal\nfrom cloud.kernel import failpoints\n"
        f"failpoints.arm({place!r}, lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    return run(*arguments, home=home, code=code)


def contents(home: Path, *users: str) -> dict[str, list[str]]:
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        return {user: sorted(one["content"] for one in child.ask("search", tenant="acme", user=user)) for user in users}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A home whose backup knows a person who was erased since."""
    backup = tmp_path_factory.mktemp("backups") / "backup"
    with temporary_home(prepared=True) as home:
        with Installation(home, SETTINGS) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100)
            child.ask("store", tenant="acme", user="alice", contents=["alice's fact"])
            for user, told in EVERYTHING.items():
                child.ask("store", tenant="acme", user=user, contents=told)
            child.ask("drain")
        assert run("backup", backup, home=home).returncode == 0
        with Installation(home, SETTINGS) as installation:
            assert installation.child().ask("erase", tenant="acme", user="alice")["state"] in ("verified", "certified")
        yield home, backup


@pytest.mark.parametrize(
    "place",
    [
        "data_restore.marked",
        "data_restore.emptied",
        "data_restore.loaded",
        "replay.erased",
        "data_restore.replayed",
        "data_restore.accepted",
        "data_restore.erased",
        "rewrite.files",
        "rewrite.wal",
    ],
)
def test_a_restore_that_was_killed_serves_nothing_until_it_is_done_again(stage: tuple[Path, Path], place: str) -> None:
    home, backup = stage
    assert killed_at(home, place, "restore", backup).returncode == KILLED
    with pytest.raises(ConfigurationError, match="a restore is under way"):
        init_cloud_extensions(CloudSettings(home=home))
    done = document(run("--json", "restore", backup, home=home))
    assert done["erased_again"] == 1
    assert contents(home, "alice", *EVERYTHING) == {"alice": [], **EVERYTHING}


@pytest.mark.parametrize(
    "place", ["data_backup.registered", "data_backup.snapshots", "data_backup.dumped", "data_backup.named"]
)
def test_a_backup_that_was_killed_is_whole_or_none_and_is_counted(
    stage: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    home, _ = stage
    assert killed_at(home, place, "backup", tmp_path / "backup").returncode == KILLED
    listed = document(run("--json", "backup", "list", home=home))["backups"]
    (mine,) = [one for one in listed if one["directory"] == str(tmp_path / "backup")]
    assert mine["complete"] is False
    assert (tmp_path / "backup").exists() is (place == "data_backup.named")
    if place == "data_backup.named":
        settings = CloudSettings(home=home)
        keys = audit_key_file(settings, find_root_keys(settings, create=False)).keys()
        assert read(tmp_path / "backup", keys).backup.backup_id == mine["backup_id"]


@pytest.mark.parametrize("place", ["data_backup.emptied"])
def test_an_expiry_that_was_killed_before_it_was_recorded_is_finished(
    stage: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    home, _ = stage
    made = document(run("--json", "backup", tmp_path / "backup", "--days", "1", home=home))
    killed = killed_at(home, place, "backup", "expire", first=TWO_DAYS_ON)
    assert killed.returncode == KILLED
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["manifest.note"]
    done = document(run("--json", "backup", "expire", home=home, code=TWO_DAYS_ON))
    assert [one["backup_id"] for one in done["deleted"]] == [made["backup_id"]]
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("place", ["ledger.appended"])
def test_an_erasure_that_was_killed_once_it_is_in_the_ledger_is_finished(stage: tuple[Path, Path], place: str) -> None:
    home, _ = stage
    with Installation(home, SETTINGS) as installation:
        child = installation.child()
        child.ask("store", tenant="acme", user="erin", contents=["erin's fact"])
        child.ask("arm", name=place, action="kill_self")
        with pytest.raises(Died):
            child.ask("erase", tenant="acme", user="erin")
    assert contents(home, "erin") == {"erin": []}


def test_databases_that_were_read_in_by_hand_are_followed_by_the_ledger_at_the_next_start(
    stage: tuple[Path, Path],
) -> None:
    home, backup = stage
    settings = CloudSettings(home=home)
    keys = audit_key_file(settings, find_root_keys(settings, create=False)).keys()
    with EmbeddedPostgres.open(home) as server:
        loader = Loader(server, programs(settings))
        loader.empty()
        loader.load(backup, read(backup, keys), None, lambda *_: None)
    assert RestoreMarker(home).phase() is None
    found = {one["check"]: one for one in document(run("--json", "doctor", home=home))["findings"]}
    assert found["ledger"]["level"] == "problem"
    assert "1 people" in found["ledger"]["what"]
    assert contents(home, "alice", *EVERYTHING) == {"alice": [], **EVERYTHING}
    found = {one["check"]: one for one in document(run("--json", "doctor", home=home))["findings"]}
    assert found["ledger"]["level"] == "ok"
