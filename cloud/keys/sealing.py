"""To seal and to unseal: AES-256-GCM with the place of a value as associated data.

A sealed value is `format (1) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, 29 bytes longer than what it seals. The nonce is
random, which NIST SP 800-38D §8.3 allows for 2^32 values under one key; a subject has far fewer.

The cipher object is made anew for each call: keeping it would save 1 µs of 5 and hold keys in memory after they have
been destroyed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloud.kernel.errors import SealBrokenError
from cloud.keys.model import KEY_BYTES, SEAL_FORMAT, Place, encode_place, require_key

NONCE_BYTES: Final = 12
SEAL_OVERHEAD_BYTES: Final = 1 + NONCE_BYTES + 16
_FORMAT: Final = bytes((SEAL_FORMAT,))


def seal(key: bytes, plaintext: bytes, *, place: Place) -> bytes:
    """Seals `plaintext` so that it opens only under `key` and at `place`.

    Args:
        key: 32 bytes.
        plaintext: Up to 2^31 - 1 bytes.
        place: Where the value will be kept.

    Returns:
        `len(plaintext) + SEAL_OVERHEAD_BYTES` bytes.

    Raises:
        ValueError: The key has a wrong length.

    Source: NIST SP 800-38D §7.1.
    """
    return encrypt(key, plaintext, encode_place(place))


def unseal(key: bytes, sealed: bytes, *, place: Place) -> bytes:
    """What was sealed under `key` at `place`, or `SealBrokenError`; no other error, whatever the bytes are.

    Raises:
        SealBrokenError: Altered, truncated, of an unknown format, from another place, or under another key.

    Source: NIST SP 800-38D §7.2.
    """
    return decrypt(key, sealed, encode_place(place))


def wrap_key(wrapping_key: bytes, key: bytes, *, place: Place) -> bytes:
    """Seals a key under another key.

    Returns:
        61 bytes.

    Raises:
        ValueError: One of the keys has a wrong length.
    """
    require_key(key)
    return seal(wrapping_key, key, place=place)


def unwrap_key(wrapping_key: bytes, wrapped: bytes, *, place: Place) -> bytes:
    """The wrapped key, 32 bytes.

    Raises:
        SealBrokenError: It does not open, or what it holds is not a key.
    """
    return checked_key(unseal(wrapping_key, wrapped, place=place))


def unseal_with_any(keys: Sequence[bytes], sealed: bytes, *, place: Place) -> bytes:
    """What was sealed at `place` under one of `keys`, such as a tenant's `versions`.

    Raises:
        SealBrokenError: It opens under none of them.
    """
    for key in keys:
        try:
            return unseal(key, sealed, place=place)
        except SealBrokenError:
            continue
    raise SealBrokenError("a sealed value opens under none of the keys that it may have been sealed under")


def checked_key(key: bytes) -> bytes:
    """`key` itself.

    Raises:
        SealBrokenError: It has not the length of a key.
    """
    if len(key) != KEY_BYTES:
        raise SealBrokenError("a wrapped value does not hold a key")
    return key


def encrypt(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """`seal` with the associated data given as bytes, for root keys."""
    require_key(key)
    nonce = os.urandom(NONCE_BYTES)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """`unseal` with the associated data given as bytes, for root keys."""
    if len(key) != KEY_BYTES or len(sealed) < SEAL_OVERHEAD_BYTES or sealed[:1] != _FORMAT:
        raise SealBrokenError("this is not a sealed value of a known format, or its key has a wrong length")
    try:
        return AESGCM(key).decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], associated)
    except InvalidTag as exc:
        raise SealBrokenError(
            "a sealed value does not open under its key and place: altered, or copied from elsewhere"
        ) from exc


class AesGcmSealer:
    """The `Sealer` of every deployment: `seal` and `unseal` of this module."""

    seal = staticmethod(seal)
    unseal = staticmethod(unseal)
