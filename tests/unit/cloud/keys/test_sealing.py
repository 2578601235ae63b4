"""A sealed value opens unaltered, under its key, at its place; anything else is `SealBrokenError`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.errors import SealBrokenError
from cloud.keys.inmemory import PlaintextSealer
from cloud.keys.model import Place
from cloud.keys.ports import Sealer
from cloud.keys.sealing import (
    SEAL_OVERHEAD_BYTES,
    AesGcmSealer,
    decrypt,
    seal,
    unseal,
    unwrap_key,
    wrap_key,
)

KEY = bytes(range(32))
PLACE = Place("acme", "subject", "memory", "envelope")
PIXELTABLE_ROW_BYTES = 512
SEALERS: tuple[Sealer, ...] = (AesGcmSealer(), PlaintextSealer())


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
@given(st.binary(max_size=300))
def test_what_was_sealed_comes_back(sealer: Sealer, plaintext: bytes) -> None:
    sealed = sealer.seal(KEY, plaintext, place=PLACE)
    assert sealer.unseal(KEY, sealed, place=PLACE) == plaintext
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD_BYTES


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
@given(st.binary(max_size=40), st.data())
def test_every_altered_byte_breaks_the_seal(sealer: Sealer, plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(sealer.seal(KEY, plaintext, place=PLACE))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBrokenError):
        sealer.unseal(KEY, bytes(sealed), place=PLACE)


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
def test_every_truncation_and_extension_breaks_the_seal(sealer: Sealer) -> None:
    sealed = sealer.seal(KEY, b"twelve bytes", place=PLACE)
    for length in range(len(sealed)):
        with pytest.raises(SealBrokenError):
            sealer.unseal(KEY, sealed[:length], place=PLACE)
    with pytest.raises(SealBrokenError):
        sealer.unseal(KEY, sealed + b"\0", place=PLACE)


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
@pytest.mark.parametrize("field", ["tenant_id", "subject_id", "record_id", "kind"])
def test_a_value_does_not_open_at_another_place(sealer: Sealer, field: str) -> None:
    sealed = sealer.seal(KEY, b"text", place=PLACE)
    with pytest.raises(SealBrokenError):
        sealer.unseal(KEY, sealed, place=replace(PLACE, **{field: "other"}))


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
@given(st.binary(max_size=70), st.binary(max_size=40))
def test_any_bytes_under_any_key_raise_nothing_else(sealer: Sealer, sealed: bytes, key: bytes) -> None:
    with pytest.raises(SealBrokenError):
        sealer.unseal(key, sealed, place=PLACE)
    with pytest.raises(SealBrokenError):
        sealer.unseal(KEY, b"\1" + sealed, place=PLACE)
    with pytest.raises(SealBrokenError):
        sealer.unseal(key, b"\1" + sealed.ljust(40), place=PLACE)


@pytest.mark.parametrize("sealer", SEALERS, ids=["sealed", "plaintext"])
@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_only_keys_of_256_bits_seal(sealer: Sealer, length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sealer.seal(bytes(length), b"text", place=PLACE)


def test_the_plaintext_sealer_shows_what_it_seals() -> None:
    assert b"find me" in PlaintextSealer().seal(KEY, b"find me", place=PLACE)


def test_equal_texts_seal_differently() -> None:
    sealed = {seal(KEY, b"text", place=PLACE) for _ in range(100)}
    assert len({value[1:13] for value in sealed}) == 100


def test_a_sealed_text_does_not_show() -> None:
    assert b"find me" not in seal(KEY, b"find me" * 10, place=PLACE)


def test_a_sealed_vector_stays_in_a_pixeltable_row() -> None:
    assert len(seal(KEY, bytes(256), place=PLACE)) <= PIXELTABLE_ROW_BYTES


@pytest.mark.parametrize("length", [16, 24])
def test_a_value_sealed_by_a_shorter_aes_key_is_not_accepted(length: int) -> None:
    nonce = bytes(12)
    shorter = b"\1" + nonce + AESGCM(bytes(length)).encrypt(nonce, b"text", b"")
    with pytest.raises(SealBrokenError):
        decrypt(bytes(length), shorter, b"")


def test_a_wrapped_key_opens_only_where_it_was_wrapped() -> None:
    inner = bytes(reversed(range(32)))
    wrapped = wrap_key(KEY, inner, place=PLACE)
    assert unwrap_key(KEY, wrapped, place=PLACE) == inner
    assert len(wrapped) == 61
    with pytest.raises(SealBrokenError):
        unwrap_key(KEY, wrapped, place=replace(PLACE, record_id="slot:2"))
    with pytest.raises(SealBrokenError):
        unwrap_key(inner, wrapped, place=PLACE)


def test_only_keys_are_wrapped_and_unwrapped() -> None:
    with pytest.raises(ValueError):
        wrap_key(KEY, bytes(31), place=PLACE)
    with pytest.raises(SealBrokenError):
        unwrap_key(KEY, seal(KEY, bytes(31), place=PLACE), place=PLACE)


def test_the_error_names_nothing_of_the_value_or_its_place() -> None:
    with pytest.raises(SealBrokenError) as caught:
        unseal(KEY, seal(KEY, b"text", place=PLACE), place=replace(PLACE, tenant_id="acme2"))
    assert not any(word in str(caught.value) for word in ("acme", "subject", "memory", "text"))
