"""A keyring that is only looked into: it hands out keys as any, and no byte of its files changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.kernel.errors import ConfigurationError, KeyDestroyedError
from cloud.keys.layout import INDEX_NAME, SLOTS_NAME
from cloud.keys.readonly import ReadOnlyKeyring
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sqlite import FileKeyring
from tests.unit.cloud.keys.test_sqlite import resolve, slot_of


@pytest.fixture
def looked_into(keyring: FileKeyring, directory: Path, root_key: LocalRootKey) -> Iterator[ReadOnlyKeyring]:
    """The keyring as a drill opens it, beside the service that uses it."""
    resolve(keyring, "alice")
    resolve(keyring, "bob")
    opened = ReadOnlyKeyring.open(directory, root_key)
    assert isinstance(opened, ReadOnlyKeyring)
    yield opened
    opened.close()


def files_of(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in (SLOTS_NAME, INDEX_NAME)]


def test_keys_are_found_as_in_the_keyring_itself(keyring: FileKeyring, looked_into: ReadOnlyKeyring) -> None:
    alice = resolve(keyring, "alice")
    assert looked_into.resolve_subject("acme", "alice", create=True) == alice
    assert looked_into.subject_key("acme", alice.subject_id) == alice
    assert looked_into.tenant_key("acme") == keyring.tenant_key("acme")


CHANGES: dict[str, Callable[[ReadOnlyKeyring, str], object]] = {
    "a new person": lambda keyring, _: keyring.resolve_subject("acme", "carol", create=True),
    "destroy_subject": lambda keyring, alice: keyring.destroy_subject("acme", alice),
    "destroy_tenant": lambda keyring, _: keyring.destroy_tenant("acme"),
    "a tenant without people": lambda keyring, _: keyring.destroy_tenant("nobodys"),
    "drop_spares": lambda keyring, _: keyring.drop_spares("acme"),
    "rotate_tenant": lambda keyring, _: keyring.rotate_tenant("acme", now=datetime.now(UTC)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_change_it_is_refused(
    keyring: FileKeyring, looked_into: ReadOnlyKeyring, directory: Path, change: str
) -> None:
    keyring.create_tenant("nobodys")
    alice, before = resolve(keyring, "alice").subject_id, files_of(directory)
    with pytest.raises(ConfigurationError, match="only looked into"):
        CHANGES[change](looked_into, alice)
    assert files_of(directory) == before


def test_to_destroy_what_is_not_there_changes_nothing(looked_into: ReadOnlyKeyring, directory: Path) -> None:
    before = files_of(directory)
    assert looked_into.destroy_subject("acme", "00000000-0000-0000-0000-000000000000") is False
    assert looked_into.destroy_tenant("nobody-here") is False
    with pytest.raises(KeyDestroyedError):
        looked_into.create_tenant("nobody-here")
    assert files_of(directory) == before


def test_a_persons_key_whose_destruction_was_cut_off_is_absent_and_left_to_the_service(
    keyring: FileKeyring, looked_into: ReadOnlyKeyring, directory: Path
) -> None:
    alice, bob = resolve(keyring, "alice"), resolve(keyring, "bob")
    keyring.files.slots.destroy((slot_of(directory, alice.subject_id),))
    before = files_of(directory)
    assert looked_into.subject_key("acme", alice.subject_id) is None
    assert looked_into.resolve_subject("acme", "alice", create=False) is None
    assert looked_into.destroy_subject("acme", alice.subject_id) is False
    assert looked_into.subject_key("acme", bob.subject_id) == bob
    assert files_of(directory) == before
    assert keyring.subject_key("acme", alice.subject_id) is None
    assert keyring.subjects("acme") == (bob.subject_id,)


def test_a_tenants_key_whose_destruction_was_cut_off_is_absent_and_left_to_the_service(
    keyring: FileKeyring, looked_into: ReadOnlyKeyring, directory: Path
) -> None:
    alice = resolve(keyring, "alice")
    keyring.files.slots.destroy((slot_of(directory, "acme"),))
    before = files_of(directory)
    with pytest.raises(KeyDestroyedError):
        looked_into.tenant_key("acme")
    assert looked_into.subject_key("acme", alice.subject_id) is None
    assert looked_into.destroy_tenant("acme") is False
    assert files_of(directory) == before
    with pytest.raises(KeyDestroyedError):
        keyring.tenant_key("acme")
    assert keyring.subjects("acme") == ()
