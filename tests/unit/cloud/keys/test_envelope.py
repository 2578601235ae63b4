"""An envelope comes back equal; bytes that are none raise one error."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from cloud.kernel.errors import InvalidMemoryError, SealBrokenError
from cloud.keys.envelope import Envelope, decode_envelope, encode_envelope

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)
envelopes = st.builds(
    Envelope,
    user_id=any_text,
    content=any_text,
    source=any_text,
    raw_source=st.none() | any_text,
    extraction_version=st.integers(),
    metadata=st.dictionaries(any_text, json_values, max_size=4),
    provenance=json_values,
)


@given(envelopes)
def test_an_envelope_comes_back_equal(envelope: Envelope) -> None:
    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(envelopes)
def test_equal_envelopes_have_equal_bytes(envelope: Envelope) -> None:
    turned = dict(reversed(envelope.metadata.items()))
    same = Envelope(**{f.name: getattr(envelope, f.name) for f in fields(Envelope)} | {"metadata": turned})
    assert encode_envelope(same) == encode_envelope(envelope)


def test_nothing_personal_shows() -> None:
    envelope = Envelope("alice", "content", "source", "raw", 3, {"key": "value"}, {"from": "chat"})
    assert repr(envelope) == "Envelope(extraction_version=3)"


def _loop() -> dict[str, JsonValue]:
    loop: dict[str, JsonValue] = {}
    loop["self"] = loop
    return loop


def _deep() -> dict[str, JsonValue]:
    value: JsonValue = "secret"
    for _ in range(100_000):
        value = [value]
    return {"deep": value}


@pytest.mark.parametrize(
    "metadata",
    [
        {"secret": float("nan")},
        {"secret": float("inf")},
        {"secret": 10**5000},
        {"secret": b"bytes"},
        {"secret": 1, None: 2},
        _loop(),
        _deep(),
    ],
    ids=["nan", "infinity", "long", "bytes", "keys", "loop", "deep"],
)
def test_what_json_cannot_carry_is_refused_without_quoting_it(metadata: dict[str, JsonValue]) -> None:
    with pytest.raises(InvalidMemoryError) as caught:
        encode_envelope(Envelope("alice", "content", "source", metadata=metadata))
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_raise_nothing_else(encoded: bytes) -> None:
    with pytest.raises(SealBrokenError):
        decode_envelope(encoded)


@given(envelopes, st.data())
def test_a_cut_envelope_is_refused(envelope: Envelope, data: st.DataObject) -> None:
    encoded = encode_envelope(envelope)
    with pytest.raises(SealBrokenError):
        decode_envelope(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


WHOLE: list[object] = [1, "alice", "content", "source", None, 1, {}, None]


@pytest.mark.parametrize(
    "fields",
    [
        [2, *WHOLE[1:]],
        [True, *WHOLE[1:]],
        [1.0, *WHOLE[1:]],
        WHOLE[:-1],
        [*WHOLE, None],
        [*WHOLE[:1], None, *WHOLE[2:]],
        [*WHOLE[:4], 7, *WHOLE[5:]],
        [*WHOLE[:5], True, *WHOLE[6:]],
        [*WHOLE[:6], [], None],
        {"version": 1},
    ],
)
def test_an_envelope_of_another_shape_is_refused(fields: object) -> None:
    assert decode_envelope(json.dumps(WHOLE).encode()).content == "content"
    with pytest.raises(SealBrokenError):
        decode_envelope(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "encoded",
    [b"[" * 200_000, b'[1,"a","b","c",null,1,{"x":NaN},null]', b'[1,"a","b","c",null,' + b"9" * 5000 + b",{},null]"],
    ids=["deep", "nan", "long"],
)
def test_json_that_only_looks_right_is_refused(encoded: bytes) -> None:
    with pytest.raises(SealBrokenError):
        decode_envelope(encoded)
