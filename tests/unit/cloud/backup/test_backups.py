"""Backups of the run's installation: signed, counted before they exist, refused with any byte changed, expired."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.audit.model import Category
from cloud.backup import manifest as manifests
from cloud.backup import package
from cloud.backup.model import Manifest
from cloud.backup.package import part_of
from cloud.backup.service import DataBackups
from cloud.gdpr.ledger import Entry, LedgerPlace
from cloud.gdpr.levels import Level
from cloud.kernel import failpoints
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.keys.rootkey import LocalRootKey
from cloud.startup.restoring import Request, _verified
from src.testing.samples import sample_memory

KEY = LocalRootKey.generate()


def at(runtime: CloudRuntime, clock: Callable[[], datetime]) -> DataBackups:
    """The same backups at another time."""
    mine = runtime.backups
    return DataBackups(mine._sources, mine._store, mine._operators, mine._audit, clock, days=30, rebuild=mine._rebuild)


def verified(runtime: CloudRuntime, directory: Path, key: LocalRootKey | None = None, **more: bool) -> Manifest:
    """The manifest, as a restore looks at it before it changes anything."""
    return _verified(runtime._installation.settings, Request(directory, key, **more), lambda *_: None)


def entries(runtime: CloudRuntime, made: Manifest) -> list[Entry]:
    """What the erasure ledger says of a backup."""
    records = [record for _, record in runtime._installation.ledger.since(LedgerPlace())]
    return [record.entry for record in records if record.reference == made.backup.backup_id]


@pytest.fixture
async def made(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> Manifest:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        await runtime.drain()
        await runtime.memory.store(sample_memory("alice", content="the phrase in question"), {})
    return runtime.backups.create(tmp_path / "backup", days=3)


async def test_a_backup_holds_both_planes_and_no_key_and_no_content(
    runtime: CloudRuntime, made: Manifest, home: Path
) -> None:
    found = verified(runtime, made.backup.location)
    assert dataclasses.replace(found.backup, location=made.backup.location) == made.backup
    assert found.contents == made.contents
    waiting = runtime._installation.engines.worker.rows(sa.text("SELECT count(*) FROM intake"))[0][0]
    assert made.contents.rows >= 2
    assert made.contents.counts["intake"] + made.contents.rows >= made.contents.counts["memories"] - waiting
    content = b"".join(path.read_bytes() for path in made.backup.location.iterdir())
    for secret in ("root.key", "audit-keys.json"):
        assert (home / "secrets" / secret).read_bytes().strip() not in content
    assert b"the phrase in question" not in content


async def test_a_sealed_backup_opens_with_its_key_alone(runtime: CloudRuntime, tmp_path: Path) -> None:
    made = runtime.backups.create(tmp_path / "sealed", key=KEY)
    assert sorted(made.files) == ["control.dump.sealed", "data.dump.sealed"]
    assert b"PGDMP" not in (tmp_path / "sealed" / "control.dump.sealed").read_bytes()
    assert verified(runtime, tmp_path / "sealed", KEY).contents.sealed_with == KEY.key_id
    with pytest.raises(ConfigurationError, match="--key-file"):
        verified(runtime, tmp_path / "sealed")
    with pytest.raises(ConfigurationError, match=KEY.key_id):
        verified(runtime, tmp_path / "sealed", LocalRootKey.generate())


async def test_a_backup_with_any_byte_changed_is_refused(runtime: CloudRuntime, made: Manifest, tmp_path: Path) -> None:
    for path in sorted(made.backup.location.iterdir()):
        whole = path.read_bytes()
        places = range(len(whole)) if len(whole) < 10_000 else range(0, len(whole), len(whole) // 40)
        for place in (*places, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ConfigurationError):
                verified(runtime, made.backup.location)
        path.write_bytes(whole[:-1])
        with pytest.raises(ConfigurationError):
            verified(runtime, made.backup.location)
        path.unlink()
        with pytest.raises(ConfigurationError):
            verified(runtime, made.backup.location)
        path.write_bytes(whole)
    assert verified(runtime, made.backup.location).backup.backup_id == made.backup.backup_id


async def test_a_backup_that_expired_is_refused_unless_asked_for(runtime: CloudRuntime, tmp_path: Path) -> None:
    past = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5))
    past.create(tmp_path / "old", days=2)
    with pytest.raises(ConfigurationError, match="expired"):
        verified(runtime, tmp_path / "old")
    assert verified(runtime, tmp_path / "old", expired=True)


async def test_a_backup_that_was_made_with_a_clock_ahead_may_hold_anybody(
    runtime: CloudRuntime, tmp_path: Path
) -> None:
    erased_at = datetime.now(UTC)
    at(runtime, lambda: erased_at + timedelta(days=6)).expire_due()
    before = int(runtime.backups.level(erased_at).evidence["data_backups"])
    made = at(runtime, lambda: erased_at + timedelta(days=3)).create(tmp_path / "ahead", days=2)
    level = runtime.backups.level(erased_at)
    assert level.evidence["data_backups"] == before + 1
    assert level.due_at is not None
    assert level.due_at >= made.backup.expires_at
    at(runtime, lambda: erased_at + timedelta(days=6)).expire_due()
    assert runtime.backups.level(erased_at).evidence["data_backups"] == before


async def test_a_backup_is_counted_before_its_first_byte_and_until_its_files_are_gone(
    runtime: CloudRuntime, tmp_path: Path
) -> None:
    backups, erased_at = runtime.backups, datetime.now(UTC) + timedelta(seconds=60)
    seen: list[int] = []
    before = int(backups.level(erased_at).evidence["data_backups"])

    def look() -> None:
        assert not (tmp_path / "backup").exists()
        seen.append(int(backups.level(erased_at).evidence["data_backups"]))

    failpoints.arm("data_backup.registered", look)
    try:
        made = backups.create(tmp_path / "backup", days=2)
    finally:
        failpoints.disarm_all()
    assert seen == [before + 1]
    level = backups.level(erased_at)
    assert level.level is Level.BACKUPS
    assert level.reached_at is None
    assert level.due_at is not None
    assert level.due_at >= made.backup.expires_at
    # What was erased before it was made is not in it.
    assert int(backups.level(made.backup.made_at - timedelta(seconds=1)).evidence["data_backups"]) <= before

    later = at(runtime, lambda: datetime.now(UTC) + timedelta(days=2, hours=1))
    assert later.level(erased_at).evidence["expired_and_not_deleted"] >= 1  # type: ignore[operator]
    later.expire_due()
    assert not (tmp_path / "backup").exists()
    assert made.backup.backup_id not in {one.backup_id for one in backups.list()}
    assert entries(runtime, made) == [Entry.BACKUP, Entry.BACKUP_GONE]


async def test_one_whose_name_may_be_on_the_disk_counts_until_it_has_expired(
    runtime: CloudRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unflushed(_directory: Path) -> None:
        raise OSError(5, "Input/output error")

    erased_at = datetime.now(UTC) + timedelta(seconds=60)
    before = int(runtime.backups.level(erased_at).evidence["data_backups"])
    monkeypatch.setattr(package, "sync_directory", unflushed)
    with pytest.raises(ProviderUnavailableError, match="Input/output error"):
        runtime.backups.create(tmp_path / "backup", days=2)
    assert list(tmp_path.iterdir()) == []
    assert runtime.backups.level(erased_at).evidence["data_backups"] == before + 1
    later = at(runtime, lambda: datetime.now(UTC) + timedelta(days=2, hours=1))
    assert tmp_path / "backup" in {one.location for one in later.expire().out_of_reach}


async def test_only_the_files_of_an_expired_backup_are_deleted(runtime: CloudRuntime, tmp_path: Path) -> None:
    past = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5))
    for name in ("kept", "moved/there"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        past.create(tmp_path / name, days=2)
    (tmp_path / "kept" / "notes.txt").write_text("of somebody else")
    shutil.move(tmp_path / "moved", tmp_path / "elsewhere")
    done = runtime.backups.expire()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    assert tmp_path / "moved/there" in {one.location for one in done.out_of_reach}
    shutil.move(tmp_path / "elsewhere", tmp_path / "moved")
    assert tmp_path / "moved/there" in {one.location for one in runtime.backups.expire().deleted}


async def test_a_backup_whose_manifest_does_not_hold_is_out_of_reach_and_others_expire(
    runtime: CloudRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    past = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5))
    made = [past.create(tmp_path / name, days=2) for name in ("damaged", "whole")]
    manifest = tmp_path / "damaged" / manifests.MANIFEST
    signed = manifest.read_bytes()
    manifest.write_bytes(signed[:-9])
    with caplog.at_level(logging.ERROR):
        runtime.backups.expire_due()
    assert not (tmp_path / "whole").exists()
    assert len(list((tmp_path / "damaged").iterdir())) == 3
    listed = {one.backup_id for one in runtime.backups.list()}
    assert [one.backup.backup_id in listed for one in made] == [True, False]
    assert f"backup {made[0].backup.backup_id} has expired and is not deleted" in caplog.text
    assert "not signed by this installation" in caplog.text
    assert made[0].backup.backup_id in {one.backup_id for one in runtime.backups.expire().out_of_reach}
    manifest.write_bytes(signed)
    assert made[0].backup.backup_id in {one.backup_id for one in runtime.backups.expire().deleted}


async def test_a_backup_that_is_not_to_be_found_is_not_taken_for_deleted(
    runtime: CloudRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is not mounted: the directory above it is there, and empty."""
    made = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5)).create(tmp_path / "disk", days=2)
    shutil.move(tmp_path / "disk", tmp_path / "unmounted")
    with caplog.at_level(logging.WARNING):
        runtime.backups.expire_due()
    assert f"backup {made.backup.backup_id} has expired and is not to be found" in caplog.text
    assert entries(runtime, made) == [Entry.BACKUP]
    assert runtime.backups.level(datetime.now(UTC)).reached_at is None
    # Nor where another one was put in its place, or its files lost their manifest.
    another = runtime.backups.create(tmp_path / "disk")
    assert made.backup in runtime.backups.expire().out_of_reach
    (tmp_path / "disk" / manifests.MANIFEST).unlink()
    assert made.backup in runtime.backups.expire([made.backup.backup_id]).out_of_reach
    assert (tmp_path / "disk" / "data.dump").stat().st_size == another.files["data.dump"][0]

    shutil.rmtree(tmp_path / "disk")
    shutil.move(tmp_path / "unmounted", tmp_path / "disk")
    runtime.backups.expire_due()
    assert not (tmp_path / "disk").exists()
    assert entries(runtime, made) == [Entry.BACKUP, Entry.BACKUP_GONE]


