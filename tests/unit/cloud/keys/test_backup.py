"""A backup holds one moment, opens under its root key alone, and is refused when a byte of it is not as it was."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.keys import backup, backupfile
from cloud.keys.backup import back_up, header_of, restore
from cloud.keys.backupfile import BackupHeader, read_backup, write_backup
from cloud.keys.inspection import check_slots
from cloud.keys.reports import KeyringBackup
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
from cloud.keys.rotation import rotate_root
from cloud.keys.sqlite import FileKeyring
from tests.support.disks import small_disk
from tests.support.homes import fill
from tests.unit.cloud.keys.conftest import ROOT_KEY_TEXT
from tests.unit.cloud.keys.test_rotation import Killed, everything_in, kill_at, people
from tests.unit.cloud.keys.test_sqlite import resolve
from tests.unit.cloud.keys.test_sqlite_processes import REPOSITORY

NOW = datetime(2026, 11, 5, tzinfo=UTC)
KEEP = timedelta(days=30)


RESTORE = f"""
import os, sys, types
sys.modules["cloud"] = types.ModuleType("cloud")
sys.modules["cloud"].__path__ = ["cloud"]
from pathlib import Path
from cloud.kernel import failpoints
from cloud.keys.backup import restore
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
failpoints.arm(sys.argv[3], lambda: os._exit(17))
keys = RootKeys(LocalRootKey.from_text("{ROOT_KEY_TEXT}"))
restore(Path(sys.argv[1]), Path(sys.argv[2]), keys, replace=True, prepare=lambda draft: None)
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keyring.backup"


def nothing(_directory: Path) -> None:
    """Prepares nothing."""


def put_back(directory: Path, file: Path, root_key: LocalRootKey, *, replace: bool = False) -> FileKeyring:
    restore(directory, file, RootKeys(root_key), replace=replace, prepare=nothing)
    return FileKeyring.open(directory, root_key)


