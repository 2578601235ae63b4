"""Root keys beside the root key file: durable before they are used, found without a message, gone when destroyed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.rootkey import LocalRootKey, write_key_file
from cloud.keys.rootkeys import RootKeys

NEW = LocalRootKey(b"\7" * 32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "root.key"
    write_key_file(path, LocalRootKey(bytes(32)).text())
    return path


@pytest.fixture
def keys(file: Path) -> RootKeys:
    return RootKeys(LocalRootKey.from_file(file), file=file)


def names(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


def test_a_root_key_that_is_kept_is_found_by_others_at_once(file: Path, keys: RootKeys) -> None:
    others = RootKeys(LocalRootKey.from_file(file), file=file)
    sealed = NEW.wrap(b"k" * 32, b"place")
    with pytest.raises(SealBrokenError):
        others.unwrap(sealed, b"place")
    keys.keep(NEW)
    keys.keep(NEW)
    assert others.unwrap(sealed, b"place") == b"k" * 32
    assert others.named(NEW.key_id) is not None
    assert names(file) == ["root.key", f"root.key.{NEW.key_id}"]
    assert file.with_name(f"root.key.{NEW.key_id}").stat().st_mode & 0o777 == 0o600


def test_promoting_swaps_the_two_and_loses_none_wherever_it_stops(
    file: Path, keys: RootKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = keys.first.key_id
    keys.keep(NEW)
    for name in ("link", "unlink"):
        real = getattr(os if name == "link" else Path, name)

        def stop(*_given: object, **_named: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os if name == "link" else Path, name, stop)
        with pytest.raises(ConfigurationError):
            keys.promote(NEW.key_id)
        monkeypatch.setattr(os if name == "link" else Path, name, real)
        assert set(RootKeys(LocalRootKey.from_file(file), file=file).ids) == {former, NEW.key_id}
    for _ in range(2):
        keys.promote(NEW.key_id)
        assert LocalRootKey.from_file(file).key_id == NEW.key_id
        assert keys.former() == (former,)
    # What the interruptions left is a root key as well, and goes with it.
    assert keys.destroy(former)
    keys.keep(LocalRootKey(b"\11" * 32))
    keys.promote(LocalRootKey(b"\11" * 32).key_id)
    assert keys.destroy(NEW.key_id)
    assert names(file) == ["root.key"]


def test_a_destroyed_root_key_is_overwritten_before_its_name_goes(
    file: Path, keys: RootKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.keep(NEW)
    beside = file.with_name(f"root.key.{NEW.key_id}")
    seen: list[bytes] = []
    unlink = Path.unlink

    def look(path: Path, missing_ok: bool = False) -> None:
        seen.append(path.read_bytes())
        unlink(path, missing_ok)

    before = beside.read_bytes()
    monkeypatch.setattr(Path, "unlink", look)
    assert keys.destroy(NEW.key_id)
    assert seen
    assert before.strip() not in seen[0]
    assert not keys.destroy(NEW.key_id)
    assert keys.named(NEW.key_id) is None


def test_the_root_key_in_use_is_not_destroyed(file: Path, keys: RootKeys) -> None:
    keys.keep(keys_of(file))
    os.link(file, file.with_name(f"root.key.{keys.first.key_id}"))
    with pytest.raises(ConfigurationError, match="in use"):
        keys.destroy(keys.first.key_id)


def keys_of(file: Path) -> LocalRootKey:
    return LocalRootKey.from_file(file)


@pytest.mark.parametrize("name", ["root.key.backup", "root.key.0000000000000000"])
def test_a_file_beside_it_under_another_name_is_no_root_key_of_ours(file: Path, keys: RootKeys, name: str) -> None:
    write_key_file(file.with_name(name), NEW.text())
    assert keys.named(NEW.key_id) is None
    assert keys.former() == ()


def test_a_file_beside_it_that_others_can_read_is_not_used(file: Path, keys: RootKeys) -> None:
    keys.keep(NEW)
    file.with_name(f"root.key.{NEW.key_id}").chmod(0o644)
    assert RootKeys(LocalRootKey.from_file(file), file=file).named(NEW.key_id) is None


def test_a_directory_that_cannot_be_written_says_what_to_do(
    file: Path, keys: RootKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_given: object, **_named: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ConfigurationError, match="other_root_key_file"):
        keys.keep(NEW)


def test_a_root_key_that_came_from_no_file_keeps_none_beside_it() -> None:
    with pytest.raises(ConfigurationError):
        RootKeys(NEW).keep(LocalRootKey(bytes(32)))
    assert RootKeys(NEW).former() == ()
    assert not RootKeys(NEW).destroy(NEW.key_id)
