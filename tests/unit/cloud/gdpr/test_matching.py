"""Every occurrence of every pattern is found, wherever it stands, and nothing else is."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.gdpr import matching
from cloud.gdpr.matching import PATTERN_BYTES_MAX, PATTERN_BYTES_MIN, Matcher

# Two letters: patterns overlap each other and themselves, and their words are each other's.
uniform = st.binary(min_size=PATTERN_BYTES_MIN, max_size=20).map(lambda raw: bytes(97 + byte % 2 for byte in raw))
varied = st.binary(min_size=PATTERN_BYTES_MIN, max_size=PATTERN_BYTES_MAX)


def plainly(patterns: list[bytes], content: bytes) -> set[tuple[int, int]]:
    return {
        (number, at)
        for number, pattern in enumerate(patterns)
        for at in range(len(content))
        if content.startswith(pattern, at)
    }


@given(st.data())
def test_what_a_plain_search_finds_is_found(data: st.DataObject) -> None:
    patterns = data.draw(st.lists(st.one_of(uniform, varied), min_size=1, max_size=6))
    pieces = data.draw(st.lists(st.one_of(st.sampled_from(patterns), st.binary(max_size=9), uniform), max_size=12))
    content = b"".join(pieces)
    found = list(Matcher(patterns).in_bytes(content))
    assert set(found) == plainly(patterns, content)
    assert len(found) == len(set(found)), "each is told once"


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("after", [0, 1, 7, 8])
def test_a_pattern_is_found_at_every_alignment_and_at_both_ends(before: int, after: int) -> None:
    pattern = bytes(range(1, 1 + PATTERN_BYTES_MIN))
    content = b"\0" * before + pattern + b"\0" * after
    assert list(Matcher([pattern]).in_bytes(content)) == [(0, before)]


def test_a_file_is_searched_over_the_ends_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_CHUNK_BYTES", 1024)
    chance = random.Random(1)
    patterns = [chance.randbytes(size) for size in (15, 24, 64)]
    for shift in range(0, 1100, 7):
        content = bytearray(chance.randbytes(4096))
        for number, pattern in enumerate(patterns):
            at = shift + number * 1000
            content[at : at + len(pattern)] = pattern
        expected = {(number, shift + number * 1000) for number in range(3)}
        found = list(Matcher(patterns).in_file(io.BytesIO(bytes(content))))
        assert set(found) == expected
        assert len(found) == 3


@pytest.mark.parametrize("before", range(1, 24))
def test_what_a_page_header_of_the_log_cuts_in_two_is_found_once_where_it_begins(before: int) -> None:
    pattern, header = bytes(range(100, 124)), b"h" * 24
    whole = b"." * 8_192 + header + b"." * 8_000 + pattern + b"." * 144
    page = b"." * (8_192 - before) + pattern[:before] + header + pattern[before:]
    content = page.ljust(16_384, b".") + header + whole[:5_000]
    matcher = Matcher([pattern, bytes(24)])
    assert list(matcher.in_file(io.BytesIO(content))) == []
    assert list(matcher.in_log(io.BytesIO(content))) == [(0, 8_192 - before)]
    assert list(matcher.in_log(io.BytesIO(whole))) == list(matcher.in_file(io.BytesIO(whole))) == [(0, 16_216)]


def test_without_patterns_nothing_is_found() -> None:
    assert list(Matcher([]).in_bytes(b"x" * 100)) == []


@pytest.mark.parametrize("size", [0, PATTERN_BYTES_MIN - 1, PATTERN_BYTES_MAX + 1])
def test_a_pattern_that_could_be_missed_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="too short or too long"):
        Matcher([b"x" * size])
