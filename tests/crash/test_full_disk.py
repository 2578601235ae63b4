"""The disk fills up: callers learn it as trouble that may pass, and nothing acknowledged is lost when it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud.tenancy.model import pooled_placement
from tests.crash.laws import assert_whole
from tests.crash.test_migration_killed import assert_read_with
from tests.crash.test_move_killed import assert_moved
from tests.support.disks import small_disk
from tests.support.homes import fill
from tests.support.processes import Installation
from tests.support.typed import run

pytestmark = pytest.mark.crash

MANY = 900
PURGED = 20
UNAVAILABLE = 6
"""How a command ends that may be repeated later."""


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


@contextmanager
def nearly_full(**settings: object) -> Iterator[tuple[Installation, Path]]:
    """An installation with a tenant of many memories on a small disk, and the file that will fill it."""
    with small_disk() as home:
        chosen = {"embedder": "hashing", "worker": "thread", "deadline_s": 4.0, "statement_s": 2.0, **settings}
        with Installation(home, chosen) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100_000)
            contents = [f"alice saw crane {number} turn " + "x" * 2_000 for number in range(MANY)]
            child.ask("store_many", tenant="acme", user="alice", contents=contents)
            child.ask("drain")
            yield installation, home / "ballast"


def refused(installation: Installation, ballast: Path, place: str, do: str, **arguments: object) -> None:
    """It fails on a disk that is full once it has come to `place`, with an error that says to try again."""
    installation.child().ask("arm", name=place, action="fill_disk")
    answer = installation.child().ask(do, **arguments)
    assert ballast.exists()
    assert (answer["error"], answer["retryable"]) == ("ProviderUnavailableError", True), answer
    ballast.unlink()


def test_a_move_that_finds_no_room_goes_on_when_there_is_some() -> None:
    with nearly_full() as (installation, ballast):
        refused(installation, ballast, "move.begun", "move", tenant="acme", to="own")
        child = installation.child()
        child.ask("store", tenant="acme", user="bob", contents=["after there was room again"])
        assert [state for _, _, state in installation.books().moves("acme")] == ["copying"]
        assert child.ask("move", tenant="acme", to="own")["state"] == "done"
        assert_moved(installation, "acme")


def test_a_change_of_models_that_finds_no_room_goes_on_when_there_is_some() -> None:
    with nearly_full() as (installation, ballast):
        placement = pooled_placement("acme")
        refused(installation, ballast, "embeddings.column_added", "migrate", placement=placement, model="wordllama")
        # What is read now is complete still, and what is written meanwhile is too.
        assert installation.books().placement("acme") == (placement, "hashing", "filling")
        installation.child().ask("store", tenant="acme", user="bob", contents=["after there was room again"])
        assert_read_with(installation, "acme", placement, "hashing")
        assert installation.child().ask("migrate", placement=placement, model="wordllama")["outcome"] == "switched"
        assert_read_with(installation, "acme", placement, "wordllama")
        assert_whole(installation, "acme", ("alice", "bob"))


def test_a_purge_that_finds_no_room_goes_on_when_there_is_some() -> None:
    with nearly_full(deleted_retention_days=0) as (installation, ballast):
        child, books = installation.child(), installation.books()
        (many,) = installation.journal.of("acme", "store_many")
        due, kept = many.answer[:PURGED], many.answer[PURGED:]
        child.ask("delete", tenant="acme", user="alice", ids=due)
        # It takes nothing but a place in the write-ahead log, and the next segment of that needs room.
        fill(ballast)
        child.ask("switch_wal")
        answer = child.ask("purge", tenant="acme")
        assert (answer["error"], answer["retryable"]) == ("ProviderUnavailableError", True), answer
        ballast.unlink()
        child.ask("store", tenant="acme", user="bob", contents=["after there was room again"])
        # Whatever is in Pixeltable is named by the ledger: no row is left that nothing would ever find.
        assert books.materialized("acme").keys() <= books.ledger("acme").keys()
        child.ask("purge", tenant="acme")
        child.ask("drain")
        last = installation.journal.of("acme", "store")[-1]
        assert books.ledger("acme") == dict.fromkeys([*kept, last.answer], "active")
        assert books.materialized("acme").keys() == books.ledger("acme").keys()
        events = [event for event in books.events("acme") if event["action"] == "memory.purge"]
        for reason in ("intent", None):
            named = [key for event in events if event["reason"] == reason for key in event["resource_ids"]]
            assert sorted(named) == sorted(due)


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


def erased(installation: Installation, subject_id: str) -> tuple[str, set[str]]:
    """State of an erasure, and the levels that it reached."""
    ((state, levels),) = installation.books().query(
        "SELECT state, levels FROM erasures WHERE subject_id = %s", [subject_id]
    )
    return state, {name for name, told in levels.items() if told["reached_at"] is not None}


def test_an_erasure_that_finds_no_room_is_frozen_and_ends_when_there_is_some() -> None:
    with nearly_full() as (installation, ballast):
        child = installation.child()
        child.ask("store", tenant="acme", user="bob", contents=["bob's fact"])
        child.ask("drain")
        subject_id = child.ask("subject", tenant="acme", user="alice")
        # What it needs is a place in the write-ahead log, and the next segment of that needs room.
        fill(ballast)
        child.ask("switch_wal")
        answer = child.ask("erase", tenant="acme", user="alice")
        assert (answer["error"], answer["retryable"]) == ("ProviderUnavailableError", True), answer
        ballast.unlink()
        answer = child.ask("erase", tenant="acme", user="alice")
        assert answer["state"] in ("verified", "certified"), answer
        assert erased(installation, subject_id)[1] >= {"logical", "cryptographic", "store", "file", "wal"}
        assert installation.books().rows_naming(subject_id).keys() == {"subjects", "erasures", "audit_events"}
        assert not child.ask("has_key", tenant="acme", subject=subject_id)
        assert len(child.ask("search", tenant="acme", user="bob")) == 1


@pytest.mark.parametrize("place", ["erase.frozen", "erase.key_destroyed", "erase.rows_deleted"])
def test_an_erasure_whose_disk_fills_up_in_the_middle_ends_when_there_is_room(place: str) -> None:
    with nearly_full() as (installation, ballast):
        child = installation.child()
        child.ask("store", tenant="acme", user="bob", contents=["bob's fact"])
        child.ask("drain")
        subject_id = child.ask("subject", tenant="acme", user="alice")
        child.ask("arm", name=place, action="fill_disk")
        answer = child.ask("erase", tenant="acme", user="alice")
        assert ballast.exists()
        # It may get by with the room that its files have; whatever it says then is so.
        if "error" in answer:
            assert (answer["error"], answer["retryable"]) == ("ProviderUnavailableError", True), answer
        assert child.ask("search", tenant="acme", user="alice") == []
        ballast.unlink()
        child.ask("disarm")
        child.ask("erase", tenant="acme", user="alice")
        child.ask("gdpr_upkeep")
        state, levels = erased(installation, subject_id)
        assert (state, levels) == ("certified", {"logical", "cryptographic", "store", "file", "wal", "backups"})
        assert installation.books().rows_naming(subject_id).keys() == {"subjects", "erasures", "audit_events"}
        assert len(child.ask("search", tenant="acme", user="bob")) == 1


def test_a_backup_that_finds_no_room_leaves_nothing_and_a_restore_serves_nothing_until_there_is_some(
    tmp_path: Path,
) -> None:
    with nearly_full() as (installation, ballast):
        home = installation.home
        with small_disk(1024) as directory:
            full = run("backup", directory / "backup", home=home)
            assert full.returncode == UNAVAILABLE, full.stderr
            assert "No space left" in full.stderr or "disk is full" in full.stderr
            assert list(directory.iterdir()) == []
        fill(ballast)
        full = run("backup", tmp_path / "backup", home=home)
        assert full.returncode in (1, UNAVAILABLE), full.stderr
        assert "No space left" in full.stderr or "disk is full" in full.stderr
        assert "Traceback" not in full.stderr
        assert list(tmp_path.iterdir()) == []
        ballast.unlink()
        assert json.loads(run("--json", "backup", "list", home=home).stdout)["backups"] == []
        assert run("backup", tmp_path / "backup", home=home).returncode == 0
        child = installation.child()
        child.ask("store", tenant="acme", user="alice", contents=["after there was room again"])
        child.say("quit")
        assert child.ended() == 0

        code = (
            "from pathlib import Path\nfrom cloud.kernel import failpoints\nfrom tests.support.homes import fill\n"
            f"failpoints.arm('data_restore.emptied', lambda: fill(Path({str(ballast)!r})))"
        )
        full = run("restore", tmp_path / "backup", home=home, code=code)
        assert full.returncode in (1, UNAVAILABLE), full.stdout + full.stderr
        assert "Traceback" not in full.stderr
        ballast.unlink()
        assert "a restore is under way" in run("tenants", "list", home=home).stderr
        assert run("restore", tmp_path / "backup", home=home).returncode == 0
        assert len(installation.child().ask("search", tenant="acme", user="alice")) > 0
        (many,) = installation.journal.of("acme", "store_many")
        assert installation.books().ledger("acme").keys() == set(many.answer)
