"""Rotation: nothing is unreadable at any moment, nothing of before remains, and it ends however often it is killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, ProviderUnavailableError, SealBrokenError
from cloud.keys.inspection import check_slots
from cloud.keys.layout import INDEX_NAME, LOOKUP_SLOT, SLOTS_NAME, lookup_aad, subject_place, tenant_place
from cloud.keys.model import SLOT_BYTES, Place, encode_place, parse_slot
from cloud.keys.rootkey import LocalRootKey, write_key_file
from cloud.keys.rootkeys import RootKeys
from cloud.keys.rotation import rotate_root
from cloud.keys.sealing import seal, unseal, unseal_with_any
from cloud.keys.slots import SlotFile
from cloud.keys.sqlite import FileKeyring
from tests.unit.cloud.keys.test_sqlite import everything_in, resolve
from tests.unit.cloud.keys.test_sqlite_processes import REPOSITORY

NOW = datetime(2026, 11, 5, tzinfo=UTC)
NEW = LocalRootKey(b"\7" * 32)
PEOPLE = 300
TENANT_STEPS = tuple(name for name in failpoints.NAMES if name.startswith("rotate.tenant."))
ROOT_STEPS = tuple(
    name for name in failpoints.NAMES if name.startswith("rotate.root.") and name != "rotate.root.promoted"
)


class Killed(BaseException):
    """Ends a rotation as a kill does: nothing catches it, and what is not durable is not repaired."""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


@pytest.fixture
def root_keys(root_key: LocalRootKey) -> RootKeys:
    return RootKeys(root_key, NEW)


@pytest.fixture
def keyring(directory: Path, root_keys: RootKeys) -> Iterator[FileKeyring]:
    keyring = FileKeyring.open(directory, root_keys, create=True)
    keyring.create_tenant("acme")
    yield keyring
    keyring.close()


def kill_at(name: str, nth: int = 1) -> None:
    """The `nth` time that this place is reached is the last."""
    left = [nth]

    def reached() -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    failpoints.arm(name, reached)


def people(keyring: FileKeyring, count: int = PEOPLE) -> dict[str, tuple[str, bytes]]:
    """Subject id and key of each person."""
    return {
        f"user-{number}": (key.subject_id, key.key)
        for number in range(count)
        for key in [resolve(keyring, f"user-{number}")]
    }


def wrapped(directory: Path) -> dict[tuple[str, str, int], bytes]:
    """Every wrapped key by kind, owner and slot, read around the implementation."""
    db = sqlite3.connect(directory / INDEX_NAME)
    try:
        rows = db.execute(
            "SELECT 'subject', subject_id, slot FROM subjects UNION ALL SELECT 'spare', subject_id, slot FROM spares"
            " UNION ALL SELECT 'tenant', tenant_id, slot FROM tenants"
            " UNION ALL SELECT 'former', tenant_id, slot FROM former_tenant_keys"
        ).fetchall()
    finally:
        db.close()
    images = (directory / SLOTS_NAME).read_bytes()
    return {
        (kind, owner, slot): parse_slot(images[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]).wrapped
        for kind, owner, slot in (*rows, ("lookup", "", LOOKUP_SLOT))
    }


def root_places(found: dict[tuple[str, str, int], bytes]) -> list[tuple[bytes, bytes]]:
    """What the root key wraps, and what each is bound to."""
    return [
        (value, lookup_aad() if kind == "lookup" else encode_place(tenant_place(owner, slot)))
        for (kind, owner, slot), value in found.items()
        if kind in ("lookup", "tenant", "former")
    ]


class TestTenant:
    def test_no_key_opens_under_the_former_one_and_no_earlier_wrapping_is_in_any_file(
        self, keyring: FileKeyring, directory: Path
    ) -> None:
        before, known, images = keyring.tenant_key("acme"), people(keyring), wrapped(directory)
        done = keyring.rotate_tenant("acme", now=NOW)
        assert (done.wrapped, done.unreadable) == (PEOPLE + keyring.counts().spares, 0)
        found = everything_in(directory)
        assert not any(value in found for (kind, _, _), value in images.items() if kind != "lookup")
        for (kind, owner, slot), value in wrapped(directory).items():
            if kind in ("subject", "spare"):
                place = subject_place("acme", owner, slot)
                with pytest.raises(SealBrokenError):
                    unseal(before.key, value, place=place)
                unseal(keyring.tenant_key("acme").key, value, place=place)
        assert people(keyring) == known

    def test_what_was_sealed_under_the_tenants_key_opens_after_two_rotations(self, keyring: FileKeyring) -> None:
        place = Place("acme", "", "e1", "audit_text")
        sealed = seal(keyring.tenant_key("acme").key, b"said before", place=place)
        for _ in range(2):
            keyring.rotate_tenant("acme", now=NOW)
        key = keyring.tenant_key("acme")
        assert unseal_with_any(key.versions, sealed, place=place) == b"said before"
        with pytest.raises(SealBrokenError):
            unseal(key.key, sealed, place=place)

    def test_another_process_gets_the_new_key_and_the_same_people(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        other = FileKeyring.open(directory, root_key)
        known, before = people(other), other.tenant_key("acme")
        keyring.rotate_tenant("acme", now=NOW)
        assert other.tenant_key("acme").former == (before.key,)
        assert people(other) == known
        made = resolve(other, "new")
        assert resolve(keyring, "new") == made
        other.close()

    @pytest.mark.parametrize("step", TENANT_STEPS)
    @pytest.mark.parametrize("nth", [1, 2])
    def test_a_rotation_killed_anywhere_leaves_everything_readable_and_is_finished_by_the_next(
        self, directory: Path, root_key: LocalRootKey, step: str, nth: int
    ) -> None:
        keyring = FileKeyring.open(directory, root_key, create=True)
        keyring.create_tenant("acme")
        known, first = people(keyring), keyring.tenant_key("acme")
        kill_at(step, nth)
        died = False
        try:
            keyring.rotate_tenant("acme", now=NOW)
        except Killed:
            died = True
        assert died or nth > 1, "it was not reached"
        failpoints.disarm_all()
        again = FileKeyring.open(directory, root_key)
        assert {user: resolve(again, user) for user in known} == {user: resolve(keyring, user) for user in known}
        assert people(again) == known
        resolve(again, "in between")
        again.rotate_tenant("acme", now=NOW)
        assert again.files.register.rotating_tenants() == ()
        assert again.tenant_key("acme").first == first.key
        assert again.tenant_key("acme").key != first.key
        assert check_slots(again.files, everything=True).unreadable == 0
        assert people(again) == people(keyring) == known
        for (kind, owner, slot), value in wrapped(directory).items():
            if kind in ("subject", "spare"):
                unseal(again.tenant_key("acme").key, value, place=subject_place("acme", owner, slot))
        again.close()
        keyring.close()

    def test_a_tenant_that_is_destroyed_meanwhile_stays_destroyed(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        people(keyring)
        other = FileKeyring.open(directory, root_key)
        images = wrapped(directory)

        def destroy() -> None:
            other.destroy_tenant("acme")
            other.create_tenant("acme")
            failpoints.disarm_all()

        failpoints.arm("rotate.tenant.batch", destroy)
        with pytest.raises(KeyDestroyedError):
            keyring.rotate_tenant("acme", now=NOW)
        assert keyring.subjects("acme") == ()
        assert keyring.tenant_key("acme").former == ()
        assert keyring.files.register.rotating_tenants() == ()
        found = everything_in(directory)
        assert not any(value in found for (kind, _, _), value in images.items() if kind != "lookup")
        other.close()

    def test_a_destroyed_tenant_takes_its_former_keys_along(self, keyring: FileKeyring, directory: Path) -> None:
        keyring.rotate_tenant("acme", now=NOW)
        keyring.rotate_tenant("acme", now=NOW)
        images = wrapped(directory)
        assert sum(kind == "former" for kind, _, _ in images) == 2
        keyring.destroy_tenant("acme")
        found = everything_in(directory)
        assert not any(value in found for (kind, _, _), value in images.items() if kind != "lookup")

    def test_a_damaged_key_is_counted_and_left_alone(self, keyring: FileKeyring, directory: Path) -> None:
        known = people(keyring, 3)
        (slot,) = [slot for _, owner, slot in wrapped(directory) if owner == known["user-1"][0]]
        damage = b"\1\x3d" + b"x" * 254
        with (directory / SLOTS_NAME).open("r+b") as file:
            file.seek(slot * SLOT_BYTES)
            file.write(damage)
        assert keyring.rotate_tenant("acme", now=NOW).unreadable == 1
        assert (directory / SLOTS_NAME).read_bytes()[slot * SLOT_BYTES :][:SLOT_BYTES] == damage
        assert check_slots(keyring.files, everything=True).unreadable == 1

    def test_an_interrupted_destruction_is_not_undone(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        known = people(keyring, 3)
        (slot,) = [slot for _, owner, slot in wrapped(directory) if owner == known["user-1"][0]]
        keyring.files.slots.destroy((slot,))
        assert keyring.rotate_tenant("acme", now=NOW).unreadable == 0
        assert check_slots(keyring.files, everything=True).interrupted == 1
        assert keyring.subject_key("acme", known["user-1"][0]) is None


class TestRoot:
    def test_nothing_opens_under_the_former_root_key_and_no_earlier_wrapping_is_in_any_file(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        known = people(keyring)
        keyring.create_tenant("acme2")
        keyring.rotate_tenant("acme2", now=NOW)
        before = wrapped(directory)
        keys = {tenant: keyring.tenant_key(tenant) for tenant in ("acme", "acme2")}
        assert rotate_root(keyring.files, NEW.key_id, now=NOW).wrapped == 4
        found = everything_in(directory)
        assert not any(value in found for value, _ in root_places(before))
        for value, aad in root_places(wrapped(directory)):
            with pytest.raises(SealBrokenError):
                root_key.unwrap(value, aad)
            NEW.unwrap(value, aad)
        assert {tenant: keyring.tenant_key(tenant) for tenant in keys} == keys
        keyring.close()
        with pytest.raises(ConfigurationError, match="made with root key"):
            FileKeyring.open(directory, root_key)
        again = FileKeyring.open(directory, NEW)
        assert people(again) == known
        again.close()

    @pytest.mark.parametrize("step", ROOT_STEPS)
    @pytest.mark.parametrize("nth", [1, 3])
    def test_a_rotation_killed_anywhere_leaves_everything_readable_and_is_finished_by_the_next(
        self, directory: Path, root_keys: RootKeys, root_key: LocalRootKey, step: str, nth: int
    ) -> None:
        keyring = FileKeyring.open(directory, root_keys, create=True, spare_keys=1)
        tenants = [f"tenant-{number}" for number in range(200)]
        for tenant in tenants:
            keyring.create_tenant(tenant)
        keys = {tenant: keyring.tenant_key(tenant) for tenant in tenants}
        kill_at(step, nth)
        died = False
        try:
            rotate_root(keyring.files, NEW.key_id, now=NOW)
        except Killed:
            died = True
        assert died or nth > 1, "it was not reached"
        failpoints.disarm_all()
        again = FileKeyring.open(directory, root_keys)
        again.create_tenant("in-between")
        for one in (keyring, again):
            assert {tenant: one.tenant_key(tenant) for tenant in tenants} == keys
        rotate_root(again.files, NEW.key_id, now=NOW)
        assert (again.files.register.root_key_id(), again.files.register.next_root_key_id()) == (NEW.key_id, None)
        for value, aad in root_places(wrapped(directory)):
            NEW.unwrap(value, aad)
        assert {tenant: keyring.tenant_key(tenant) for tenant in tenants} == keys
        again.close()
        keyring.close()

    def test_a_process_that_could_not_reach_the_new_root_key_keeps_it_from_beginning(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        blind = FileKeyring.open(directory, root_key)
        known, before = people(blind), everything_in(directory)
        with pytest.raises(ConfigurationError, match="1 running process"):
            rotate_root(keyring.files, NEW.key_id, now=NOW)
        assert keyring.files.register.next_root_key_id() is None
        assert (directory / SLOTS_NAME).read_bytes() in before
        blind.close()
        rotate_root(keyring.files, NEW.key_id, now=NOW)
        assert people(keyring) == known

    def test_a_process_that_lacks_the_new_root_key_does_not_open_in_the_middle(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        kill_at("rotate.root.begun")
        with pytest.raises(Killed):
            rotate_root(keyring.files, NEW.key_id, now=NOW)
        with pytest.raises(ConfigurationError, match="being moved to root key"):
            FileKeyring.open(directory, root_key)

    def test_a_root_key_that_is_not_there_changes_nothing(self, keyring: FileKeyring) -> None:
        with pytest.raises(ConfigurationError, match="not configured here"):
            rotate_root(keyring.files, LocalRootKey(b"\11" * 32).key_id, now=NOW)
        assert keyring.files.register.next_root_key_id() is None

    def test_a_rotation_to_a_third_root_key_waits_for_the_interrupted_one(self, directory: Path) -> None:
        third = LocalRootKey(b"\11" * 32)
        keys = RootKeys(LocalRootKey(bytes(32)), NEW, third)
        keyring = FileKeyring.open(directory, keys, create=True)
        kill_at("rotate.root.begun")
        with pytest.raises(Killed):
            rotate_root(keyring.files, NEW.key_id, now=NOW)
        with pytest.raises(ConfigurationError, match="interrupted"):
            rotate_root(keyring.files, third.key_id, now=NOW)
        keyring.close()

    def test_processes_that_share_the_file_need_no_message(self, directory: Path, tmp_path: Path) -> None:
        file = tmp_path / "root.key"
        write_key_file(file, LocalRootKey.generate().text())
        mine = RootKeys(LocalRootKey.from_file(file), file=file)
        theirs = RootKeys(LocalRootKey.from_file(file), file=file)
        keyring = FileKeyring.open(directory, mine, create=True)
        keyring.create_tenant("acme")
        other = FileKeyring.open(directory, theirs)
        known, former = people(other), mine.first.key_id
        mine.keep(NEW)
        rotate_root(keyring.files, NEW.key_id, now=NOW)
        assert people(other) == known
        other.create_tenant("acme2")
        mine.promote(NEW.key_id)
        assert LocalRootKey.from_file(file).key_id == NEW.key_id
        assert mine.former() == (former,)
        assert people(other) == known
        assert mine.destroy(former)
        assert sorted(path.name for path in tmp_path.glob("root.key*")) == ["root.key"]
        other.close()
        keyring.close()
        again = FileKeyring.open(directory, RootKeys(LocalRootKey.from_file(file), file=file))
        assert again.tenant_key("acme2") is not None
        again.close()


class TestTwoAtOnce:
    @pytest.mark.parametrize(
        "second",
        [
            lambda other: other.rotate_tenant("acme", now=NOW),
            lambda other: rotate_root(other.files, NEW.key_id, now=NOW),
        ],
        ids=["tenant", "root"],
    )
    def test_the_second_rotation_is_told_that_one_is_under_way(
        self, keyring: FileKeyring, directory: Path, root_keys: RootKeys, second: Callable[[FileKeyring], Any]
    ) -> None:
        other = FileKeyring.open(directory, root_keys)
        known = people(keyring)
        refused: list[str] = []

        def meanwhile() -> None:
            with pytest.raises(ProviderUnavailableError) as error:
                second(other)
            refused.append(str(error.value))

        failpoints.arm("rotate.tenant.batch", meanwhile)
        keyring.rotate_tenant("acme", now=NOW)
        failpoints.disarm_all()
        assert refused
        assert all("being rotated" in text for text in refused)
        assert len(keyring.tenant_key("acme").former) == 1
        second(other)
        assert people(other) == people(keyring) == known
        other.close()


WORK = """
import json, sys, types, time
sys.modules["cloud"] = types.ModuleType("cloud")
sys.modules["cloud"].__path__ = ["cloud"]
from pathlib import Path
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sqlite import FileKeyring
file = Path(sys.argv[2])
keys = RootKeys(LocalRootKey.from_file(file), file=file)
keyring = FileKeyring.open(Path(sys.argv[1]), keys, spare_keys=5)
print("ready", flush=True)
made, end = {}, time.monotonic() + float(sys.argv[3])
number = 0
while time.monotonic() < end:
    number += 1
    user = f"{sys.argv[4]}-{number % 400}"
    key = keyring.resolve_subject("acme", user, create=True)
    found = made.setdefault(user, [key.subject_id, key.key.hex()])
    assert found == [key.subject_id, key.key.hex()], user
    keyring.forget("acme", key.subject_id)
    assert keyring.subject_key("acme", key.subject_id).key.hex() == found[1]
    assert keyring.tenant_key("acme").first.hex() == sys.argv[5]
    if number % 7 == 0:
        doomed = keyring.resolve_subject("acme", "doomed-" + user, create=True)
        assert keyring.destroy_subject("acme", doomed.subject_id)