async def test_an_operator_says_that_a_backup_was_deleted_by_hand(runtime: CloudRuntime, tmp_path: Path) -> None:
    past = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5))
    expired, kept = past.create(tmp_path / "expired", days=2), past.create(tmp_path / "kept", days=9)
    shutil.rmtree(tmp_path / "expired")
    shutil.rmtree(tmp_path / "kept")
    for unknown in (kept.backup.backup_id, "0" * 16):
        with pytest.raises(ConfigurationError, match="expired"):
            runtime.backups.expire([expired.backup.backup_id, unknown])
    assert entries(runtime, expired) == [Entry.BACKUP]
    done = runtime.backups.expire([expired.backup.backup_id])
    assert expired.backup.backup_id in {one.backup_id for one in done.deleted}
    assert entries(runtime, expired) == [Entry.BACKUP, Entry.BACKUP_GONE]
    rows = runtime._installation.engines.maintenance.rows(
        sa.text("SELECT 1 FROM audit_events WHERE log_id = :log AND event->'details'->'deleted_by_hand' ? :id"),
        {"log": SYSTEM_LOG, "id": expired.backup.backup_id},
    )
    assert len(rows) == 1


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_expiry_that_was_cut_off_before_it_was_recorded_is_finished(
    runtime: CloudRuntime, tmp_path: Path, is_whole: bool
) -> None:
    directory = tmp_path / "backup"
    made = at(runtime, lambda: datetime.now(UTC) - timedelta(days=5)).create(directory, days=2)
    if not is_whole:
        # As a process leaves it that was killed in it.
        directory.rename(part_of(directory, made.backup.backup_id))

    def cut_off() -> None:
        raise KeyboardInterrupt

    failpoints.arm("data_backup.emptied", cut_off)
    try:
        with pytest.raises(KeyboardInterrupt):
            runtime.backups.expire_due()
    finally:
        failpoints.disarm_all()
    assert not list(tmp_path.rglob("*.dump"))
    assert entries(runtime, made) == [Entry.BACKUP]
    runtime.backups.expire_due()
    assert entries(runtime, made) == [Entry.BACKUP, Entry.BACKUP_GONE]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["data_backup.snapshots", "data_backup.dumped"])
