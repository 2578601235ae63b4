"""The root key is read only from where nobody else can, and made once."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.rootkey import LocalRootKey

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def test_wrapped_keys_open_under_the_same_root_key_and_aad_only() -> None:
    root = LocalRootKey(KEY)
    wrapped = root.wrap(b"\7" * 32, b"aad")
    assert LocalRootKey.from_text(f" {TEXT}\n").unwrap(wrapped, b"aad") == b"\7" * 32
    for other, aad in ((root, b"other"), (LocalRootKey(bytes(32)), b"aad")):
        with pytest.raises(SealBrokenError):
            other.unwrap(wrapped, aad)


def test_the_key_id_tells_keys_apart_and_shows_no_key() -> None:
    root = LocalRootKey(KEY)
    assert root.key_id == LocalRootKey(KEY).key_id != LocalRootKey(bytes(32)).key_id
    assert repr(root) == f"LocalRootKey(key_id='{root.key_id}')"
    assert root.key_id not in KEY.hex()


@pytest.mark.parametrize("text", ["", "secret", TEXT[:-4], TEXT + "AAAA", TEXT[:-1], "ü" * 44, TEXT.replace("A", "-")])
def test_a_text_that_holds_no_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LocalRootKey.from_text(text)
    assert text == "" or text not in str(caught.value)


def test_a_file_for_its_owner_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    path.write_text(TEXT + "\n")
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert LocalRootKey.from_file(path).key_id == LocalRootKey(KEY).key_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "root.key"
    path.write_text(TEXT)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        LocalRootKey.from_file(path, create=True)


def test_a_missing_file_is_made_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    with pytest.raises(ConfigurationError):
        LocalRootKey.from_file(path)
    assert list(tmp_path.iterdir()) == []
    made = LocalRootKey.from_file(path, create=True)
    assert LocalRootKey.from_file(path, create=True).key_id == made.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_all_who_make_it_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: LocalRootKey.from_file(path, create=True).key_id, range(16)))
    assert len(set(made)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_an_unreadable_place_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "root.key", tmp_path):
        with pytest.raises(ConfigurationError):
            LocalRootKey.from_file(path, create=True)
