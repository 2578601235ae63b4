"""The root keys and the place of an installation's keyring."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
from cloud.settings import CloudSettings
from cloud.storage.home import private_directory

_ROOT_KEY_NAME: Final = "root.key"


def keyring_directory(settings: CloudSettings) -> Path:
    """Where the keyring is."""
    return settings.home / "keyring"


def find_root_keys(settings: CloudSettings, *, create: bool) -> RootKeys:
    """The root keys within reach: the one in use first, and what a rotation needs beside it.

    Args:
        settings: Name them.
        create: Whether the installation is new, so that a root key may be made.

    Raises:
        ConfigurationError: A root key is missing, not readable, open to others, or none.
    """
    others = [] if settings.other_root_key_file is None else [LocalRootKey.from_file(settings.other_root_key_file)]
    if settings.root_key is not None:
        return RootKeys(LocalRootKey.from_text(settings.root_key.get_secret_value()), *others)
    if settings.root_key_file is not None:
        return RootKeys(LocalRootKey.from_file(settings.root_key_file), *others, file=settings.root_key_file)
    path = private_directory(settings.home / "secrets") / _ROOT_KEY_NAME
    may_create = create and not keyring_directory(settings).exists()
    return RootKeys(LocalRootKey.from_file(path, create=may_create), *others, file=path)