async def test_a_backup_that_fails_leaves_nothing(runtime: CloudRuntime, tmp_path: Path, place: str) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    failpoints.arm(place, fail)
    try:
        with pytest.raises(ProviderUnavailableError, match="No space left"):
            runtime.backups.create(tmp_path / "backup")
    finally:
        failpoints.disarm_all()
    assert list(tmp_path.iterdir()) == []
    # And it holds nothing up: no snapshot, no lock.
    assert runtime.backups.create(tmp_path / "backup").size_bytes > 0


async def test_a_directory_that_is_in_use_is_refused(runtime: CloudRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path, tmp_path / "file", tmp_path / "none" / "backup"):
        with pytest.raises(ConfigurationError):
            runtime.backups.create(directory)
    for days in (0, 3651):
        with pytest.raises(ConfigurationError, match="days"):
            runtime.backups.create(tmp_path / "backup", days=days)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_table_that_hides_rows_from_the_backup_is_noticed(runtime: CloudRuntime, tmp_path: Path) -> None:
    url = runtime._installation.server.url("luminescent_owner", "luminescent_control")
    with psycopg.connect(
        host=str(url.query["host"]), user=url.username, password=str(url.password), dbname=url.database, autocommit=True
    ) as owner:
        owner.execute("ALTER POLICY backup ON erasures USING (state = 'verified')")
        try:
            with pytest.raises(ConfigurationError, match="hides rows of erasures"):
                runtime.backups.create(tmp_path / "backup")
        finally:
            owner.execute("ALTER POLICY backup ON erasures USING (true)")


