"""Seals a stream under a key of its own, which a backup key wraps, so that no plain byte of it reaches the disk.

    magic ‖ length of header (4) ‖ header ‖ chunk ‖ chunk ‖ …

The header is JSON. Each chunk is 1 MiB under AES-256-GCM, the last one shorter; the nonce is `prefix (7) ‖ counter (4)
‖ last (1)`, so a file that is cut, reordered or extended does not open. Header, backup and name of the file are
associated data of every chunk: a file of another backup does not open in its place.

Source: Hoang, Reyhanitabar, Rogaway, Vizár, *Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*,
CRYPTO 2015, §7 (STREAM).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloud.kernel.errors import ConfigurationError, SealBrokenError
from cloud.keys.model import KEY_BYTES
from cloud.keys.ports import RootKey
from cloud.keys.sealing import checked_key

PIECE_BYTES: Final = 2**20
_MAGIC: Final = b"LUMINESCENT-DATA-BACKUP-1\n"
_TAG_BYTES: Final = 16
_PREFIX_BYTES: Final = 7
_MAX_HEADER_BYTES: Final = 4096
_WRAP_DOMAIN: Final = b"luminescent data backup key 1\n"


def sealed(pieces: Iterable[bytes], key: RootKey, place: str) -> Iterator[bytes]:
    """The bytes of a sealed file of these pieces.

    Args:
        pieces: The content, in pieces of any size.
        key: Wraps the file's own key.
        place: What the file is: backup and name.
    """
    own, prefix = os.urandom(KEY_BYTES), os.urandom(_PREFIX_BYTES)
    wrapped = key.wrap(own, _WRAP_DOMAIN + place.encode())
    fields = {"key_id": key.key_id, "wrapped_key": wrapped.hex(), "nonce_prefix": prefix.hex()}
    header = json.dumps(fields, sort_keys=True).encode()
    yield _MAGIC + len(header).to_bytes(4, "big") + header
    cipher, bound = AESGCM(own), _bound(header, place)
    waiting, number = bytearray(), 0
    for piece in pieces:
        waiting += piece
        # Only what another byte follows: the last chunk has to be known as the last.
        while len(waiting) > PIECE_BYTES:
            yield cipher.encrypt(_nonce(prefix, number, is_last=False), bytes(waiting[:PIECE_BYTES]), bound)
            del waiting[:PIECE_BYTES]
            number += 1
    yield cipher.encrypt(_nonce(prefix, number, is_last=True), bytes(waiting), bound)


def unsealed(file: BinaryIO, key: RootKey, place: str) -> Iterator[bytes]:
    """The content of a sealed file. What was given is worth nothing unless this ends without an error.

    Raises:
        ConfigurationError: It is none, another key sealed it, or it is damaged.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _damaged()
    header = file.read(min(int.from_bytes(file.read(4), "big"), _MAX_HEADER_BYTES))
    try:
        fields = json.loads(header)
        if fields["key_id"] != key.key_id:
            raise ConfigurationError(
                f"this backup is sealed with key {fields['key_id']}, and the one given is {key.key_id}"
            )
        wrapped, prefix = bytes.fromhex(fields["wrapped_key"]), bytes.fromhex(fields["nonce_prefix"])
        own = checked_key(key.unwrap(wrapped, _WRAP_DOMAIN + place.encode()))
    except (KeyError, ValueError, TypeError, SealBrokenError) as exc:
        raise _damaged() from exc
    cipher, bound, number = AESGCM(own), _bound(header, place), 0
    chunk = file.read(PIECE_BYTES + _TAG_BYTES)
    while True:
        following = file.read(PIECE_BYTES + _TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(prefix, number, is_last=not following), chunk, bound)
        except (InvalidTag, ValueError) as exc:
            raise _damaged() from exc
        if not following:
            return
        chunk, number = following, number + 1


def _bound(header: bytes, place: str) -> bytes:
    return hashlib.sha256(header + b"\n" + place.encode()).digest()


def _nonce(prefix: bytes, number: int, *, is_last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes((is_last,))


def _damaged() -> ConfigurationError:
    return ConfigurationError("this backup is damaged, cut off or was altered; use another one")
