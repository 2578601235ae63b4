"""The root keys within a process's reach: usually one, and during a rotation the one before and the one to come.

Where the root key is in a file `F`, the others lie beside it as `F.<root key id>`. A process that meets a key which
none of its root keys opens looks there again, so a rotation in one process needs no message to the others.

A new root key is durable in `F.<its id>` before anything is wrapped under it. It moves to `F` after everything is,
and the former one stays as `F.<its id>`: backups of the keyring from before need it. Whatever stops in between,
every key that the keyring needs lies in one of these files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.files import sync_directory
from cloud.keys.ports import RootKey
from cloud.keys.rootkey import LocalRootKey, write_key_file

_OVERWRITTEN_BYTES: Final = 256


class RootKeys:
    """Finds the root key that something is wrapped under. Safe for threads."""

    def __init__(self, *keys: RootKey, file: Path | None = None) -> None:
        """
        Args:
            keys: Root keys that this process was given; the first is the one to make a new keyring under.
            file: The file that the first one came from, if it is one: the others lie beside it.
        """
        if not keys:
            raise ConfigurationError("a keyring needs a root key")
        self.file = file
        self._keys: dict[str, RootKey] = {key.key_id: key for key in keys}
        self._first = keys[0]

    @classmethod
    def of(cls, given: RootKey | RootKeys) -> RootKeys:
        """`given` itself, or the one root key alone."""
        return given if isinstance(given, RootKeys) else cls(given)

    @property
    def first(self) -> RootKey:
        """The root key to make a new keyring under."""
        return self._first

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the root keys within reach at the moment, sorted."""
        self._look_again()
        return tuple(sorted(self._keys))

    def named(self, key_id: str) -> RootKey | None:
        """The root key of this id, if it is within reach."""
        if key_id not in self._keys:
            self._look_again()
        return self._keys.get(key_id)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """What one of the root keys wrapped with the same `aad`.

        Raises:
            SealBrokenError: It opens under none of them.
        """
        found = self._tried(tuple(self._keys.values()), wrapped, aad)
        if found is None:
            known = set(self._keys)
            self._look_again()
            found = self._tried([key for name, key in tuple(self._keys.items()) if name not in known], wrapped, aad)
        if found is None:
            raise SealBrokenError("a wrapped key opens under no root key within reach")
        return found

    def keep(self, key: LocalRootKey) -> None:
        """Puts a new root key durably beside the file, where every process that uses the file finds it.

        Raises:
            ConfigurationError: The root key did not come from a file, or nothing can be written beside it.
        """
        if self.file is None:
            raise ConfigurationError("this root key does not come from a file")
        if key.key_id not in self.ids:
            try:
                write_key_file(self._beside(key.key_id), key.text())
            except OSError as exc:
                raise ConfigurationError(
                    f"the new root key cannot be written beside {self.file} ({exc.strerror}); put it there as "
                    f"{self._beside(key.key_id).name}, mode 0600, or name it as other_root_key_file everywhere"
                ) from exc
        self._look_again()

    def promote(self, key_id: str) -> None:
        """Makes the root key of this id the one in the file; the former one stays beside it. Safe to repeat.

        Raises:
            ConfigurationError: It does not lie beside the file, or the file cannot be replaced.
        """
        if self.file is None:
            return
        try:
            present = LocalRootKey.from_file(self.file)
            if present.key_id != key_id:
                new = LocalRootKey.from_file(self._beside(key_id))
                if not self._beside(present.key_id).exists():
                    os.link(self.file, self._beside(present.key_id))
                    sync_directory(self.file.parent)
                draft = self.file.with_name(f".{self.file.name}.{secrets.token_hex(8)}")
                write_key_file(draft, new.text())
                draft.replace(self.file)
                sync_directory(self.file.parent)
            self._beside(key_id).unlink(missing_ok=True)
            sync_directory(self.file.parent)
        except OSError as exc:
            raise ConfigurationError(f"the root key file {self.file} cannot be replaced: {exc.strerror}") from exc
        self._look_again()

    def destroy(self, key_id: str) -> bool:
        """Overwrites and removes the file of a former root key; whether there was one.

        Raises:
            ConfigurationError: It is the root key in use, or its file cannot be overwritten.
        """
        if self.file is None or not self._beside(key_id).exists():
            return False
        if LocalRootKey.from_file(self.file).key_id == key_id:
            raise ConfigurationError("this root key is in use")
        # Drafts too, that a process left when it was killed while it wrote them.
        drafts = [path for path in self.file.parent.glob(f".*{self.file.name}*") if _holds(path, key_id)]
        for path in (*drafts, self._beside(key_id)):
            try:
                _overwrite(path)
            except OSError as exc:
                raise ConfigurationError(f"the root key file {path} cannot be destroyed: {exc.strerror}") from exc
        self._keys.pop(key_id, None)
        return True

    def former(self) -> tuple[str, ...]:
        """The ids of the root keys that lie beside the file."""
        return tuple(sorted(key.key_id for key in self._besides()))

    def _beside(self, key_id: str) -> Path:
        assert self.file is not None
        return self.file.with_name(f"{self.file.name}.{key_id}")

    def _look_again(self) -> None:
        if self.file is None:
            return
        found = list(self._besides())
        # If it cannot be read now: it was when this process began, and what it held then is still known.
        with contextlib.suppress(ConfigurationError):
            found.append(LocalRootKey.from_file(self.file))
        self._keys.update({key.key_id: key for key in found})

    def _besides(self) -> Iterator[LocalRootKey]:
        if self.file is None:
            return
        for path in sorted(self.file.parent.glob(f"{self.file.name}.*")):
            try:
                key = LocalRootKey.from_file(path)
            except ConfigurationError:
                continue
            # Under its own name alone: another file of that form may hold anything.
            if path == self._beside(key.key_id):
                yield key

    @staticmethod
    def _tried(keys: Iterable[RootKey], wrapped: bytes, aad: bytes) -> bytes | None:
        for key in keys:
            try:
                return key.unwrap(wrapped, aad)
            except SealBrokenError:
                continue
        return None


def _holds(path: Path, key_id: str) -> bool:
    try:
        return LocalRootKey.from_file(path).key_id == key_id
    except ConfigurationError:
        return False


def _overwrite(path: Path) -> None:
    """Overwrites a file with random bytes, durably, and removes it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, os.urandom(max(os.fstat(descriptor).st_size, _OVERWRITTEN_BYTES)), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_directory(path.parent)
