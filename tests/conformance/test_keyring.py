"""What every `Keyring` promises, on each implementation, and against a model of plain dictionaries."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cloud.kernel.errors import KeyDestroyedError, ProviderUnavailableError
from cloud.keys.inmemory import InMemoryKeyring
from cloud.keys.ports import Keyring
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sqlite import FileKeyring

NOW = datetime(2026, 11, 5, tzinfo=UTC)

MakeKeyring = Callable[[], AbstractContextManager[Keyring]]


class KeyringContract:
    """Subclasses say how to make an empty keyring."""

    def make(self) -> AbstractContextManager[Keyring]:
        raise NotImplementedError

    @pytest.fixture
    def keyring(self) -> Iterator[Keyring]:
        with self.make() as keyring:
            keyring.create_tenant("acme")
            keyring.create_tenant("acme2")
            yield keyring

    def test_a_person_resolves_to_one_subject(self, keyring: Keyring) -> None:
        first = keyring.resolve_subject("acme", "alice", create=True)
        assert first is not None
        assert keyring.resolve_subject("acme", "alice", create=True) == first
        assert keyring.resolve_subject("acme", "alice", create=False) == first
        assert keyring.subject_key("acme", first.subject_id) == first
        assert (first.tenant_id, len(first.key)) == ("acme", 32)

    def test_nothing_is_made_without_being_asked_for(self, keyring: Keyring) -> None:
        assert keyring.resolve_subject("acme", "alice", create=False) is None
        assert keyring.subjects("acme") == ()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("acme", "alice"), ("acme", "bob")),
            (("acme", "alice"), ("acme2", "alice")),
            (("acme", "2alice"), ("acme2", "alice")),
            (("acme", "alice"), ("acme", "Alice")),
            (("acme", "alice"), ("acme", "alice ")),
            (("acme", ""), ("acme", "\0")),
            (("acme", "\ud800"), ("acme", "?")),
        ],
    )
    def test_two_people_never_share_subject_or_key(
        self, keyring: Keyring, one: tuple[str, str], other: tuple[str, str]
    ) -> None:
        first = keyring.resolve_subject(*one, create=True)
        second = keyring.resolve_subject(*other, create=True)
        assert first is not None
        assert second is not None
        assert first.subject_id != second.subject_id
        assert first.key != second.key

    def test_another_tenants_subject_looks_like_an_absent_one(self, keyring: Keyring) -> None:
        alice = keyring.resolve_subject("acme", "alice", create=True)
        assert alice is not None
        assert keyring.subject_key("acme2", alice.subject_id) is None
        assert keyring.subject_key("nobody", alice.subject_id) is None
        assert keyring.destroy_subject("acme2", alice.subject_id) is False
        keyring.forget("acme2", alice.subject_id)
        assert keyring.subject_key("acme", alice.subject_id) == alice

    def test_a_destroyed_subject_is_gone_and_the_person_comes_back_as_another(self, keyring: Keyring) -> None:
        old = keyring.resolve_subject("acme", "alice", create=True)
        bob = keyring.resolve_subject("acme", "bob", create=True)
        assert old is not None
        assert keyring.destroy_subject("acme", old.subject_id) is True
        assert keyring.destroy_subject("acme", old.subject_id) is False
        assert keyring.subject_key("acme", old.subject_id) is None
        assert keyring.resolve_subject("acme", "alice", create=False) is None
        new = keyring.resolve_subject("acme", "alice", create=True)
        assert new is not None
        assert new.subject_id != old.subject_id
        assert new.key != old.key
        assert keyring.subject_key("acme", old.subject_id) is None
        assert keyring.resolve_subject("acme", "bob", create=False) == bob

    def test_forgetting_does_not_destroy(self, keyring: Keyring) -> None:
        alice = keyring.resolve_subject("acme", "alice", create=True)
        assert alice is not None
        keyring.forget("acme", alice.subject_id)
        keyring.forget("acme", "unknown")
        assert keyring.subject_key("acme", alice.subject_id) == alice
        assert keyring.resolve_subject("acme", "alice", create=False) == alice

    def test_subjects_are_listed_by_tenant(self, keyring: Keyring) -> None:
        made = [keyring.resolve_subject("acme", f"user-{number}", create=True) for number in range(5)]
        assert keyring.subjects("acme") == tuple(sorted(key.subject_id for key in made if key is not None))
        assert keyring.subjects("acme2") == ()
        assert keyring.subjects("nobody") == ()

    def test_a_tenants_key_is_kept_by_creating_it_again(self, keyring: Keyring) -> None:
        key = keyring.tenant_key("acme")
        keyring.create_tenant("acme")
        assert keyring.tenant_key("acme") == key
        assert keyring.tenant_key("acme2").key != key.key

    def test_an_unknown_tenant_has_no_keys(self, keyring: Keyring) -> None:
        with pytest.raises(KeyDestroyedError):
            keyring.tenant_key("nobody")
        with pytest.raises(KeyDestroyedError):
            keyring.resolve_subject("nobody", "alice", create=True)
        assert keyring.resolve_subject("nobody", "alice", create=False) is None
        assert keyring.destroy_tenant("nobody") is False

    def test_a_destroyed_tenant_takes_its_subjects_along_and_nobody_elses(self, keyring: Keyring) -> None:
        old_key = keyring.tenant_key("acme")
        alice = keyring.resolve_subject("acme", "alice", create=True)
        other = keyring.resolve_subject("acme2", "alice", create=True)
        assert alice is not None
        assert keyring.destroy_tenant("acme") is True
        assert keyring.destroy_tenant("acme") is False
        assert keyring.subjects("acme") == ()
        assert keyring.subject_key("acme", alice.subject_id) is None
        assert keyring.resolve_subject("acme", "alice", create=False) is None
        with pytest.raises(KeyDestroyedError):
            keyring.tenant_key("acme")
        keyring.create_tenant("acme")
        assert keyring.tenant_key("acme").key != old_key.key
        assert keyring.resolve_subject("acme", "alice", create=False) is None
        assert keyring.resolve_subject("acme2", "alice", create=False) == other

    def test_a_rotated_tenant_has_a_new_key_and_people_keep_theirs(self, keyring: Keyring) -> None:
        before = keyring.tenant_key("acme")
        people = [keyring.resolve_subject("acme", f"user-{number}", create=True) for number in range(5)]
        elsewhere = keyring.tenant_key("acme2")
        assert keyring.rotate_tenant("acme", now=NOW).unreadable == 0
        once = keyring.tenant_key("acme")
        assert once.key != before.key
        assert once.versions == (once.key, before.key)
        keyring.rotate_tenant("acme", now=NOW)
        twice = keyring.tenant_key("acme")
        assert twice.versions == (twice.key, once.key, before.key)
        assert before.first == once.first == twice.first, "keyed hashes of before could not be compared any more"
        assert [keyring.resolve_subject("acme", f"user-{number}", create=True) for number in range(5)] == people
        assert keyring.resolve_subject("acme", "new", create=True) is not None
        assert keyring.tenant_key("acme2") == elsewhere

    def test_a_rotation_brings_nobody_back(self, keyring: Keyring) -> None:
        alice = keyring.resolve_subject("acme", "alice", create=True)
        assert alice is not None
        keyring.destroy_subject("acme", alice.subject_id)
        keyring.rotate_tenant("acme", now=NOW)
        assert keyring.subject_key("acme", alice.subject_id) is None
        keyring.destroy_tenant("acme")
        with pytest.raises(KeyDestroyedError):
            keyring.rotate_tenant("acme", now=NOW)
        keyring.create_tenant("acme")
        assert keyring.tenant_key("acme").former == (), "the former keys belong to a tenant that is gone"

    def test_a_keyring_without_backups_says_so(self, keyring: Keyring) -> None:
        assert keyring.backups() == ()

    def test_threads_resolve_a_new_person_to_one_subject(self, keyring: Keyring) -> None:
        start = threading.Barrier(8)

        def resolve(_thread: int) -> list[str]:
            start.wait()
            keys = [keyring.resolve_subject("acme", f"user-{number}", create=True) for number in range(20)]
            return [key.subject_id for key in keys if key is not None]

        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(resolve, range(8)))
        assert len(seen[0]) == len(set(seen[0])) == 20
        assert all(ids == seen[0] for ids in seen)
        assert keyring.subjects("acme") == tuple(sorted(seen[0]))

    def test_a_closed_keyring_answers_nothing(self, keyring: Keyring) -> None:
        keyring.close()
        keyring.close()
        for call in (
            lambda: keyring.resolve_subject("acme", "alice", create=True),
            lambda: keyring.subject_key("acme", "x"),
            lambda: keyring.destroy_subject("acme", "x"),
            lambda: keyring.subjects("acme"),
            lambda: keyring.create_tenant("acme"),
            lambda: keyring.tenant_key("acme"),
            lambda: keyring.destroy_tenant("acme"),
            lambda: keyring.rotate_tenant("acme", now=NOW),
            lambda: keyring.backups(),
        ):
            with pytest.raises(ProviderUnavailableError):
                call()

    def test_any_history_agrees_with_plain_dictionaries(self) -> None:
        class Machine(KeyringMachine):
            make = staticmethod(self.make)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=30,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


class KeyringMachine(RuleBasedStateMachine):
    """The model: links as (tenant, user) → subject id, keys as subject id → bytes, and what was destroyed."""

    tenants = st.sampled_from(("acme", "acme2"))
    users = st.sampled_from(("alice", "bob", "2alice"))

    make: MakeKeyring

    def __init__(self) -> None:
        super().__init__()
        self.made = self.make()
        self.keyring = self.made.__enter__()
        self.tenant_keys: dict[str, bytes] = {}
        self.links: dict[tuple[str, str], str] = {}
        self.keys: dict[str, bytes] = {}
        self.destroyed: set[tuple[str, str]] = set()

    def teardown(self) -> None:
        self.made.__exit__(None, None, None)

    @initialize()
    def create_acme(self) -> None:
        self.create_tenant("acme")

    @rule(tenant=tenants)
    def create_tenant(self, tenant: str) -> None:
        self.keyring.create_tenant(tenant)
        key = self.keyring.tenant_key(tenant).key
        assert self.tenant_keys.setdefault(tenant, key) == key

    @rule(tenant=tenants)
    def rotate_tenant(self, tenant: str) -> None:
        if tenant not in self.tenant_keys:
            with pytest.raises(KeyDestroyedError):
                self.keyring.rotate_tenant(tenant, now=NOW)
            return
        self.keyring.rotate_tenant(tenant, now=NOW)
        rotated = self.keyring.tenant_key(tenant)
        assert rotated.former[-1] == self.tenant_keys[tenant] != rotated.key
        self.tenant_keys[tenant] = rotated.key

    @rule(tenant=tenants)
    def destroy_tenant(self, tenant: str) -> None:
        assert self.keyring.destroy_tenant(tenant) is (self.tenant_keys.pop(tenant, None) is not None)
        for link in [link for link in self.links if link[0] == tenant]:
            self.destroyed.add((tenant, self.links.pop(link)))

    @rule(tenant=tenants, user=users, create=st.booleans())
    def resolve(self, tenant: str, user: str, create: bool) -> None:
        if create and tenant not in self.tenant_keys:
            with pytest.raises(KeyDestroyedError):
                self.keyring.resolve_subject(tenant, user, create=True)
            return
        found = self.keyring.resolve_subject(tenant, user, create=create)
        if not create and (tenant, user) not in self.links:
            assert found is None
            return
        assert found is not None
        if (tenant, user) not in self.links:
            assert found.subject_id not in self.keys
            assert found.key not in self.keys.values()
            self.links[tenant, user] = found.subject_id
            self.keys[found.subject_id] = found.key
        assert (found.subject_id, found.key) == (self.links[tenant, user], self.keys[found.subject_id])

    @rule(tenant=tenants, user=users, drop=st.booleans())
    def use(self, tenant: str, user: str, drop: bool) -> None:
        subject_id = self.links.get((tenant, user))
        if subject_id is not None:
            if drop:
                self.keyring.forget(tenant, subject_id)
            found = self.keyring.subject_key(tenant, subject_id)
            assert found is not None
            assert found.key == self.keys[subject_id]

    @rule(tenant=tenants, user=users)
    def destroy_subject(self, tenant: str, user: str) -> None:
        subject_id = self.links.pop((tenant, user), None)
        if subject_id is not None:
            assert self.keyring.destroy_subject(tenant, subject_id) is True
            self.destroyed.add((tenant, subject_id))

    @invariant()
    def destroyed_subjects_stay_destroyed(self) -> None:
        for tenant, subject_id in self.destroyed:
            assert self.keyring.subject_key(tenant, subject_id) is None

    @invariant()
    def subjects_are_those_linked(self) -> None:
        for tenant in ("acme", "acme2"):
            linked = sorted(subject for (owner, _), subject in self.links.items() if owner == tenant)
            assert self.keyring.subjects(tenant) == tuple(linked)


@contextmanager
def in_memory() -> Iterator[Keyring]:
    keyring = InMemoryKeyring()
    yield keyring
    keyring.close()


@contextmanager
def in_files(*, cached_keys: int) -> Iterator[Keyring]:
    with tempfile.TemporaryDirectory() as parent:
        # Few spares, so that histories run out of them and use destroyed slots again.
        keyring = FileKeyring.open(
            Path(parent) / "keyring", LocalRootKey(bytes(32)), create=True, spare_keys=3, cached_keys=cached_keys
        )
        yield keyring
        keyring.close()


class TestInMemoryKeyring(KeyringContract):
    def make(self) -> AbstractContextManager[Keyring]:
        return in_memory()


class TestFileKeyring(KeyringContract):
    def make(self) -> AbstractContextManager[Keyring]:
        return in_files(cached_keys=100)


class TestFileKeyringWithoutRoomToCache(KeyringContract):
    def make(self) -> AbstractContextManager[Keyring]:
        return in_files(cached_keys=1)
