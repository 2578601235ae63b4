"""Custody over a whole installation: what people stored stays readable, and every attempt is recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.custody.postgres import PostgresCustodyStore
from cloud.custody.reconciling import admit_keyring
from cloud.kernel import failpoints
from cloud.kernel.access import Action
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import (
    ConfigurationError,
    KeyDestroyedError,
    PermissionDeniedError,
    ProviderUnavailableError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG
from cloud.keys.inspection import mark_of
from cloud.keys.model import Place
from cloud.keys.reports import KeyringBackup
from cloud.keys.rootkey import LocalRootKey, write_key_file
from cloud.keys.sealing import unseal_with_any
from cloud.keys.sqlite import FileKeyring
from cloud.storage.metadata import tenants
from src.testing.samples import sample_memory
from tests.unit.cloud.tenancy.test_administration import Log, as_role


def store(runtime: CloudRuntime) -> PostgresCustodyStore:
    return PostgresCustodyStore(runtime._installation.engines.maintenance)


@pytest.fixture
def log(runtime: CloudRuntime) -> Log:
    return Log(runtime, SYSTEM_LOG)


@pytest.fixture
def copy(runtime: CloudRuntime, home: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies the keyring as it is now, as a snapshot of the disk would."""

    def made() -> Path:
        with runtime._installation.keyring.files.lock.held():
            return Path(shutil.copytree(home / "keyring", tmp_path / "copy"))

    return made


def as_it_is(runtime: CloudRuntime, tenant_id: str, state: str) -> None:
    """The control plane knows the tenant in this state."""
    statement = tenants.update().values(state=state).where(tenants.c.tenant_id == tenant_id)
    runtime._installation.engines.maintenance.transaction(lambda connection: connection.execute(statement))


def counted(runtime: CloudRuntime) -> int:
    """How many backups of the keyring an erasure of this moment waits for."""
    state = runtime.backups.level(system_clock())
    assert state.reached_at is None or not state.evidence["keyring_backups"]
    return int(state.evidence["keyring_backups"])


