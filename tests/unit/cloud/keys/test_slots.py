"""A destroyed slot is overwritten on the disk where it was, or the call fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.kernel.errors import ConfigurationError, ErasureIncompleteError, ProviderUnavailableError
from cloud.keys.model import SLOT_BYTES, SlotState, pack_slot, parse_slot
from cloud.keys.slots import SlotFile
from tests.unit.cloud.keys.conftest import record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.slots"


@pytest.fixture
def slots(path: Path) -> Iterator[SlotFile]:
    slots = SlotFile.create(path, b"I" * 16)
    slots.grow(1, 8)
    yield slots
    slots.close()


def test_a_slot_keeps_its_place(slots: SlotFile, path: Path) -> None:
    slots.write(3, pack_slot(b"wrapped"))
    slots.sync()
    assert path.read_bytes()[3 * SLOT_BYTES : 4 * SLOT_BYTES] == pack_slot(b"wrapped") == slots.read(3)
    assert slots.capacity() == 8
    assert path.stat().st_mode & 0o777 == 0o600


def test_destroyed_slots_are_overwritten_and_their_neighbours_are_not(slots: SlotFile, path: Path) -> None:
    for slot in range(1, 9):
        slots.write(slot, pack_slot(bytes((slot,)) * 61))
    slots.destroy((2, 5))
    found = path.read_bytes()
    for slot in range(1, 9):
        image = found[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
        if slot in (2, 5):
            assert parse_slot(image).state is SlotState.DESTROYED
            assert bytes((slot,)) * 4 not in image
            assert len(set(image)) > 64
        else:
            assert parse_slot(image).wrapped == bytes((slot,)) * 61


def test_a_disk_that_keeps_the_old_bytes_is_found_out(slots: SlotFile, monkeypatch: pytest.MonkeyPatch) -> None:
    slots.write(2, pack_slot(b"wrapped"))
    monkeypatch.setattr(os, "pwrite", lambda _descriptor, data, _offset: len(data))
    with pytest.raises(ErasureIncompleteError) as caught:
        slots.destroy((2,))
    assert caught.value.places == ("keyring slots",)


def test_destroying_syncs_before_it_reads_back(slots: SlotFile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, (os, "pwrite"), (os, "fdatasync"), (os, "pread"))
    slots.destroy((1, 2))
    assert calls == ["pwrite", "pwrite", "fdatasync", "pread", "pread"]


def test_a_failing_disk_is_reported_as_unavailable(slots: SlotFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("pwrite", "fdatasync", "pread"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(ProviderUnavailableError):
                slots.destroy((1,))


def test_a_short_write_is_not_taken_for_a_whole_one(slots: SlotFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _descriptor, data, _offset: len(data) - 1)
    with pytest.raises(ProviderUnavailableError):
        slots.write(1, pack_slot(b"wrapped"))
    with pytest.raises(ProviderUnavailableError):
        slots.grow(9, 8)


def test_it_opens_with_the_identity_it_was_made_with(slots: SlotFile, path: Path) -> None:
    again = SlotFile.open(path)
    assert again.keyring_id == slots.keyring_id == b"I" * 16
    again.close()


@pytest.mark.parametrize(
    "content", [b"", b"x" * 4096, b"LUMINESCENT-SLOTS-2\n" + bytes(4096), b"LUMINESCENT-SLOTS-1\n"]
)
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        SlotFile.open(path)


def test_a_missing_file_is_refused_and_not_made(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="backup"):
        SlotFile.open(path)
    assert not path.exists()