print(json.dumps(made), flush=True)
"""


@pytest.mark.crash
def test_rotations_under_load_disturb_nobody(directory: Path, tmp_path: Path) -> None:
    """Two processes and two threads make, use and destroy keys while root and tenant keys are rotated all the time."""
    file, seconds = tmp_path / "root.key", 4.0
    write_key_file(file, LocalRootKey.generate().text())
    keys = RootKeys(LocalRootKey.from_file(file), file=file)
    keyring = FileKeyring.open(directory, keys, create=True, spare_keys=5)
    keyring.create_tenant("acme")
    first = keyring.tenant_key("acme").key
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(directory), str(file), str(seconds), f"p{number}", first.hex()],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    errors: list[BaseException] = []
    made: dict[str, bytes] = {}
    end = time.monotonic() + seconds

    def work(name: str) -> None:
        number = 0
        try:
            while time.monotonic() < end:
                number += 1
                key = resolve(keyring, f"{name}-{number % 300}")
                assert made.setdefault(f"{name}-{number % 300}", key.key) == key.key
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    rotations = 0
    while time.monotonic() < end:
        keyring.rotate_tenant("acme", now=NOW)
        new = LocalRootKey.generate()
        keys.keep(new)
        rotate_root(keyring.files, new.key_id, now=NOW)
        keys.promote(new.key_id)
        rotations += 1
    for thread in threads:
        thread.join()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert errors == []
    assert rotations >= 3
    assert check_slots(keyring.files, everything=True).unreadable == 0
    for answer in answers:
        for user, (subject_id, key) in json.loads(answer).items():
            found = resolve(keyring, user)
            assert (found.subject_id, found.key.hex()) == (subject_id, key)
    keyring.close()


def test_a_keyring_of_the_earlier_format_opens_and_rotates(
    keyring: FileKeyring, directory: Path, root_keys: RootKeys, tmp_path: Path
) -> None:
    known = people(keyring)
    keyring.close()
    earlier = tmp_path / "earlier"
    shutil.copytree(directory, earlier)
    db = sqlite3.connect(earlier / INDEX_NAME)
    for table in ("former_tenant_keys", "rotations", "backups"):
        db.execute(f"DROP TABLE {table}")
    db.execute("DELETE FROM meta WHERE name = 'epoch'")
    db.execute("UPDATE meta SET value = 1 WHERE name = 'format'")
    db.commit()
    db.close()
    (earlier / "rotation.lock").unlink()
    opened = FileKeyring.open(earlier, root_keys)
    again = FileKeyring.open(earlier, root_keys)
    assert people(opened) == known
    opened.rotate_tenant("acme", now=NOW)
    rotate_root(opened.files, NEW.key_id, now=NOW)
    assert people(again) == known
    assert opened.files.index.number("format") == 2
    opened.close()
    again.close()


def test_a_disk_that_fails_in_the_middle_is_passing_trouble(
    keyring: FileKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = people(keyring)
    write, left = SlotFile.write, [100]

    def failing(self: SlotFile, slot: int, image: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise ProviderUnavailableError("keyring", reason="could not use its slots file: No space left on device")
        write(self, slot, image)

    monkeypatch.setattr(SlotFile, "write", failing)
    with pytest.raises(ProviderUnavailableError):
        keyring.rotate_tenant("acme", now=NOW)
    assert people(keyring) == known
    monkeypatch.undo()
    keyring.rotate_tenant("acme", now=NOW)
    assert people(keyring) == known
    assert len(keyring.tenant_key("acme").former) == 1