class TestRotation:
    async def test_memories_and_idempotency_keys_of_before_are_good_after_it(
        self, runtime: CloudRuntime, tenant_id: str, log: Log
    ) -> None:
        memory, key = sample_memory("alice"), {"idempotency_key": "request 17"}
        tenants_log = Log(runtime, tenant_id)
        with request_context(tenant_id=tenant_id, roles={"service"}):
            memory_id = await runtime.memory.store(memory, key)
        assert runtime.keyring.rotate_tenant(tenant_id).unreadable == 0
        moved = runtime.keyring.rotate_root()
        assert moved.in_file
        runtime.pixeltable_config.hot.clear()
        with request_context(tenant_id=tenant_id, roles={"service"}):
            assert await runtime.memory.store(memory, key) == memory_id, "a repeated request was stored twice"
            (found,) = await runtime.memory.search("alice", {})
            assert found.content == memory.content
            await runtime.memory.store(sample_memory("alice"), {})
        await runtime.drain()
        runtime.pixeltable_config.hot.clear()
        with request_context(tenant_id=tenant_id, roles={"service"}):
            assert len(await runtime.memory.retrieve("tabs?", "alice")) == 2
        # Backups that other tests made need it; they restore none of them.
        assert runtime.keyring.destroy_root_key(moved.former, despite_backups=True)
        for events, last in (
            (tenants_log.new(), ("keyring.rotate", "allowed", None)),
            (log.new(), ("keyring.destroy_root_key", "allowed", None)),
        ):
            found = [(e["action"], e["outcome"], e["reason"]) for e in events if e["action"].startswith("keyring.")]
            assert found[:2] == [("keyring.step", "allowed", "intent"), ("keyring.rotate", "allowed", None)]
            assert found[-1] == last
        (rotated,) = [event for event in tenants_log.new() if event["action"] == "keyring.rotate"]
        assert rotated["details"] == {"of": "tenant_key"}
        assert rotated["counts"]["wrapped"] >= 64
        (rotated,) = [event for event in log.new() if event["action"] == "keyring.rotate"]
        assert rotated["details"] == {"of": "root_key", "from": moved.former, "to": moved.root_key_id}

    async def test_what_foreign_code_reported_before_it_opens_after_it(
        self, runtime: CloudRuntime, tenant_id: str
    ) -> None:
        tenants_log = Log(runtime, tenant_id)
        with request_context(tenant_id=tenant_id):
            runtime.audit.log_event("login", "", "r", "x", "success", {"said": "before"})
        runtime.keyring.rotate_tenant(tenant_id)
        event = tenants_log.new()[0]
        place = Place(tenant_id, "", event["event_id"], "audit_text")
        versions = runtime.pixeltable_config.keyring.tenant_key(tenant_id).versions
        text = json.loads(unseal_with_any(versions, bytes.fromhex(event["details"]["sealed"]), place=place))
        assert text["details"] == {"said": "before"}

    def test_an_unknown_tenant_is_not_rotated(self, runtime: CloudRuntime, log: Log) -> None:
        with pytest.raises(UnknownTenantError):
            runtime.keyring.rotate_tenant("nobody-here")
        assert (log.only()["action"], log.only()["outcome"]) == ("keyring.rotate", "failed")

    @pytest.mark.parametrize("fault", ["no key", "open to others", "missing"])
    def test_a_new_root_key_that_cannot_be_used_changes_nothing(
        self, runtime: CloudRuntime, tmp_path: Path, log: Log, fault: str
    ) -> None:
        file = tmp_path / "new.key"
        match fault:
            case "no key":
                file.write_text("nonsense")
                file.chmod(0o600)
            case "open to others":
                write_key_file(file, LocalRootKey.generate().text())
                file.chmod(0o644)
            case _:
                pass
        before = runtime.keyring.status().keyring
        with pytest.raises(ConfigurationError):
            runtime.keyring.rotate_root(file)
        after = runtime.keyring.status().keyring
        assert before is not None
        assert after is not None
        assert (after.mark, after.next_root_key_id) == (before.mark, None)
        assert [event["outcome"] for event in log.new() if event["action"] == "keyring.rotate"] == ["failed"]

    def test_the_new_root_key_may_come_from_a_file(self, runtime: CloudRuntime, home: Path, tmp_path: Path) -> None:
        new = LocalRootKey.generate()
        write_key_file(tmp_path / "new.key", new.text())
        moved = runtime.keyring.rotate_root(tmp_path / "new.key")
        assert moved.root_key_id == new.key_id
        assert LocalRootKey.from_file(home / "secrets/root.key").key_id == new.key_id
        assert runtime.keyring.rotate_root(tmp_path / "new.key").rotated.wrapped == 0

    def test_a_root_key_that_a_backup_needs_is_kept_until_somebody_says_otherwise(
        self, runtime: CloudRuntime, tmp_path: Path
    ) -> None:
        made = runtime.keyring.backup(tmp_path / "backup", days=3)
        moved = runtime.keyring.rotate_root()
        assert made.backup_id in [backup.backup_id for backup in moved.needed_by]
        with pytest.raises(ConfigurationError, match="cannot be restored"):
            runtime.keyring.destroy_root_key(moved.former)
        with pytest.raises(ConfigurationError, match="is under this root key"):
            runtime.keyring.destroy_root_key(moved.root_key_id)
        assert runtime.keyring.destroy_root_key(moved.former, despite_backups=True)


class TestRecords:
    def operations(self, runtime: CloudRuntime, tenant_id: str, directory: Path) -> dict[Action, Callable[[], Any]]:
        """Every operation of custody, each so that it changes little."""
        custody = runtime.keyring
        numbers = iter(range(100))
        return {
            Action.KEYRING_STATUS: lambda: custody.status(),
            Action.KEYRING_ROTATE: lambda: custody.rotate_tenant(tenant_id),
            Action.KEYRING_BACKUP: lambda: custody.backup(directory / f"backup-{next(numbers)}"),
            Action.KEYRING_RECONCILE: lambda: custody.reconcile(),
            Action.KEYRING_ACCEPT: lambda: custody.accept(),
            Action.KEYRING_DESTROY_ROOT_KEY: lambda: custody.destroy_root_key("0000000000000000"),
        }

    def test_only_an_operator_has_custody_and_each_attempt_is_recorded(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
    ) -> None:
        for action, attempt in self.operations(runtime, tenant_id, tmp_path).items():
            for role in ("service", "member", "tenant_admin", "auditor"):
                tenants_log = Log(runtime, tenant_id)
                with as_role(tenant_id, role), pytest.raises(PermissionDeniedError):
                    attempt()
                assert (tenants_log.only()["action"], tenants_log.only()["outcome"]) == (action.value, "denied")
            system = Log(runtime, tenant_id if action is Action.KEYRING_ROTATE else SYSTEM_LOG)
            with request_context(operator="local-operator:4711", roles={"operator"}):
                attempt()
            events = [event for event in system.new() if event["action"] != "keyring.step"]
            assert [(event["action"], event["outcome"]) for event in events] == [(action.value, "allowed")]
            assert events[0]["category"] == "administration"
            assert events[0]["actor"]["id"] == "local-operator:4711"
        with as_role(tenant_id, "tenant_admin"), pytest.raises(PermissionDeniedError):
            runtime.keyring.restore(tmp_path / "backup-0")
        assert len(list(tmp_path.glob("backup-*"))) == 1

    def test_a_restoring_while_it_is_open_is_refused_and_recorded(
        self, runtime: CloudRuntime, tmp_path: Path, log: Log
    ) -> None:
        runtime.keyring.backup(tmp_path / "backup")
        with pytest.raises(ConfigurationError, match="stop the service"):
            runtime.keyring.restore(tmp_path / "backup", replace=True)
        events = [(event["action"], event["outcome"]) for event in log.new()]
        assert ("keyring.restore", "failed") in events

    def test_no_event_names_a_file_or_a_key(self, runtime: CloudRuntime, tmp_path: Path, log: Log) -> None:
        runtime.keyring.backup(tmp_path / "secret-name")
        runtime.keyring.rotate_root()
        written = json.dumps(log.new())
        assert "secret-name" not in written
        assert str(tmp_path) not in written