class TestMaking:
    def test_everything_opens_after_it_is_restored_elsewhere(
        self, keyring: FileKeyring, file: Path, root_key: LocalRootKey, tmp_path: Path
    ) -> None:
        known = people(keyring, 200)
        keyring.rotate_tenant("acme", now=NOW)
        made = back_up(keyring.files, file, now=NOW, keep=KEEP)
        restored = put_back(tmp_path / "elsewhere", file, root_key)
        assert people(restored, 200) == known
        assert restored.tenant_key("acme") == keyring.tenant_key("acme")
        assert check_slots(restored.files, everything=True).unreadable == 0
        (found,) = restored.backups()
        assert found.backup_id == made.backup_id
        restored.close()

    def test_it_is_registered_with_its_expiry_and_says_so_in_the_clear(self, keyring: FileKeyring, file: Path) -> None:
        made = back_up(keyring.files, file, now=NOW, keep=KEEP)
        assert made.expires_at == NOW + KEEP
        assert keyring.backups() == (made,)
        header = header_of(file)
        assert (header.backup, header.keyring_id) == (made, keyring.files.slots.keyring_id.hex())

    def test_it_is_for_its_owner_alone_and_shows_nobody(
        self, keyring: FileKeyring, file: Path, directory: Path
    ) -> None:
        known = people(keyring, 20)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        content = file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in file.parent.iterdir() if path.is_file()] == [file.name]
        for subject_id, key in known.values():
            assert subject_id.encode() in everything_in(directory)  # the search can find what is there
            assert subject_id.encode() not in content
            assert key not in content
        assert b"acme" not in content

    @pytest.mark.parametrize("where", ["there already", "a link", "no directory"])
    def test_it_never_replaces_a_file(self, keyring: FileKeyring, file: Path, where: str) -> None:
        match where:
            case "there already":
                file.write_text("precious")
            case "a link":
                file.symlink_to(file.with_name("elsewhere"))
            case _:
                file = file / "below" / "nothing"
        with pytest.raises(ConfigurationError):
            back_up(keyring.files, file, now=NOW, keep=KEEP)
        assert keyring.backups() == ()

    def test_one_whose_name_may_be_on_the_disk_counts(
        self, keyring: FileKeyring, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unflushed(_directory: Path) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(backup, "sync_directory", unflushed)
        with pytest.raises(ProviderUnavailableError, match="could not be flushed"):
            back_up(keyring.files, file, now=NOW, keep=KEEP)
        assert list(file.parent.glob("*.backup")) == []
        assert [(one.complete, one.expires_at) for one in keyring.backups()] == [(False, NOW + KEEP)]

    def test_a_full_disk_leaves_nothing_and_counts_nothing(
        self, keyring: FileKeyring, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ProviderUnavailableError, match="No space left"):
            back_up(keyring.files, file, now=NOW, keep=KEEP)
        monkeypatch.undo()
        assert [path.name for path in file.parent.iterdir() if path.is_file()] == []
        assert keyring.backups() == ()
        back_up(keyring.files, file, now=NOW, keep=KEEP)

    def test_one_that_was_killed_is_counted_before_a_byte_of_it_exists(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey
    ) -> None:
        for place, exists in (("backup.registered", False), ("backup.written", True)):
            kill_at(place)
            with pytest.raises(Killed):
                back_up(keyring.files, file, now=NOW, keep=KEEP)
            failpoints.disarm_all()
            assert file.exists() == exists
            other = FileKeyring.open(directory, root_key)
            assert [backup.complete for backup in other.backups()] == [False] * (1 + exists)
            other.close()

    def test_in_the_middle_of_a_rotation_none_is_made(self, keyring: FileKeyring, file: Path) -> None:
        people(keyring, 5)
        kill_at("rotate.tenant.batch")
        with pytest.raises(Killed):
            keyring.rotate_tenant("acme", now=NOW)
        with pytest.raises(ConfigurationError, match="interrupted"):
            back_up(keyring.files, file, now=NOW, keep=KEEP)

    def test_others_write_right_after_it(
        self, keyring: FileKeyring, file: Path, tmp_path: Path, root_key: LocalRootKey
    ) -> None:
        people(keyring, 3)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        resolve(keyring, "later")
        restored = put_back(tmp_path / "elsewhere", file, root_key)
        assert restored.resolve_subject("acme", "user-1", create=False) is not None
        assert restored.resolve_subject("acme", "later", create=False) is None
        restored.close()


class TestRestoring:
    def test_a_keyring_is_given_up_only_on_demand_and_then_overwritten(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey
    ) -> None:
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        people(keyring, 3)
        keyring.close()
        before = everything_in(directory)
        with pytest.raises(ConfigurationError, match="--replace"):
            put_back(directory, file, root_key)
        assert everything_in(directory) == before
        restored = put_back(directory, file, root_key, replace=True)
        assert restored.subjects("acme") == ()
        restored.close()
        assert sorted(path.name for path in directory.parent.iterdir()) == ["keyring", "keyring.backup"]

    def test_while_it_is_open_it_is_not_replaced(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey
    ) -> None:
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        with pytest.raises(ConfigurationError, match="stop the service"):
            put_back(directory, file, root_key, replace=True)
        assert resolve(keyring, "alice") is not None

    @pytest.mark.parametrize("place", ["restore.unpacked", "restore.put_aside", "restore.in_place"])
    def test_one_that_was_killed_is_done_by_the_next(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey, place: str
    ) -> None:
        known = people(keyring, 5)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        keyring.close()
        # For real: what a `finally` would repair must not be repaired.
        killed = subprocess.run(
            [sys.executable, "-c", RESTORE, directory, file, place], cwd=REPOSITORY, check=False, timeout=60
        )
        assert killed.returncode == 17
        restored = put_back(directory, file, root_key, replace=True)
        assert people(restored, 5) == known
        restored.close()
        assert sorted(path.name for path in directory.parent.iterdir()) == ["keyring", "keyring.backup"]

    def test_a_preparation_that_fails_leaves_the_present_keyring(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey
    ) -> None:
        known = people(keyring, 5)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        keyring.close()

        def fail(_draft: Path) -> None:
            raise ConfigurationError("not this one")

        with pytest.raises(ConfigurationError, match="not this one"):
            restore(directory, file, RootKeys(root_key), replace=True, prepare=fail)
        again = FileKeyring.open(directory, root_key)
        assert people(again, 5) == known
        again.close()
        assert sorted(path.name for path in directory.parent.iterdir()) == ["keyring", "keyring.backup"]

    def test_another_root_key_does_not_open_it(self, keyring: FileKeyring, file: Path, tmp_path: Path) -> None:
        made = back_up(keyring.files, file, now=NOW, keep=KEEP)
        with pytest.raises(ConfigurationError, match=made.root_key_id):
            put_back(tmp_path / "elsewhere", file, LocalRootKey(b"\7" * 32))
        assert not (tmp_path / "elsewhere").exists()

    def test_one_from_before_a_rotation_opens_with_the_former_root_key(
        self, directory: Path, file: Path, root_key: LocalRootKey, tmp_path: Path
    ) -> None:
        new = LocalRootKey(b"\7" * 32)
        both = RootKeys(root_key, new)
        keyring = FileKeyring.open(directory, both, create=True)
        keyring.create_tenant("acme")
        known = people(keyring, 5)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        rotate_root(keyring.files, new.key_id, now=NOW)
        restore(tmp_path / "elsewhere", file, both, replace=False, prepare=nothing)
        restored = FileKeyring.open(tmp_path / "elsewhere", both)
        rotate_root(restored.files, new.key_id, now=NOW)
        assert people(restored, 5) == known
        restored.close()
        keyring.close()


class TestDamage:
    HEADER = BackupHeader(KeyringBackup("b1", NOW, NOW + KEEP, 7, "", True), "k1", 40, 60)

    def sealed(self, root_key: LocalRootKey, size: int) -> bytes:
        header = BackupHeader(
            KeyringBackup("b1", NOW, NOW + KEEP, 7, root_key.key_id, True), "k1", size - size // 2, size // 2
        )
        out = io.BytesIO()
        write_backup(out, header, [bytes(size)], root_key)
        return out.getvalue()

    @pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
    def test_content_of_any_size_comes_back(
        self, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setattr(backupfile, "_CHUNK_BYTES", 64)
        _, content = read_backup(io.BytesIO(self.sealed(root_key, size)), RootKeys(root_key))
        assert b"".join(content) == bytes(size)

    @settings(suppress_health_check=list(HealthCheck), max_examples=300)
    @given(data=st.data())
    def test_whatever_is_changed_cut_or_added_is_refused_and_by_no_other_error(
        self, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
    ) -> None:
        monkeypatch.setattr(backupfile, "_CHUNK_BYTES", 64)
        sealed = bytearray(self.sealed(root_key, data.draw(st.sampled_from((0, 64, 200)))))
        at = data.draw(st.integers(0, len(sealed) - 1))
        match data.draw(st.sampled_from(("flip", "cut", "append", "drop"))):
            case "flip":
                sealed[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del sealed[at:]
            case "append":
                sealed += b"x"
            case _:
                del sealed[at]
        with pytest.raises(ConfigurationError):
            b"".join(read_backup(io.BytesIO(bytes(sealed)), RootKeys(root_key))[1])

    def test_chunks_in_another_order_are_refused(self, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backupfile, "_CHUNK_BYTES", 64)
        sealed = self.sealed(root_key, 64 * 3)
        body = len(sealed) - 3 * 80
        swapped = sealed[:body] + sealed[body + 80 : body + 160] + sealed[body : body + 80] + sealed[body + 160 :]
        with pytest.raises(ConfigurationError):
            b"".join(read_backup(io.BytesIO(swapped), RootKeys(root_key))[1])

    def test_a_file_that_is_no_backup_is_told_apart(self, file: Path) -> None:
        file.write_bytes(b"x" * 1000)
        with pytest.raises(ConfigurationError, match="no backup"):
            header_of(file)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            header_of(file.with_name("absent"))

    def test_a_damaged_backup_changes_nothing(
        self, keyring: FileKeyring, file: Path, directory: Path, root_key: LocalRootKey
    ) -> None:
        known = people(keyring, 5)
        back_up(keyring.files, file, now=NOW, keep=KEEP)
        keyring.close()
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="damaged"):
            put_back(directory, file, root_key, replace=True)
        again = FileKeyring.open(directory, root_key)
        assert people(again, 5) == known
        again.close()


@pytest.mark.crash
def test_on_a_full_disk_nothing_is_lost_and_nothing_begun_is_left(tmp_path: Path, root_key: LocalRootKey) -> None:
    new = LocalRootKey(b"\7" * 32)
    with small_disk(1024) as disk:
        keyring = FileKeyring.open(disk / "keyring", RootKeys(root_key, new), create=True)
        keyring.create_tenant("acme")
        known = people(keyring, 50)
        fill(disk / "ballast")
        with pytest.raises(ProviderUnavailableError):
            back_up(keyring.files, disk / "backup", now=NOW, keep=KEEP)
        for rotate in (
            lambda: keyring.rotate_tenant("acme", now=NOW),
            lambda: rotate_root(keyring.files, new.key_id, now=NOW),
        ):
            # Slots are overwritten in place and the journal is there already, so it may even succeed.
            with suppress(ProviderUnavailableError):
                rotate()
            assert people(keyring, 50) == known
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "keyring"]
        (disk / "ballast").unlink()
        keyring.rotate_tenant("acme", now=NOW)
        rotate_root(keyring.files, new.key_id, now=NOW)
        back_up(keyring.files, disk / "backup", now=NOW, keep=KEEP)
        assert people(keyring, 50) == known
        assert check_slots(keyring.files, everything=True).unreadable == 0
        keyring.close()
