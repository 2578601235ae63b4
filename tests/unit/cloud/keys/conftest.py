"""A root key and a place for a keyring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sqlite import FileKeyring

ROOT_KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def record(monkeypatch: pytest.MonkeyPatch, *functions: tuple[object, str]) -> list[str]:
    """The names of these functions, each given as its owner and name, in the order of their calls from now on."""
    calls: list[str] = []

    def recording(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            calls.append(name)
            return function(*given)

        return call

    for owner, name in functions:
        monkeypatch.setattr(owner, name, recording(name, getattr(owner, name)))
    return calls


@pytest.fixture
def root_key() -> LocalRootKey:
    return LocalRootKey.from_text(ROOT_KEY_TEXT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def keyring(directory: Path, root_key: LocalRootKey) -> Iterator[FileKeyring]:
    keyring = FileKeyring.open(directory, root_key, create=True)
    keyring.create_tenant("acme")
    yield keyring
    keyring.close()
