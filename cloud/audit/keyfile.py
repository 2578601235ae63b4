"""The installation's audit keys: one file, each key wrapped by the root key, the last one signs.

Rules:

- A key that signs is durable before its first signature.
- A key is never removed: handovers between each key and the next keep old checkpoints verifiable.
- The name of the installation is made with the first key and stays: it is part of every log's origin.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cloud.audit.signing import SigningKey
from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.ports import RootKey
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

    def origin(self, log_id: str) -> str:
        """The name under which a log signs."""
        return f"luminescent-cloud/{self.installation}/{log_id}"

    def handovers(self, log_id: str) -> list[str]:
        """A note from each key to the next, for one log."""
        origin = self.origin(log_id)
        return [old.handover(new, origin) for old, new in zip(self.keys, self.keys[1:], strict=False)]


def open_audit_keys(path: Path, root_key: RootKey, now: datetime, *, create: bool) -> AuditKeys:
    """The keys of the file, made with a first key if it is missing and `create` says so.

    Raises:
        ConfigurationError: It is missing or damaged, or was made under another root key.
    """
    if not path.exists():
        if not create:
            raise ConfigurationError(f"the audit keys {path} are missing; restore them from a backup of the home")
        document: dict[str, object] = {"format": _FORMAT, "installation": secrets.token_hex(8), "keys": []}
        _add(document, SigningKey.new(), root_key, now)
        write_private(path, _encoded(document))
    return _decoded(path, root_key)


def rotate_audit_key(path: Path, root_key: RootKey, now: datetime) -> AuditKeys:
    """Sign with a new key from now on; checkpoints of the former ones stay verifiable.

    Raises:
        ConfigurationError: The file is missing or damaged, or was made under another root key.
    """
    _decoded(path, root_key)
    document = _read(path)
    _add(document, SigningKey.new(), root_key, now)
    write_private(path, _encoded(document))
    return _decoded(path, root_key)


def _add(document: dict[str, object], key: SigningKey, root_key: RootKey, now: datetime) -> None:
    keys = document["keys"]
    assert isinstance(keys, list)
    wrapped = root_key.wrap(key.secret, _AAD).hex()
    keys.append({"created_at": now.isoformat(), "root_key_id": root_key.key_id, "wrapped": wrapped})


def _decoded(path: Path, root_key: RootKey) -> AuditKeys:
    document = _read(path)
    match document:
        case {"format": 1, "installation": str(installation), "keys": [_, *_] as entries}:
            try:
                keys = tuple(SigningKey(root_key.unwrap(_wrapped(entry), _AAD)) for entry in entries)
            except (SealBrokenError, ValueError) as exc:
                raise ConfigurationError(
                    f"the root key does not open the audit keys {path}: it is the wrong key, or the file is damaged"
                ) from exc
            return AuditKeys(installation, keys)
    raise ConfigurationError(f"the audit keys {path} are damaged or of another version")


def _wrapped(entry: object) -> bytes:
    match entry:
        case {"wrapped": str(wrapped)}:
            return bytes.fromhex(wrapped)
    raise ValueError("not a wrapped key")


def _read(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"the audit keys {path} are open to others; run: chmod 600 {path}")
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"the audit keys {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"the audit keys {path} are damaged: they are not JSON") from exc
    return document if isinstance(document, dict) else {}


def _encoded(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