async def test_what_another_installation_signed_is_refused(
    runtime: CloudRuntime, made: Manifest, tmp_path: Path
) -> None:
    keys = runtime._installation.proofs.keys.keys()
    others = dataclasses.replace(keys, installation="0" * 16)
    (made.backup.location / manifests.MANIFEST).write_bytes(manifests.encode(made, others))
    with pytest.raises(ConfigurationError, match="not signed by this installation"):
        verified(runtime, made.backup.location)


async def test_making_one_leaves_an_intent_and_an_outcome(runtime: CloudRuntime, made: Manifest) -> None:
    rows = runtime._installation.engines.maintenance.rows(
        sa.text("SELECT event FROM audit_events WHERE log_id = :log AND event->'details'->>'backup_id' = :id"),
        {"log": SYSTEM_LOG, "id": made.backup.backup_id},
    )
    events = {event["action"]: event for (event,) in rows}
    assert events.keys() == {Action.BACKUP_CREATE.value, Action.BACKUP_CREATE_STEP.value}
    assert events[Action.BACKUP_CREATE.value]["outcome"] == "allowed"
    assert {event["category"] for event in events.values()} == {Category.ADMINISTRATION.value}
    assert str(made.backup.location) not in str(events)
    assert not part_of(made.backup.location, made.backup.backup_id).exists()
