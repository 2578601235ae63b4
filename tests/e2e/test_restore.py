"""A restore of a backup from before, as an operator types it: to the bytes, and with what is lost or old by then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.storage.embedded import EmbeddedPostgres
from tests.e2e.test_backup import SETTINGS, contents, problems, typed
from tests.support.books import Books
from tests.support.homes import temporary_home
from tests.support.processes import Died, Installation
from tests.support.typed import document, run

TO_THE_BYTES = {"logical", "cryptographic", "store", "file", "wal"}
LONG_AGO = (
    "import cloud.startup.backups as backups\nfrom datetime import timedelta\n"
    "now = backups.system_clock\nbackups.system_clock = lambda: now() - timedelta(days=5)"
)


@pytest.fixture
def acme() -> Iterator[Path]:
    """A home with two people's memories, all of them in Pixeltable."""
    with temporary_home(prepared=True) as made:
        with Installation(made, SETTINGS) as installation:
            child = installation.child()
            child.ask("tenant", tenant="acme", limit=100)
            for user in ("alice", "bob"):
                told = [f"{user} keeps a heron of the colour {user}ine under the stairs, number {n}" for n in range(30)]
                child.ask("store_many", tenant="acme", user=user, contents=told)
            child.ask("drain")
        yield made


def erase(home: Path, user: str) -> None:
    with Installation(home, SETTINGS) as installation:
        answer = installation.child().ask("erase", tenant="acme", user=user)
        assert answer["state"] in ("verified", "certified")


def erasures(home: Path) -> list[tuple[str, set[str]]]:
    """State of each erasure, and which of its levels were reached, before any other process looks after them."""
    with EmbeddedPostgres.open(home):
        rows = Books(home).query("SELECT state, levels FROM erasures")
    return [(state, {level for level, told in levels.items() if told["reached_at"]}) for state, levels in rows]


def events(home: Path, action: str) -> list[tuple[str, str | None, dict[str, object]]]:
    """Outcome, reason and details of the system's events of an action, oldest first."""
    with EmbeddedPostgres.open(home):
        found = [event for event in Books(home).events("_system") if event["action"] == action]
    return [(event["outcome"], event["reason"], event["details"]) for event in found]


def test_nothing_of_an_erased_person_is_in_any_file_after_a_restore_of_what_knew_her(
    acme: Path, tmp_path: Path
) -> None:
    key, taken, backup = tmp_path / "admin.key", tmp_path / "fingerprints", tmp_path / "backup"
    typed(acme, "api-keys", "create", "--tenant", "acme", "--role", "tenant_admin", "--out", key)
    typed(acme, "gdpr", "scan", "take", "--user", "alice", "--out", taken, "--api-key-file", key)
    before = typed(acme, "gdpr", "scan", "search", taken, code=1)
    assert {one["where"] for one in before["findings"]} >= {"heap", "wal", "keyring"}
    typed(acme, "backup", backup)
    erase(acme, "alice")

    assert typed(acme, "restore", backup)["erased_again"] == 1

    # The backup that knows her is kept still.
    assert erasures(acme) == [("certified", TO_THE_BYTES)]
    after = typed(acme, "gdpr", "scan", "search", taken)
    assert [one for one in after["findings"] if not one["kept"]] == []
    assert after["unreachable"] == []
    assert len(contents(acme, "alice", "bob")["bob"]) == 30
    assert problems(acme) == []


@pytest.mark.parametrize("place", ["erase.frozen", "erase.ledger_deleted"])
def test_an_erasure_that_a_backup_caught_in_the_middle_is_finished_by_its_restore(
    acme: Path, tmp_path: Path, place: str
) -> None:
    with Installation(acme, SETTINGS) as installation:
        child = installation.child()
        child.ask("arm", name=place, action="kill_self")
        with pytest.raises(Died):
            child.ask("erase", tenant="acme", user="alice")
    typed(acme, "backup", tmp_path / "backup")
    # The next start finishes it, and then the databases are as they were in its middle.
    assert contents(acme, "alice") == {"alice": []}
    assert typed(acme, "restore", tmp_path / "backup")["erased_again"] == 0
    assert erasures(acme) == [("certified", TO_THE_BYTES)]
    found = contents(acme, "alice", "bob")
    assert (found["alice"], len(found["bob"])) == ([], 30)