class TestBackup:
    def test_both_the_keyring_and_the_control_plane_know_it(self, runtime: CloudRuntime, tmp_path: Path) -> None:
        made = runtime.keyring.backup(tmp_path / "backup", days=7)
        assert (made.expires_at - made.made_at).days == 7
        assert made in runtime.keyring.backups()
        assert made in runtime.pixeltable_config.keyring.backups()
        keyring_id = runtime._installation.keyring.files.slots.keyring_id.hex()
        assert made.backup_id in [backup.backup_id for backup in store(runtime).backups(keyring_id)]

    @pytest.mark.parametrize(("place", "exists"), [("backup.registered", False), ("backup.written", True)])
    def test_one_that_is_cut_off_keeps_the_level_of_backups_open(
        self, runtime: CloudRuntime, tmp_path: Path, place: str, exists: bool
    ) -> None:
        before = counted(runtime)

        class CutOff(BaseException):
            pass

        def cut_off() -> None:
            raise CutOff

        failpoints.arm(place, cut_off)
        try:
            with pytest.raises(CutOff):
                runtime.keyring.backup(tmp_path / "backup")
        finally:
            failpoints.disarm_all()
        assert (tmp_path / "backup").exists() is exists
        assert counted(runtime) == before + 1

    def test_what_the_control_plane_did_not_hear_of_is_not_begun(
        self, runtime: CloudRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def silent(_keyring_id: str, _backup: KeyringBackup) -> None:
            raise ProviderUnavailableError("control plane")

        listed = runtime.keyring.backups()
        with monkeypatch.context() as patch:
            patch.setattr(runtime.keyring._store, "add_backup", silent)
            with pytest.raises(ProviderUnavailableError, match="control plane"):
                runtime.keyring.backup(tmp_path / "backup")
        assert list(tmp_path.iterdir()) == []
        assert runtime.keyring.backups() == listed

    def test_one_that_could_not_be_written_counts_until_it_would_have_expired(
        self, runtime: CloudRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_part: Path, _path: Path) -> None:
            raise OSError(28, "No space left on device")

        listed, before = runtime.keyring.backups(), counted(runtime)
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", full)
            with pytest.raises(ProviderUnavailableError, match="No space left"):
                runtime.keyring.backup(tmp_path / "backup")
        assert list(tmp_path.iterdir()) == []
        assert runtime.keyring.backups() == listed
        assert counted(runtime) == before + 1

    @pytest.mark.parametrize("days", [0, -1, 3651])
    def test_a_senseless_time_is_refused(self, runtime: CloudRuntime, tmp_path: Path, days: int) -> None:
        with pytest.raises(ConfigurationError, match="1 to 3650"):
            runtime.keyring.backup(tmp_path / "backup", days=days)
        assert list(tmp_path.iterdir()) == []


class TestRecognition:
    @pytest.fixture
    def older(self, runtime: CloudRuntime, copy: Callable[[], Path]) -> Iterator[Callable[[], FileKeyring]]:
        opened: list[FileKeyring] = []

        def made() -> FileKeyring:
            opened.append(FileKeyring.open(copy(), runtime._installation.root_keys))
            return opened[-1]

        yield made
        for keyring in opened:
            keyring.close()

    def test_the_keyring_in_use_is_let_in(self, runtime: CloudRuntime) -> None:
        admit_keyring(runtime._installation.keyring, store(runtime), runtime.audit, system_clock, is_new=False)

    async def test_a_copy_from_before_an_erasure_is_refused_and_the_person_destroyed_in_it_again(
        self, runtime: CloudRuntime, tenant_id: str, older: Callable[[], FileKeyring], log: Log
    ) -> None:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        keyring = runtime.pixeltable_config.keyring
        alice = keyring.resolve_subject(tenant_id, "alice", create=False)
        bob = keyring.resolve_subject(tenant_id, "bob", create=False)
        assert alice is not None
        assert bob is not None
        from_before = older()
        await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await runtime.memory.store(sample_memory("carol"), {})
        assert from_before.subject_key(tenant_id, alice.subject_id) == alice, "the copy brings nobody back"
        with pytest.raises(ConfigurationError, match="copy from earlier") as refused:
            admit_keyring(from_before, store(runtime), runtime.audit, system_clock, is_new=False)
        assert "1 people who had been erased" in str(refused.value)
        assert "keyring accept" in str(refused.value)
        assert from_before.subject_key(tenant_id, alice.subject_id) is None
        assert from_before.subject_key(tenant_id, bob.subject_id) == bob
        event = log.only()
        assert (event["action"], event["actor"]["id"]) == ("keyring.reconcile", "custody")
        assert event["counts"]["destroyed_again"] == 1
        assert event["counts"]["unreadable"] >= 1, "carol has memories and no key in it"

    async def test_a_copy_from_before_a_closing_brings_no_key_of_the_tenant_back(
        self, runtime: CloudRuntime, tenant_id: str, older: Callable[[], FileKeyring], log: Log
    ) -> None:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        for name in ("closing-here", "living-here"):
            runtime.tenants.create(name, plan="team")
        # As another database's, which is the wrong one here.
        runtime.pixeltable_config.keyring.create_tenant("never-heard-of")
        from_before = older()
        as_it_is(runtime, "closing-here", "closing")
        await asyncio.to_thread(runtime.closing.close, tenant_id, confirmed=True)
        assert len(from_before.subjects(tenant_id)) == 2, "the copy brings nobody back"
        log.new()
        with pytest.raises(ConfigurationError, match="1 tenants that had been closed"):
            admit_keyring(from_before, store(runtime), runtime.audit, system_clock, is_new=False)
        assert from_before.subjects(tenant_id) == ()
        with pytest.raises(KeyDestroyedError):
            from_before.tenant_key(tenant_id)
        for name in ("never-heard-of", "closing-here", "living-here"):
            assert from_before.tenant_key(name)
        assert log.only()["counts"]["tenants_destroyed_again"] == 1
        as_it_is(runtime, "closing-here", "active")

    def test_another_installations_keyring_is_not_reconciled(
        self, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        another = FileKeyring.open(tmp_path / "another", LocalRootKey(bytes(32)), create=True)
        another.create_tenant(tenant_id)
        runtime.closing.close(tenant_id, confirmed=True)
        place = dataclasses.replace(runtime.keyring._place, keyring=another)
        monkeypatch.setattr(runtime.keyring, "_place", place)
        with pytest.raises(ConfigurationError, match="this installation's is"):
            runtime.keyring.reconcile()
        assert another.tenant_key(tenant_id), "a tenant of the same name is another one there"
        another.close()

    def test_another_keyring_is_refused_and_left_alone(self, runtime: CloudRuntime, tmp_path: Path) -> None:
        another = FileKeyring.open(tmp_path / "another", LocalRootKey(bytes(32)), create=True)
        seen = store(runtime).seen()
        with pytest.raises(ConfigurationError, match="this installation's is"):
            admit_keyring(another, store(runtime), runtime.audit, system_clock, is_new=False)
        store(runtime).note(mark_of(another.files), system_clock())
        assert store(runtime).seen() == seen, "another keyring was taken for ours"
        another.close()

    async def test_what_was_seen_never_becomes_earlier(
        self, runtime: CloudRuntime, tenant_id: str, older: Callable[[], FileKeyring]
    ) -> None:
        from_before = older()
        runtime.keyring.rotate_tenant(tenant_id)
        seen = store(runtime).seen()
        assert seen is not None
        store(runtime).note(mark_of(from_before.files), system_clock())
        after = store(runtime).seen()
        assert after is not None
        assert after.epoch == seen.epoch > mark_of(from_before.files).epoch


def test_two_backups_at_once_are_both_whole_or_one_is_told_to_wait(runtime: CloudRuntime, tmp_path: Path) -> None:
    with (
        runtime._installation.keyring.files.rotation_lock.held(),
        pytest.raises(ProviderUnavailableError, match="backed up already"),
    ):
        runtime.keyring.backup(tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []
