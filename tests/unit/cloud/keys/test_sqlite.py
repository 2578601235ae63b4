"""The durable keyring: what stays on disk, what two openings see of each other, and what is refused at opening."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud.keys.layout
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, SealBrokenError
from cloud.keys.cache import CachedKey, KeyCache
from cloud.keys.index import SqliteIndex, SubjectRow
from cloud.keys.layout import INDEX_NAME, SLOTS_NAME
from cloud.keys.model import SLOT_BYTES, KeyringCounts, SubjectKey, TenantKey, pack_slot
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.slots import SlotFile
from cloud.keys.sqlite import FileKeyring
from tests.unit.cloud.keys.conftest import record

JOURNAL_NAME = INDEX_NAME + "-journal"


@pytest.fixture
def other(keyring: FileKeyring, directory: Path, root_key: LocalRootKey) -> Iterator[FileKeyring]:
    """A second opening of the same keyring, as another process has it."""
    other = FileKeyring.open(directory, root_key)
    yield other
    other.close()


def resolve(keyring: FileKeyring, user_id: str, tenant_id: str = "acme") -> SubjectKey:
    key = keyring.resolve_subject(tenant_id, user_id, create=True)
    assert key is not None
    return key


def slot_of(directory: Path, owner_id: str) -> int:
    """The slot of a subject or tenant, read around the implementation."""
    db = sqlite3.connect(directory / INDEX_NAME)
    try:
        query = "SELECT slot FROM subjects WHERE subject_id = ?1 UNION SELECT slot FROM tenants WHERE tenant_id = ?1"
        (row,) = db.execute(query, (owner_id,)).fetchall()
        return int(row[0])
    finally:
        db.close()


def image_of(directory: Path, slot: int) -> bytes:
    return (directory / SLOTS_NAME).read_bytes()[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]


def everything_in(directory: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


class TestAtRest:
    def test_files_are_for_their_owner_alone(self, keyring: FileKeyring, directory: Path) -> None:
        resolve(keyring, "alice")
        assert directory.stat().st_mode & 0o777 == 0o700
        (attendance,) = [path.name for path in directory.glob("open-*")]
        assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == dict.fromkeys(
            (SLOTS_NAME, INDEX_NAME, JOURNAL_NAME, "writer.lock", "rotation.lock", attendance), 0o600
        )

    def test_neither_user_ids_nor_keys_are_written_in_the_clear(self, keyring: FileKeyring, directory: Path) -> None:
        keys = [resolve(keyring, f"person-{number}@example.org") for number in range(70)]
        found = everything_in(directory)
        assert keys[0].subject_id.encode() in found  # the search can find what is there
        assert b"person-" not in found
        assert b"example.org" not in found
        for key in (*(key.key for key in keys), keyring.tenant_key("acme").key):
            assert key not in found
            assert key.hex().encode() not in found

    def test_wrapped_keys_are_in_slots_only(self, keyring: FileKeyring, directory: Path) -> None:
        images = [image_of(directory, slot_of(directory, resolve(keyring, f"u{n}").subject_id)) for n in range(5)]
        index = (directory / INDEX_NAME).read_bytes() + (directory / JOURNAL_NAME).read_bytes()
        for image in images:
            assert image[15:63] != bytes(48)
            assert image[15:63] not in index

    def test_destruction_leaves_no_wrapped_key_tag_or_subject_id_in_any_file(
        self, keyring: FileKeyring, directory: Path
    ) -> None:
        keys = [resolve(keyring, f"user-{number}") for number in range(150)]
        db = sqlite3.connect(directory / INDEX_NAME)
        tags: dict[str, bytes] = dict(db.execute("SELECT subject_id, tag FROM subjects").fetchall())
        db.close()
        doomed, living = keys[:140], keys[140:]
        wrapped = {key.subject_id: image_of(directory, slot_of(directory, key.subject_id))[2:63] for key in keys}
        for key in doomed:
            assert keyring.destroy_subject("acme", key.subject_id)
        found = everything_in(directory)
        for key in living:
            for trace in (wrapped[key.subject_id], tags[key.subject_id], key.subject_id.encode()):
                assert trace in found
        for key in doomed:
            for trace in (wrapped[key.subject_id], tags[key.subject_id], key.subject_id.encode()):
                assert trace not in found

    def test_a_destroyed_tenant_leaves_nothing_either(self, keyring: FileKeyring, directory: Path) -> None:
        keyring.create_tenant("doomed-tenant")
        keys = [resolve(keyring, f"user-{number}", "doomed-tenant") for number in range(100)]
        slots = [slot_of(directory, owner) for owner in ("doomed-tenant", *(key.subject_id for key in keys))]
        wrapped = [image_of(directory, slot)[2:63] for slot in slots]
        keyring.destroy_tenant("doomed-tenant")
        assert keyring.counts().spares == 64  # acme's own
        found = everything_in(directory)
        for trace in (b"doomed-tenant", *wrapped, *(key.subject_id.encode() for key in keys)):
            assert trace not in found

    def test_the_slot_of_a_destroyed_key_is_overwritten_before_the_index_changes(
        self, keyring: FileKeyring, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = resolve(keyring, "alice")
        slot = slot_of(directory, alice.subject_id)
        before = image_of(directory, slot)
        seen: list[bytes] = []
        delete_subject = SqliteIndex.delete_subject

        def observe(index: SqliteIndex, row: SubjectRow) -> None:
            seen.append(image_of(directory, slot))
            delete_subject(index, row)

        monkeypatch.setattr(SqliteIndex, "delete_subject", observe)
        keyring.destroy_subject("acme", alice.subject_id)
        assert len(seen) == 1
        assert seen[0] != before
        assert before[2:63] not in everything_in(directory)


class TestSpares:
    def test_their_slots_are_durable_before_the_index_names_them(
        self, keyring: FileKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = record(monkeypatch, (SlotFile, "write"), (SlotFile, "sync"), (SqliteIndex, "add_spares"))
        keyring.create_tenant("acme2")
        assert calls == ["write"] * 65 + ["sync", "add_spares"]

    def test_slots_are_used_again_and_counted(
        self, directory: Path, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud.keys.layout, "_SLOTS_AT_A_TIME", 16)
        keyring = FileKeyring.open(directory, root_key, create=True, spare_keys=4)
        keyring.create_tenant("acme")
        for number in range(40):
            keyring.destroy_subject("acme", resolve(keyring, f"user-{number}").subject_id)
        # 16 slots are enough for 40 people who are never there together; 40 is a multiple of 4.
        assert keyring.counts() == KeyringCounts(tenants=1, subjects=0, spares=0, free_slots=15)
        assert (directory / SLOTS_NAME).stat().st_size == (2 + 16) * SLOT_BYTES
        keyring.close()

    def test_the_file_grows_when_slots_run_out(self, directory: Path, root_key: LocalRootKey) -> None:
        keyring = FileKeyring.open(directory, root_key, create=True, spare_keys=700)
        for tenant in ("a", "b", "c"):
            keyring.create_tenant(tenant)
        keys = [resolve(keyring, "alice", tenant) for tenant in ("a", "b", "c")]
        keyring.close()
        again = FileKeyring.open(directory, root_key)
        assert [again.subject_key(key.tenant_id, key.subject_id) for key in keys] == keys
        again.close()

    def test_keys_made_ahead_that_are_dropped_become_nobodys(self, keyring: FileKeyring, directory: Path) -> None:
        alice = resolve(keyring, "alice")
        db = sqlite3.connect(directory / INDEX_NAME)
        ahead = dict(db.execute("SELECT subject_id, slot FROM spares").fetchall())
        db.close()
        images = {image_of(directory, slot) for slot in ahead.values()}
        epoch = keyring.files.index.number("epoch")
        assert keyring.drop_spares("acme") == len(ahead) > 0
        assert keyring.files.index.number("epoch") == epoch, "a copy from earlier stays one"
        assert images & {image_of(directory, slot) for slot in ahead.values()} == set()
        assert resolve(keyring, "bob").subject_id not in ahead
        assert resolve(keyring, "alice") == alice
        assert keyring.drop_spares("acme2") == 0


class TestTwoOpenings:
    def test_what_one_makes_the_other_finds(self, keyring: FileKeyring, other: FileKeyring) -> None:
        alice = resolve(keyring, "alice")
        assert resolve(other, "alice") == alice
        assert other.tenant_key("acme") == keyring.tenant_key("acme")

    def test_a_cached_key_is_not_used_once_the_other_destroyed_it(
        self, keyring: FileKeyring, other: FileKeyring
    ) -> None:
        alice = resolve(keyring, "alice")
        assert resolve(other, "alice") == alice
        keyring.destroy_subject("acme", alice.subject_id)
        assert other.subject_key("acme", alice.subject_id) is None
        assert other.resolve_subject("acme", "alice", create=False) is None

    def test_nor_when_its_slot_holds_somebody_else_by_now(
        self, directory: Path, root_key: LocalRootKey, keyring: FileKeyring
    ) -> None:
        one = FileKeyring.open(directory, root_key, spare_keys=1)
        one.create_tenant("small")
        alice = resolve(one, "alice", "small")
        assert resolve(keyring, "alice", "small") == alice
        slot = slot_of(directory, alice.subject_id)
        one.destroy_subject("small", alice.subject_id)
        bob = resolve(one, "bob", "small")
        assert slot_of(directory, bob.subject_id) == slot
        assert keyring.subject_key("small", alice.subject_id) is None
        assert keyring.resolve_subject("small", "alice", create=False) is None
        assert keyring.subject_key("small", bob.subject_id) == bob
        one.close()

    def test_a_destroyed_tenant_is_gone_for_both(self, keyring: FileKeyring, other: FileKeyring) -> None:
        alice = resolve(other, "alice")
        old = other.tenant_key("acme")
        keyring.destroy_tenant("acme")
        assert other.subject_key("acme", alice.subject_id) is None
        with pytest.raises(KeyDestroyedError):
            other.tenant_key("acme")
        with pytest.raises(KeyDestroyedError):
            other.resolve_subject("acme", "alice", create=True)
        keyring.create_tenant("acme")
        assert other.tenant_key("acme") == keyring.tenant_key("acme") != old

    def test_a_link_made_in_between_wins(
        self, keyring: FileKeyring, other: FileKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[SubjectKey] = []
        link = FileKeyring._link

        def after_the_other(self: FileKeyring, tenant_id: str, tag: bytes) -> None:
            if self is keyring:
                made.append(resolve(other, "alice"))
            link(self, tenant_id, tag)

        monkeypatch.setattr(FileKeyring, "_link", after_the_other)
        assert [resolve(keyring, "alice")] == made
        assert keyring.subjects("acme") == (made[0].subject_id,)

    def test_a_key_destroyed_while_it_is_read_is_neither_returned_nor_kept(
        self, keyring: FileKeyring, other: FileKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = resolve(keyring, "alice")
        keyring.forget("acme", alice.subject_id)
        put = KeyCache.put

        def overtaken(cache: KeyCache[SubjectKey], entry: CachedKey[SubjectKey]) -> None:
            if cache is keyring._subjects:
                other.destroy_subject("acme", alice.subject_id)
            put(cache, entry)

        monkeypatch.setattr(KeyCache, "put", overtaken)
        assert keyring.subject_key("acme", alice.subject_id) is None
        assert keyring._subjects.get(alice.subject_id) is None

    def test_nobody_is_linked_under_a_tenant_that_was_destroyed_meanwhile(
        self, keyring: FileKeyring, other: FileKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        require_tenant = FileKeyring._require_tenant

        def overtaken(self: FileKeyring, tenant_id: str) -> CachedKey[TenantKey]:
            found = require_tenant(self, tenant_id)
            other.destroy_tenant(tenant_id)
            return found

        monkeypatch.setattr(FileKeyring, "_require_tenant", overtaken)
        with pytest.raises(KeyDestroyedError):
            keyring.resolve_subject("acme", "alice", create=True)
        counts = keyring.counts()
        assert (counts.tenants, counts.subjects, counts.spares) == (0, 0, 0)


class TestInterruptedDestruction:
    @pytest.mark.parametrize("access", ["resolve", "key", "destroy", "create"])
    def test_it_is_finished_by_whoever_comes_next(
        self,
        keyring: FileKeyring,
        directory: Path,
        root_key: LocalRootKey,
        monkeypatch: pytest.MonkeyPatch,
        access: str,
    ) -> None:
        alice = resolve(keyring, "alice")
        with monkeypatch.context() as patched:
            patched.setattr(SqliteIndex, "delete_subject", _die)
            with pytest.raises(KeyboardInterrupt):
                keyring.destroy_subject("acme", alice.subject_id)
        keyring.close()
        again = FileKeyring.open(directory, root_key)
        assert again.subjects("acme") == (alice.subject_id,)
        match access:
            case "resolve":
                assert again.resolve_subject("acme", "alice", create=False) is None
            case "key":
                assert again.subject_key("acme", alice.subject_id) is None
            case "destroy":
                assert again.destroy_subject("acme", alice.subject_id) is True
            case _:
                assert resolve(again, "alice").subject_id != alice.subject_id
        assert alice.subject_id not in again.subjects("acme")
        assert alice.subject_id.encode() not in everything_in(directory)
        again.close()

    def test_copies_of_a_link_in_the_journal_are_gone_after_the_next_opening(
        self,
        keyring: FileKeyring,
        directory: Path,
        root_key: LocalRootKey,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        alice = resolve(keyring, "alice")
        with monkeypatch.context() as patched:
            patched.setattr(SqliteIndex, "scrub_journal", _die)
            with pytest.raises(KeyboardInterrupt):
                keyring.destroy_subject("acme", alice.subject_id)
        keyring.close()
        assert alice.subject_id.encode() in (directory / JOURNAL_NAME).read_bytes()
        FileKeyring.open(directory, root_key).close()
        assert alice.subject_id.encode() not in everything_in(directory)

    def test_a_tenants_destruction_is_finished_too(
        self,
        keyring: FileKeyring,
        directory: Path,
        root_key: LocalRootKey,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        alice = resolve(keyring, "alice")
        with monkeypatch.context() as patched:
            patched.setattr(SqliteIndex, "delete_tenant", _die)
            with pytest.raises(KeyboardInterrupt):
                keyring.destroy_tenant("acme")
        keyring.close()
        again = FileKeyring.open(directory, root_key)
        with pytest.raises(KeyDestroyedError):
            again.tenant_key("acme")
        assert again.subjects("acme") == ()
        assert again.subject_key("acme", alice.subject_id) is None
        again.create_tenant("acme")
        assert again.resolve_subject("acme", "alice", create=False) is None
        again.close()

    def test_finishing_spares_a_tenant_of_the_same_name_made_since(
        self, keyring: FileKeyring, other: FileKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`keyring` read the old slot number; `other` destroys the tenant and makes it anew before it goes on."""
        made: list[bytes] = []
        tenant_slot = SqliteIndex.tenant_slot

        def overtaken(index: SqliteIndex, tenant_id: str) -> int | None:
            found = tenant_slot(index, tenant_id)
            if index is keyring._index and not made:
                made.append(b"")
                other.create_tenant("lowest slot, so that the new tenant gets another")
                other.destroy_tenant(tenant_id)
                other.create_tenant("takes the slot that was freed")
                other.create_tenant(tenant_id)
                other.destroy_tenant("takes the slot that was freed")
                made.append(other.tenant_key(tenant_id).key)
            return found

        monkeypatch.setattr(SqliteIndex, "tenant_slot", overtaken)
        keyring._tenants.clear()
        assert keyring.tenant_key("acme").key == made[1]
        assert other.tenant_key("acme").key == made[1]


