"""The installation's audit keys: one file, each key wrapped by the root key, the last one signs.

Rules:

- A key that signs is durable before its first signature.
- A key is never removed: handovers between each key and the next keep old checkpoints verifiable.
- The name of the installation is made with the first key and stays: it is part of every log's origin.
- Keys move with the root key: `rewrap` puts all of them under another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cloud.audit.signing import SigningKey
from cloud.audit.verify import VerifierKey
from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.rootkeys import RootKeys
from cloud.storage.home import write_private

_FORMAT: Final = 1
_AAD: Final = b"luminescent audit signing key 1"


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """The keys that sign this installation's logs.

    Attributes:
        installation: Random name of the installation.
        keys: Oldest first; the last one signs.
    """

    installation: str
    keys: tuple[SigningKey, ...] = field(repr=False)

    @property
    def current(self) -> SigningKey:
        """The key that signs now."""
        return self.keys[-1]

    @property
    def name(self) -> str:
        """The name under which the installation itself signs."""
        return f"luminescent-cloud/{self.installation}"

    def origin(self, log_id: str) -> str:
        """The name under which a log signs."""
        return f"{self.name}/{log_id}"

    def log_id(self, origin: str) -> str | None:
        """The log that signs under this name, or `None` if it is not one of this installation."""
        prefix = f"{self.name}/"
        return origin.removeprefix(prefix) if origin.startswith(prefix) else None

    def verifiers(self, log_id: str) -> list[VerifierKey]:
        """The public keys of a log, the present one first."""
        origin = self.origin(log_id)
        return [key.verifier(origin) for key in reversed(self.keys)]

    def handovers(self, log_id: str) -> list[str]:
        """A note from each key to the next, for one log."""
        origin = self.origin(log_id)
        return [old.handover(new, origin) for old, new in zip(self.keys, self.keys[1:], strict=False)]


class AuditKeyFile:
    """The file; safe for threads and processes.

    Args:
        path: Where it is, in a directory that only this account can enter.
        root_keys: The root keys within reach.
    """

    def __init__(self, path: Path, root_keys: RootKeys) -> None:
        self._path = path
        self._root_keys = root_keys
        self._read: tuple[tuple[int, int], AuditKeys] | None = None

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists()

    def create(self, now: datetime) -> AuditKeys:
        """The keys, made with a first one if there is no file.

        Raises:
            ConfigurationError: The file is damaged, or was made under another root key.
        """
        with self._locked():
            if not self._path.exists():
                document: dict[str, object] = {"format": _FORMAT, "installation": secrets.token_hex(8), "keys": []}
                self._add(document, SigningKey.new(), now)
                self._write(document)
        return self.keys()

    def keys(self) -> AuditKeys:
        """The keys as the file has them now, also if another process has rotated them.

        Raises:
            ConfigurationError: It is missing or damaged, or was made under another root key.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            raise ConfigurationError(
                f"the audit keys {self._path} are missing; restore them from a backup of the home"
            ) from None
        seen = (found.st_ino, found.st_mtime_ns)
        if self._read is None or self._read[0] != seen:
            self._read = (seen, self._decoded())
        return self._read[1]

    def rotate(self, now: datetime) -> AuditKeys:
        """Sign with a new key from now on; checkpoints of the former ones stay verifiable.

        Raises:
            ConfigurationError: The file is missing or damaged, or was made under another root key.
        """
        with self._locked():
            self._decoded()
            document = self._document()
            self._add(document, SigningKey.new(), now)
            self._write(document)
        return self.keys()

    def rewrap(self, root_key_id: str) -> None:
        """Put every key under the root key of this id, unless it is already or there is no file.

        Raises:
            ConfigurationError: The root key is not within reach, or the file cannot be read.
        """
        if not self._path.exists():
            return
        root_key = self._root_keys.named(root_key_id)
        if root_key is None:
            raise ConfigurationError(f"the root key {root_key_id!r} is not within reach")
        with self._locked():
            document = self._document()
            for entry, key in zip(_entries(document), self._decoded().keys, strict=True):
                if entry["root_key_id"] != root_key_id:
                    entry |= {"root_key_id": root_key_id, "wrapped": root_key.wrap(key.secret, _AAD).hex()}
            self._write(document)

    def _add(self, document: Mapping[str, object], key: SigningKey, now: datetime) -> None:
        entries = _entries(document)
        # The first root key of a process is that of its start: another may be in use since, and that one destroyed.
        present = str(entries[-1]["root_key_id"]) if entries else self._root_keys.first.key_id
        root_key = self._root_keys.named(present)
        if root_key is None:
            raise ConfigurationError(f"the root key {present!r} is not within reach")
        wrapped = root_key.wrap(key.secret, _AAD).hex()
        entries.append({"created_at": now.isoformat(), "root_key_id": root_key.key_id, "wrapped": wrapped})

    def _decoded(self) -> AuditKeys:
        document = self._document()
        match document:
            case {"format": 1, "installation": str(installation), "keys": [_, *_] as entries}:
                try:
                    keys = tuple(SigningKey(self._root_keys.unwrap(_wrapped(entry), _AAD)) for entry in entries)
                except (SealBrokenError, ValueError) as exc:
                    raise ConfigurationError(
                        f"the root key does not open the audit keys {self._path}: it is the wrong key, or the file is"
                        " damaged"
                    ) from exc
                return AuditKeys(installation, keys)
        raise ConfigurationError(f"the audit keys {self._path} are damaged or of another version")

    def _document(self) -> dict[str, object]:
        try:
            if self._path.stat().st_mode & 0o077:
                raise ConfigurationError(f"the audit keys {self._path} are open to others; run: chmod 600 {self._path}")
            document = json.loads(self._path.read_bytes())
        except OSError as exc:
            raise ConfigurationError(f"the audit keys {self._path} cannot be read: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError(f"the audit keys {self._path} are damaged: they are not JSON") from exc
        return document if isinstance(document, dict) else {}

    def _write(self, document: Mapping[str, object]) -> None:
        try:
            write_private(self._path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        except OSError as exc:
            raise ConfigurationError(f"the audit keys {self._path} cannot be written: {exc.strerror}") from exc

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes the file."""
        path = self._path.with_name(f"{self._path.name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _entries(document: Mapping[str, object]) -> list[dict[str, object]]:
    entries = document["keys"]
    assert isinstance(entries, list)
    return entries


def _wrapped(entry: object) -> bytes:
    match entry:
        case {"wrapped": str(wrapped)}:
            return bytes.fromhex(wrapped)
    raise ValueError("not a wrapped key")
