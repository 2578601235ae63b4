"""A value is found by its fingerprints in whatever spelling it stands; files of them are private and checked."""

from __future__ import annotations

import base64
import json
import os
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.gdpr.fingerprints import (
    Fingerprint,
    FingerprintSet,
    Trace,
    of_id,
    of_sealed,
    of_text,
    read,
    write,
)
from cloud.kernel.errors import ConfigurationError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXT = "Größe 43, trägt gern grüne Socken und spricht mit Möwen"


def spellings(found: list[Fingerprint], content: bytes) -> set[str]:
    return {one.spelling.partition("+")[0] for one in found if one.pattern in content}


sealed_values = st.integers(24, 600).map(lambda size: os.urandom(size))


@given(sealed_values, st.binary(max_size=5), st.binary(max_size=5))
def test_a_sealed_value_is_found_as_bytes_base64_and_hex(sealed: bytes, before: bytes, after: bytes) -> None:
    found = list(of_sealed(Trace.ENVELOPE, 0, sealed))
    assert found
    assert spellings(found, before + sealed + after) >= {"bytes"}
    assert spellings(found, base64.b64encode(sealed)) >= {"base64"}
    assert spellings(found, sealed.hex().encode()) >= {"hex"}


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_text_is_found_in_every_spelling(before: str) -> None:
    found, whole = of_text(0, TEXT), f"{before}{TEXT}. The end."
    assert spellings(found, whole.encode()) >= {"utf-8"}
    assert spellings(found, whole.encode("utf-16-le")) >= {"utf-16-le"}
    assert spellings(found, whole.encode("utf-16-be")) >= {"utf-16-be"}
    assert spellings(found, base64.b64encode(whole.encode())) >= {"base64"}
    assert spellings(found, whole.encode().hex().encode()) >= {"hex"}
    assert spellings(found, json.dumps(whole).encode()) >= {"json"}
    assert spellings(found, b"Something else, which is as long as that and told of somebody else.") == set()


def test_an_id_is_found_as_text_bytes_hex_and_base64() -> None:
    value = str(uuid.uuid4())
    found, raw = list(of_id(Trace.MEMORY_ID, 0, value)), uuid.UUID(value).bytes
    for spelling, content in {
        "text": value.encode(),
        "bytes": raw,
        "hex": raw.hex().encode(),
        "base64": base64.b64encode(raw),
    }.items():
        assert spellings(found, content) == {spelling}


@pytest.mark.parametrize("text", ["alice", " " * 60, "aaaaaaaaaaaaaaaaaaaaaaaaaaaa"])
def test_what_could_be_anybodys_is_no_fingerprint(text: str) -> None:
    assert [one for one in of_text(0, text) if one.spelling == "utf-8"] == []


def taken() -> FingerprintSet:
    return FingerprintSet("acme", NOW, (*of_text(0, TEXT), *of_id(Trace.SUBJECT_ID, 0, str(uuid.uuid4()))), too_short=2)


def test_a_row_of_zeros_is_no_fingerprint() -> None:
    assert list(of_sealed(Trace.VECTOR, 0, bytes(300))) == []


def test_a_file_of_them_is_private_says_so_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "fingerprints"
    write(taken_once := taken(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "Sensitive" in json.loads(path.read_text())["notice"]
    assert read(path) == taken_once


def test_nothing_is_written_over_or_through_a_link(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (there, link):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            write(taken(), path)
    assert there.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"format": "another"}',
        b'{"format": "luminescent-fingerprints-1"}',
        json.dumps(
            {
                "format": "luminescent-fingerprints-1",
                "tenant_id": "acme",
                "taken_at": NOW.isoformat(),
                "too_short": 0,
                "fingerprints": [["plaintext", "utf-8", 0, base64.b64encode(b"short").decode()]],
            }
        ).encode(),
    ],
)
def test_what_is_no_file_of_fingerprints_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fingerprints"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="gdpr scan take writes one") as refused:
        read(path)
    assert refused.value.__cause__ is None


def test_plaintext_can_be_left_out() -> None:
    assert {one.trace for one in taken().without_plaintext().fingerprints} == {Trace.SUBJECT_ID}


def test_two_sets_of_one_person_keep_their_things_apart() -> None:
    first = FingerprintSet("acme", NOW, tuple(of_sealed(Trace.ENVELOPE, 0, os.urandom(60))))
    second = FingerprintSet("acme", NOW, tuple(of_sealed(Trace.ENVELOPE, 0, os.urandom(60))))
    joined = first.joined(second)
    assert len({one.item for one in joined.fingerprints}) == 2
    assert len(joined.fingerprints) == len(first.fingerprints) + len(second.fingerprints)
    assert "pattern" not in repr(joined)