def _die(*_given: object) -> None:
    raise KeyboardInterrupt


class TestDamage:
    def test_a_missing_keyring_is_not_made_unless_asked_for(self, directory: Path, root_key: LocalRootKey) -> None:
        with pytest.raises(ConfigurationError, match="no keyring"):
            FileKeyring.open(directory, root_key)
        assert not directory.exists()
        directory.mkdir(mode=0o700)
        with pytest.raises(ConfigurationError, match="no keyring"):
            FileKeyring.open(directory, root_key)
        FileKeyring.open(directory, root_key, create=True).close()
        assert sorted(directory.parent.iterdir()) == [directory]

    @pytest.mark.parametrize("name", [SLOTS_NAME, INDEX_NAME])
    @pytest.mark.parametrize("create", [False, True])
    def test_a_lost_file_is_never_replaced_by_an_empty_one(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey, name: str, create: bool
    ) -> None:
        keyring.close()
        (directory / name).unlink()
        with pytest.raises(ConfigurationError, match="backup"):
            FileKeyring.open(directory, root_key, create=create)
        assert not (directory / name).exists()

    def test_another_root_key_is_refused_by_name(self, keyring: FileKeyring, directory: Path) -> None:
        keyring.close()
        with pytest.raises(ConfigurationError, match="made with root key"):
            FileKeyring.open(directory, LocalRootKey(b"\7" * 32), create=True)

    def test_a_root_key_that_only_has_the_right_name_is_refused(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keyring.close()
        monkeypatch.setattr(LocalRootKey, "key_id", root_key.key_id)
        with pytest.raises(ConfigurationError, match="does not open"):
            FileKeyring.open(directory, LocalRootKey(b"\7" * 32))

    def test_files_of_two_keyrings_do_not_go_together(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey, tmp_path: Path
    ) -> None:
        keyring.close()
        FileKeyring.open(tmp_path / "second", root_key, create=True).close()
        (tmp_path / "second" / SLOTS_NAME).rename(directory / SLOTS_NAME)
        with pytest.raises(ConfigurationError, match="belong together"):
            FileKeyring.open(directory, root_key)

    def test_a_cut_slots_file_is_refused(self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey) -> None:
        keyring.close()
        path = directory / SLOTS_NAME
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ConfigurationError):
            FileKeyring.open(directory, root_key)

    @pytest.mark.parametrize("damage", [b"", b"x" * 8192])
    def test_a_damaged_index_is_refused(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey, damage: bytes
    ) -> None:
        keyring.close()
        (directory / INDEX_NAME).write_bytes(damage)
        with pytest.raises(ConfigurationError, match="damaged"):
            FileKeyring.open(directory, root_key)

    def test_damage_inside_the_index_is_found_at_opening(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        keyring.close()
        path = directory / INDEX_NAME
        content = bytearray(path.read_bytes())
        for page in range(1, len(content) // 4096):
            content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="damaged"):
            FileKeyring.open(directory, root_key)

    def test_an_index_of_a_later_version_is_refused(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        keyring.close()
        db = sqlite3.connect(directory / INDEX_NAME)
        db.execute("UPDATE meta SET value = 3 WHERE name = 'format'")
        db.commit()
        db.close()
        with pytest.raises(ConfigurationError, match="format 3"):
            FileKeyring.open(directory, root_key)

    def test_a_directory_open_to_others_is_refused(
        self, keyring: FileKeyring, directory: Path, root_key: LocalRootKey
    ) -> None:
        keyring.close()
        directory.chmod(0o750)
        with pytest.raises(ConfigurationError, match="chmod 700"):
            FileKeyring.open(directory, root_key)

    @pytest.mark.parametrize("image", [bytes(SLOT_BYTES), b"\xff" * SLOT_BYTES, pack_slot(bytes(61))])
    def test_a_damaged_slot_is_an_error_and_not_an_erasure(
        self, keyring: FileKeyring, directory: Path, image: bytes
    ) -> None:
        alice = resolve(keyring, "alice")
        slot = slot_of(directory, alice.subject_id)
        with (directory / SLOTS_NAME).open("r+b") as file:
            file.seek(slot * SLOT_BYTES)
            file.write(image)
        for create in (False, True):
            with pytest.raises(SealBrokenError):
                keyring.resolve_subject("acme", "alice", create=create)
        with pytest.raises(SealBrokenError):
            keyring.subject_key("acme", alice.subject_id)
        assert keyring.subjects("acme") == (alice.subject_id,)
        assert keyring.destroy_subject("acme", alice.subject_id) is True

    def test_wrapped_keys_do_not_open_in_each_others_slots(self, keyring: FileKeyring, directory: Path) -> None:
        alice, bob = resolve(keyring, "alice"), resolve(keyring, "bob")
        theirs = image_of(directory, slot_of(directory, bob.subject_id))
        slot = slot_of(directory, alice.subject_id)
        with (directory / SLOTS_NAME).open("r+b") as file:
            file.seek(slot * SLOT_BYTES)
            file.write(theirs)
        with pytest.raises(SealBrokenError):
            keyring.subject_key("acme", alice.subject_id)

    @pytest.mark.parametrize("given", [{"spare_keys": 0}, {"cached_keys": 0}])
    def test_senseless_sizes_are_refused(self, directory: Path, root_key: LocalRootKey, given: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError):
            FileKeyring.open(directory, root_key, create=True, **given)
