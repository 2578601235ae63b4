"""A file of memories is read line by line: what is none is a fault with its number, and nothing stops the reading."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.cli import jsonl
from cloud.cli.jsonl import Line, LineError, chunks, parse

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GOOD = {"user_id": "alice", "content": "Prefers tea", "memory_type": "preference", "source": "conversation"}


def line(**changes: object) -> Line:
    return Line(1, json.dumps({**GOOD, **changes}).encode())


def numbers(data: bytes) -> list[int]:
    return [one.number for chunk in chunks(io.BytesIO(data)) for one in chunk.lines]


class TestChunks:
    def test_lines_keep_their_numbers_and_blank_ones_are_left_out(self) -> None:
        assert numbers(b"a\n\n  \nb\r\nc") == [1, 4, 5]

    def test_an_empty_file_has_no_chunk(self) -> None:
        assert list(chunks(io.BytesIO(b""))) == []

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self) -> None:
        ((first, second),) = [chunk.lines for chunk in chunks(io.BytesIO(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n"))]
        assert (first.data, second.data) == (b"{}", b"\xef\xbb\xbf{}")

    def test_a_chunk_ends_after_500_lines(self) -> None:
        assert [len(chunk.lines) for chunk in chunks(io.BytesIO(b"x\n" * 1_201))] == [500, 500, 201]

    def test_a_chunk_ends_when_its_bytes_are_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonl, "CHUNK_BYTES", 10)
        assert [len(chunk.lines) for chunk in chunks(io.BytesIO(b"12345\n" * 5))] == [2, 2, 1]

    def test_a_line_that_is_too_long_is_a_fault_and_the_next_one_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 10)
        monkeypatch.setattr(jsonl, "_SKIP_BYTES", 4)
        data = b"x" * 10 + b"\n" + b"y" * 11 + b"\n" + b"z" * 100 + b"\n{}\n" + b"t" * 30
        (chunk,) = chunks(io.BytesIO(data))
        assert [(one.number, one.data is None) for one in chunk.lines] == [
            (1, False),
            (2, True),
            (3, True),
            (4, False),
            (5, True),
        ]
        assert chunk.end_bytes == len(data)

    @given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b" ")), max_size=30))
    def test_no_bytes_stop_the_reading_or_shift_a_number(self, written: list[bytes]) -> None:
        data = b"\n".join(written)
        expected = [
            number for number, one in enumerate(data.split(b"\n"), start=1) if one.strip(b"\xef\xbb\xbf").strip()
        ]
        found = numbers(data)
        assert found == sorted(set(found))
        assert set(expected) <= set(found)
        for chunk in chunks(io.BytesIO(data)):
            for one in chunk.lines:
                try:
                    parse(one, NOW)
                except LineError:
                    continue


class TestParse:
    def test_a_memory_keeps_what_the_line_says(self) -> None:
        found = parse(
            line(id="ignored", created_at="2026-01-08T07:55:14+01:00", confidence=0.5, metadata={"a": [1]}), NOW
        )
        assert (found.id, found.confidence, found.metadata) == (None, 0.5, {"a": [1]})
        assert found.created_at == datetime(2026, 1, 8, 6, 55, 14, tzinfo=UTC)

    def test_a_naive_time_is_utc(self) -> None:
        assert parse(line(created_at="2026-01-08T07:55:14"), NOW).created_at.isoformat() == "2026-01-08T07:55:14+00:00"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (None, "longer than 4 MiB"),
            (b"\xff\xfe", "invalid UTF-8 at byte 1"),
            (b'{"user_id": "\xe4"}', "invalid UTF-8 at byte 14"),
            (b"not json", "invalid JSON: Expecting value at character 1"),
            (b"{} {}", "invalid JSON: Extra data at character 4"),
            (b"[]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b"[" * 200_000, "invalid JSON: nested too deeply"),
            (b'{"confidence": NaN}', "invalid JSON: NaN is no JSON number"),
            (b'{"confidence": -Infinity}', "invalid JSON: -Infinity is no JSON number"),
            (b'{"confidence": ' + b"1" * 5_000 + b"}", "invalid JSON: a number has too many digits"),
            (b"{}", "invalid memory: field 'user_id': Field required"),
        ],
    )
    def test_what_is_no_memory_says_why(self, data: bytes | None, reason: str) -> None:
        with pytest.raises(LineError) as caught:
            parse(Line(7, data), NOW)
        assert str(caught.value) == reason

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"content": ""}, "content"),
            ({"content": "x" * 65_537}, "content"),
            ({"content": "nul \0"}, "content"),
            ({"content": "\ud800"}, "content"),
            ({"user_id": ""}, "user_id"),
            ({"user_id": "a\nb"}, "user_id"),
            ({"user_id": 5}, "user_id"),
            ({"memory_type": "wish"}, "memory_type"),
            ({"confidence": 1.5}, "confidence"),
            ({"created_at": "yesterday"}, "created_at"),
            ({"expires_at": "2026-05-31T00:00:00Z"}, "expires_at"),
            ({"metadata": []}, "metadata"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_a_fault_names_the_field(self, changes: dict[str, object], field: str) -> None:
        with pytest.raises(LineError, match=f"'{field}'"):
            parse(line(**changes), NOW)

    @pytest.mark.parametrize("name", ["content", "user_id", "memory_type", "created_at", "confidence", "source"])
    def test_no_fault_repeats_a_value(self, name: str) -> None:
        with pytest.raises(LineError) as caught:
            parse(line(**{name: ["secret-4711"]}), NOW)
        assert "4711" not in str(caught.value)
