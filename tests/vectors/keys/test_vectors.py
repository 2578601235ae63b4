"""The cipher gives the published answers, and what format 1 wrote stays readable."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloud.keys.envelope import Envelope, decode_envelope, encode_envelope
from cloud.keys.layout import subject_place
from cloud.keys.model import Place, Slot, SlotState, encode_place, link_tag, pack_slot, parse_slot
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sealing import decrypt, encrypt, seal, unseal, unwrap_key, wrap_key

HERE = Path(__file__).parent
PUBLISHED: list[dict[str, Any]] = json.loads((HERE / "gcm_mcgrew_viega.json").read_text())["cases"]
FORMAT_1: dict[str, Any] = json.loads((HERE / "format_1.json").read_text())

KEY = bytes.fromhex(FORMAT_1["key"])
PLACE = Place(**{name: value for name, value in FORMAT_1["place"].items() if name != "encoded"})


@pytest.fixture
def fixed_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda _count: bytes.fromhex(FORMAT_1["nonce"]))


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"case {case['case']}")
def test_published_aes_256_gcm_cases(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    key, nonce, plaintext, associated, ciphertext, tag = (
        bytes.fromhex(case[name]) for name in ("key", "nonce", "plaintext", "associated", "ciphertext", "tag")
    )
    monkeypatch.setattr(os, "urandom", lambda _count: nonce)
    sealed = encrypt(key, plaintext, associated)
    assert sealed == b"\1" + nonce + ciphertext + tag
    assert decrypt(key, sealed, associated) == plaintext


def test_places_are_encoded_as_ever() -> None:
    assert encode_place(PLACE).hex() == FORMAT_1["place"]["encoded"]


def test_envelopes_are_sealed_as_ever(fixed_nonce: None) -> None:
    given = FORMAT_1["envelope"]
    envelope = Envelope(**given["fields"])
    assert encode_envelope(envelope).hex() == given["encoded"]
    assert seal(KEY, encode_envelope(envelope), place=PLACE).hex() == given["sealed"]


def test_envelopes_of_format_1_open() -> None:
    given = FORMAT_1["envelope"]
    opened = decode_envelope(unseal(KEY, bytes.fromhex(given["sealed"]), place=PLACE))
    assert opened == Envelope(**given["fields"])


def test_slots_are_written_as_ever_and_open(fixed_nonce: None) -> None:
    given = FORMAT_1["wrapped_key"]
    place = subject_place(PLACE.tenant_id, PLACE.subject_id, given["slot_number"])
    inner = bytes.fromhex(given["key"])
    assert pack_slot(wrap_key(KEY, inner, place=place)).hex() == given["slot"]
    slot = parse_slot(bytes.fromhex(given["slot"]))
    assert slot == Slot(SlotState.USED, slot.wrapped)
    assert unwrap_key(KEY, slot.wrapped, place=place) == inner


def test_link_tags_are_as_ever() -> None:
    given = FORMAT_1["link_tag"]
    assert link_tag(KEY, given["tenant_id"], given["user_id"]).hex() == given["tag"]


def test_root_keys_are_named_and_wrap_as_ever() -> None:
    given = FORMAT_1["root_key"]
    root = LocalRootKey.from_text(given["text"])
    assert root.key_id == given["key_id"]
    assert root.unwrap(bytes.fromhex(given["wrapped"]), bytes.fromhex(given["aad"])) == bytes(32)
