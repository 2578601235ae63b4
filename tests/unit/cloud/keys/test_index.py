"""The index deletes securely, commits durably, and says which of its failures may pass."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloud.keys.index
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.keys.index import SqliteIndex, SubjectRow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


@pytest.fixture
def index(path: Path) -> Iterator[SqliteIndex]:
    index = SqliteIndex.create(path, {"capacity": 0})
    yield index
    index.close()


def test_the_settings_that_erasure_and_durability_rest_on_are_in_force(index: SqliteIndex) -> None:
    settings = {
        name: index._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "secure_delete", "synchronous", "temp_store")
    }
    assert settings == {"journal_mode": "persist", "secure_delete": 1, "synchronous": 2, "temp_store": 2}


def test_a_build_that_cannot_delete_securely_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteIndex.create(path, {}).close()

    class Forgetful(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return super().execute(sql.replace("secure_delete = ON", "secure_delete = OFF"), parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **named, factory=Forgetful))
    with pytest.raises(ConfigurationError, match="delete securely"):
        SqliteIndex(path)


def test_a_transaction_that_fails_leaves_nothing(index: SqliteIndex) -> None:
    def fail_within() -> None:
        with index.transaction():
            index.add_tenant("acme", 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert index.tenant_slot("acme") is None
    with index.transaction():
        index.add_tenant("acme", 1)
    assert index.tenant_slot("acme") == 1


def test_free_slots_are_given_out_once_and_lowest_first(index: SqliteIndex) -> None:
    with index.transaction():
        index.add_slots(1, 5)
        assert index.take_slots(2) == (1, 2)
        assert index.take_slots(2) == (3, 4)
        index.release_slots((2,))
        assert index.take_slots(9) == (2, 5)
        assert index.take_slots(1) == ()
    assert index.capacity() == 5


def test_spares_are_given_out_once_and_only_to_their_tenant(index: SqliteIndex) -> None:
    spares = [SubjectRow(f"s{number}", "acme", number) for number in range(3)]
    with index.transaction():
        index.add_spares(spares)
        assert index.take_spare("acme2") is None
        taken = [index.take_spare("acme") for _ in range(4)]
    assert sorted(spare.slot for spare in taken if spare is not None) == [0, 1, 2]
    assert taken[3] is None


def test_a_scrubbed_journal_is_all_zeros_and_the_index_intact(index: SqliteIndex, path: Path) -> None:
    with index.transaction():
        index.add_slots(1, 20_000)
    with index.transaction():
        index.take_slots(20_000)
    journal = path.with_name(path.name + "-journal")
    assert journal.read_bytes().strip(b"\0")
    index.scrub_journal()
    assert not journal.read_bytes().strip(b"\0")
    assert journal.stat().st_size <= 256 * 1024
    with index.transaction():
        index.add_tenant("acme", 1)
    again = SqliteIndex(path)
    assert again.tenant_slot("acme") == 1
    again.close()


def test_a_lock_that_does_not_end_is_unavailable(
    index: SqliteIndex, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.keys.index, "_BUSY_TIMEOUT_MS", 10)
    impatient = SqliteIndex(path)
    with index.transaction():
        with pytest.raises(ProviderUnavailableError), impatient.transaction():
            pass
        index._db.execute("PRAGMA user_version = 1")
    impatient.close()


def test_a_failing_disk_is_unavailable(index: SqliteIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(ProviderUnavailableError):
        index.scrub_journal()


def test_a_missing_table_is_damage(index: SqliteIndex) -> None:
    index._db.execute("DROP TABLE tenants")
    with pytest.raises(ConfigurationError, match="damaged"):
        index.tenant_slot("acme")


def test_a_closed_index_is_unavailable(index: SqliteIndex) -> None:
    index.close()
    with pytest.raises(ProviderUnavailableError):
        index.tenant_slot("acme")
