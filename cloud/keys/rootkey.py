"""A root key that lives beside the service, in a file or in a text it was given."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError
from cloud.keys.files import others_may_enter, sync_directory
from cloud.keys.model import KEY_BYTES
from cloud.keys.sealing import decrypt, encrypt

_MAX_FILE_BYTES: Final = 256


class LocalRootKey:
    """A `RootKey` held in this process's memory; it shows in no `repr`."""

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: 32 bytes.

        Raises:
            ConfigurationError: The length is wrong.
        """
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"the root key must have {KEY_BYTES} bytes")
        self._key = key
        self._key_id = hmac.digest(key, b"luminescent root key id 1", "sha256")[:8].hex()

    def __repr__(self) -> str:
        return f"LocalRootKey(key_id={self._key_id!r})"

    @classmethod
    def generate(cls) -> LocalRootKey:
        """A new random root key."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_text(cls, text: str) -> LocalRootKey:
        """The root key that `text` holds as standard base64 of 32 bytes.

        Raises:
            ConfigurationError: It does not; the message does not quote it.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError("the root key must be 32 bytes as standard base64") from None
        return cls(key)

    @classmethod
    def from_file(cls, path: Path, *, create: bool = False) -> LocalRootKey:
        """The root key in `path`, a file that only its owner can open.

        Args:
            path: A file that holds base64 as in `from_text`.
            create: Whether to make a new key if there is no such file. Of several processes that do so at once, one
                makes it and all read the same.

        Raises:
            ConfigurationError: The file is missing, not readable, open to others, or holds no key.
        """
        try:
            if create and not path.exists():
                write_key_file(path, cls.generate().text())
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                text = file.read(_MAX_FILE_BYTES)
        except OSError as exc:
            raise ConfigurationError(f"the root key file {path} cannot be read: {exc.strerror}") from exc
        if others_may_enter(found):
            raise ConfigurationError(f"the root key file {path} is open to others; run: chmod 600 {path}")
        return cls.from_text(text.decode("ascii", "replace"))

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits derived from the key."""
        return self._key_id

    def text(self) -> bytes:
        """The key as its file holds it, for `write_key_file`."""
        return base64.b64encode(self._key) + b"\n"

    def wrap(self, plaintext: bytes, aad: bytes) -> bytes:
        """AES-256-GCM, in the format of `cloud.keys.sealing`."""
        return encrypt(self._key, plaintext, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """What `wrap` sealed with the same `aad`."""
        return decrypt(self._key, wrapped, aad)


def write_key_file(path: Path, text: bytes) -> None:
    """Puts a root key durably at `path`, mode 0600; a file that another process put there meanwhile stays."""
    # A link made after the file is complete and durable: nobody ever reads half a key, and the first one stays.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_directory(path.parent)
