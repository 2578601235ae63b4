"""A file of memories is read line by line: what is none is a fault with its number, and nothing stops the reading."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.transfer import importing, jsonl
from cloud.transfer.checking import checked
from cloud.transfer.model import Entry, EntryError
from src.memory.schemas import Memory

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GOOD = {"user_id": "alice", "content": "Prefers tea", "memory_type": "preference", "source": "conversation"}


def entries(data: bytes, user_id: str | None = None) -> list[Entry]:
    return list(jsonl.entries(io.BytesIO(data), user_id))


def line(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def parse(data: bytes) -> Memory:
    (entry,) = entries(data)
    return checked(entry, NOW)


def numbers(data: bytes) -> list[int]:
    return [entry.position.number for entry in entries(data)]


class TestLines:
    def test_lines_keep_their_numbers_and_blank_ones_are_left_out(self) -> None:
        assert numbers(b"a\n\n  \nb\r\nc") == [1, 4, 5]

    def test_an_empty_file_has_no_entry(self) -> None:
        assert entries(b"") == []

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self) -> None:
        first, second = entries(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n")
        assert (first.values, second.values) == ({}, None)

    def test_a_line_that_is_too_long_is_a_fault_and_the_next_one_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 10)
        monkeypatch.setattr(jsonl, "_SKIP_BYTES", 4)
        data = b"x" * 10 + b"\n" + b"y" * 11 + b"\n" + b"z" * 100 + b"\n{}\n" + b"t" * 30
        found = entries(data)
        assert [(one.position.number, (one.fault or "").startswith("longer")) for one in found] == [
            (1, False),
            (2, True),
            (3, True),
            (4, False),
            (5, True),
        ]
        assert sum(one.size_bytes for one in found) == len(data)

    def test_a_line_of_10_mb_is_a_fault_with_its_number(self) -> None:
        first, second = entries(line(content="x" * 10_000_000) + b"\n" + line())
        assert (first.position.number, first.fault) == (1, "longer than 4 MiB")
        assert checked(second, NOW).content == "Prefers tea"

    def test_the_person_given_is_that_of_lines_that_name_nobody(self) -> None:
        nobody = json.dumps({name: value for name, value in GOOD.items() if name != "user_id"}).encode()
        found = entries(b"\n".join([nobody, line(user_id=None), line(user_id="bob")]), "carol")
        assert [checked(one, NOW).user_id for one in found] == ["carol", "carol", "bob"]

    @given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b" ")), max_size=30))
    def test_no_bytes_stop_the_reading_or_shift_a_number(self, written: list[bytes]) -> None:
        data = b"\n".join(written)
        expected = [
            number for number, one in enumerate(data.split(b"\n"), start=1) if one.strip(b"\xef\xbb\xbf").strip()
        ]
        found = numbers(data)
        assert found == sorted(set(found))
        assert set(expected) <= set(found)
        for entry in entries(data):
            try:
                checked(entry, NOW)
            except EntryError:
                continue


class TestChunks:
    def test_a_chunk_ends_after_so_many_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importing, "CHUNK_ENTRIES", 500)
        found = importing.chunks(jsonl.entries(io.BytesIO(b"x\n" * 1_201), None))
        assert [len(chunk) for chunk in found] == [500, 500, 201]

    def test_a_chunk_ends_when_its_bytes_are_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importing, "CHUNK_BYTES", 10)
        found = importing.chunks(jsonl.entries(io.BytesIO(b"12345\n" * 5), None))
        assert [len(chunk) for chunk in found] == [2, 2, 1]


class TestParse:
    def test_a_memory_keeps_what_the_line_says(self) -> None:
        found = parse(line(id="ignored", created_at="2026-01-08T07:55:14+01:00", confidence=0.5, metadata={"a": [1]}))
        assert (found.id, found.confidence, found.metadata) == (None, 0.5, {"a": [1]})
        assert found.created_at == datetime(2026, 1, 8, 6, 55, 14, tzinfo=UTC)

    def test_a_naive_time_is_utc(self) -> None:
        assert parse(line(created_at="2026-01-08T07:55:14")).created_at.isoformat() == "2026-01-08T07:55:14+00:00"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
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
    def test_what_is_no_memory_says_why(self, data: bytes, reason: str) -> None:
        with pytest.raises(EntryError) as caught:
            parse(data)
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
        with pytest.raises(EntryError, match=f"'{field}'"):
            parse(line(**changes))

    @pytest.mark.parametrize("name", ["content", "user_id", "memory_type", "created_at", "confidence", "source"])
    def test_no_fault_repeats_a_value(self, name: str) -> None:
        with pytest.raises(EntryError) as caught:
            parse(line(**{name: ["secret-4711"]}))
        assert "4711" not in str(caught.value)
