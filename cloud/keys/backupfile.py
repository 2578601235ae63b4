"""The file of a keyring's backup: everything sealed under a key of its own, which the root key wraps.

    magic ‖ length of header (4) ‖ header ‖ chunk ‖ chunk ‖ …

The header is JSON: ids, times and sizes, nothing about a person; whoever finds the file can see until when it may be
kept. Each chunk is 1 MiB under AES-256-GCM, the last one shorter; the nonce is `prefix (7) ‖ counter (4) ‖ last (1)`,
so a file that is cut, reordered or extended does not open, and the header is associated data of every chunk.

Source: Hoang, Reyhanitabar, Rogaway, Vizár, *Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*,
CRYPTO 2015, §7 (STREAM).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.model import KEY_BYTES
from cloud.keys.ports import RootKey
from cloud.keys.reports import KeyringBackup
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sealing import checked_key

_MAGIC: Final = b"LUMINESCENT-KEYRING-BACKUP-1\n"
_CHUNK_BYTES: Final = 2**20
_TAG_BYTES: Final = 16
_PREFIX_BYTES: Final = 7
_MAX_HEADER_BYTES: Final = 4096
_WRAP_DOMAIN: Final = b"luminescent keyring backup key 1"


@dataclass(frozen=True, slots=True)
class BackupHeader:
    """What a backup says in the clear.

    Attributes:
        backup: Its id, times and epoch.
        keyring_id: The keyring that it is of, as 32 hexadecimal digits.
        slots_bytes: Size of the slots file in it.
        index_bytes: Size of the index in it.
    """

    backup: KeyringBackup
    keyring_id: str
    slots_bytes: int
    index_bytes: int


def write_backup(out: BinaryIO, header: BackupHeader, content: Iterable[bytes], root_key: RootKey) -> None:
    """Writes header and sealed content.

    Args:
        out: A new file.
        header: `slots_bytes + index_bytes` is the size of the content.
        content: The content in pieces of any size.
        root_key: Wraps the backup's own key.
    """
    key, prefix = os.urandom(KEY_BYTES), os.urandom(_PREFIX_BYTES)
    plain = _encoded(header)
    wrapped = root_key.wrap(key, _WRAP_DOMAIN + _canonical(plain))
    encoded = _canonical({**plain, "wrapped_key": wrapped.hex(), "nonce_prefix": prefix.hex()})
    out.write(_MAGIC + len(encoded).to_bytes(4, "big") + encoded)
    cipher, bound = AESGCM(key), hashlib.sha256(encoded).digest()
    for number, (chunk, is_last) in enumerate(_chunks(content)):
        out.write(cipher.encrypt(_nonce(prefix, number, is_last), chunk, bound))


def read_header(file: BinaryIO) -> BackupHeader:
    """What a backup says in the clear; its content may be damaged all the same.

    Raises:
        ConfigurationError: This is no backup of a known version.
    """
    return _read_header(file)[0]


def read_backup(file: BinaryIO, root_keys: RootKeys) -> tuple[BackupHeader, Iterator[bytes]]:
    """Header and content of a backup. What the iterator has given is worth nothing unless it ends without an error.

    Raises:
        ConfigurationError: This is no backup of a known version, its root key is not within reach, or it is damaged.
    """
    header, plain, fields, bound = _read_header(file)
    if root_keys.named(header.backup.root_key_id) is None:
        raise ConfigurationError(
            f"this backup is sealed under root key {header.backup.root_key_id!r}; name it as other_root_key_file"
        )
    try:
        wrapped, prefix = bytes.fromhex(fields["wrapped_key"]), bytes.fromhex(fields["nonce_prefix"])
        key = checked_key(root_keys.unwrap(wrapped, _WRAP_DOMAIN + _canonical(plain)))
    except (KeyError, ValueError, TypeError, SealBrokenError) as exc:
        raise _damaged() from exc
    return header, _content(file, AESGCM(key), prefix, bound, header.slots_bytes + header.index_bytes)


def _content(file: BinaryIO, cipher: AESGCM, prefix: bytes, bound: bytes, size: int) -> Iterator[bytes]:
    number, left = 0, size
    is_last = False
    while not is_last:
        is_last = left <= _CHUNK_BYTES
        sealed = file.read(min(left, _CHUNK_BYTES) + _TAG_BYTES)
        try:
            chunk = cipher.decrypt(_nonce(prefix, number, is_last), sealed, bound)
        except (InvalidTag, ValueError) as exc:
            raise _damaged() from exc
        left, number = left - len(chunk), number + 1
        yield chunk
    if left or file.read(1):
        raise _damaged()


def _read_header(file: BinaryIO) -> tuple[BackupHeader, dict[str, object], dict[str, str], bytes]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ConfigurationError("this file is no backup of a keyring that this version can read")
    length = int.from_bytes(file.read(4), "big")
    encoded = file.read(min(length, _MAX_HEADER_BYTES))
    try:
        fields = json.loads(encoded)
        header = BackupHeader(
            KeyringBackup(
                backup_id=_text(fields["backup_id"]),
                made_at=datetime.fromisoformat(fields["made_at"]),
                expires_at=datetime.fromisoformat(fields["expires_at"]),
                epoch=_whole(fields["epoch"]),
                root_key_id=_text(fields["root_key_id"]),
                complete=True,
            ),
            keyring_id=_text(fields["keyring_id"]),
            slots_bytes=_whole(fields["slots_bytes"]),
            index_bytes=_whole(fields["index_bytes"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise _damaged() from exc
    return header, _encoded(header), fields, hashlib.sha256(encoded).digest()


def _encoded(header: BackupHeader) -> dict[str, object]:
    return {
        "backup_id": header.backup.backup_id,
        "made_at": header.backup.made_at.isoformat(),
        "expires_at": header.backup.expires_at.isoformat(),
        "epoch": header.backup.epoch,
        "root_key_id": header.backup.root_key_id,
        "keyring_id": header.keyring_id,
        "slots_bytes": header.slots_bytes,
        "index_bytes": header.index_bytes,
    }


def _canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _chunks(content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Pieces of one chunk each, and whether it is the last; exactly one is, also of nothing at all."""
    waiting = bytearray()
    for piece in content:
        waiting += piece
        # Only what another byte follows: the last chunk has to be known as the last.
        while len(waiting) > _CHUNK_BYTES:
            yield bytes(waiting[:_CHUNK_BYTES]), False
            del waiting[:_CHUNK_BYTES]
    yield bytes(waiting), True


def _nonce(prefix: bytes, number: int, is_last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes((is_last,))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _damaged() -> ConfigurationError:
    return ConfigurationError("this backup is damaged, cut off or was altered; use another one")