def test_an_expired_backup_is_restored_when_asked_for_and_a_refusal_is_recorded(acme: Path, tmp_path: Path) -> None:
    made = run("--json", "backup", tmp_path / "backup", "--days", "2", home=acme, code=LONG_AGO)
    assert made.returncode == 0, made.stderr
    (listed,) = typed(acme, "backup", "list")["backups"]
    assert (listed["backup_id"], listed["expired"]) == (document(made)["backup_id"], True)
    refused = run("restore", tmp_path / "backup", home=acme)
    assert refused.returncode == 1
    assert "--expired" in refused.stderr
    assert events(acme, "backup.restore") == [("failed", "configuration", {})]
    refused = run("backup", "drill", tmp_path / "backup", home=acme)
    assert refused.returncode == 1
    assert [outcome for outcome, *_ in events(acme, "backup.drill")] == ["failed"]

    done = typed(acme, "restore", tmp_path / "backup", "--expired")
    assert done["backup_id"] == listed["backup_id"]
    ((outcome, _, details),) = events(acme, "backup.restore")
    assert (outcome, details) == ("allowed", {"backup_id": listed["backup_id"]})
    # It is overdue still, and known to be; now it is deleted.
    assert [one["backup_id"] for one in typed(acme, "backup", "expire")["deleted"]] == [listed["backup_id"]]
    assert not (tmp_path / "backup").exists()
    assert typed(acme, "backup", "list")["backups"] == []
    assert typed(acme, "backup", "expire")["deleted"] == []


def test_without_the_ledger_a_restore_has_to_be_asked_for_and_nobody_without_a_key_can_be_read(
    acme: Path, tmp_path: Path
) -> None:
    typed(acme, "backup", tmp_path / "backup")
    erase(acme, "alice")
    (acme / "erasure-ledger").rename(tmp_path / "lost")
    refused = run("restore", tmp_path / "backup", home=acme)
    assert refused.returncode == 1
    assert "--without-ledger" in refused.stderr
    assert typed(acme, "restore", tmp_path / "backup", "--without-ledger")["erased_again"] == 0
    found = contents(acme, "alice", "bob")
    assert (found["alice"], len(found["bob"])) == ([], 30)
    # A new ledger has begun: whoever is erased from now on stays so.
    erase(acme, "bob")
    assert typed(acme, "restore", tmp_path / "backup")["erased_again"] == 1
    assert contents(acme, "alice", "bob") == {"alice": [], "bob": []}
    # And with a ledger there, the option makes nobody come back.
    assert typed(acme, "restore", tmp_path / "backup", "--without-ledger")["erased_again"] == 1


def test_databases_that_are_newer_than_the_keyring_are_served_only_once_that_is_accepted(
    acme: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(acme / "keyring", tmp_path / "older")
    with Installation(acme, SETTINGS) as installation:
        installation.child().ask("store", tenant="acme", user="carol", contents=["carol came later"])
        installation.child().ask("drain")
    erase(acme, "alice")
    typed(acme, "backup", tmp_path / "backup")
    shutil.rmtree(acme / "keyring")
    shutil.copytree(older, acme / "keyring")

    refused = run("restore", tmp_path / "backup", home=acme)
    assert refused.returncode == 1
    assert "keyring accept" in refused.stderr
    # Nothing is served meanwhile.
    assert "a restore is under way" in run("tenants", "list", home=acme).stderr
    assert typed(acme, "keyring", "accept", "--yes")
    typed(acme, "restore", tmp_path / "backup")
    found = contents(acme, "alice", "bob", "carol")
    assert (found["alice"], len(found["bob"]), found["carol"]) == ([], 30, [])
    assert [state for state, _ in erasures(acme)] == ["certified"]
