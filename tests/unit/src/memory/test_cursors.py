"""A cursor opens its own walk and nothing else, and a walk shows each memory once."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import InvalidFilterError
from src.memory.cursors import Cursors, Position, page_of, walk_of
from src.memory.filters import parse_walk

moments = st.datetimes(timezones=st.just(UTC))
positions = st.builds(Position, moments, st.uuids().map(str))


@given(positions, st.binary())
def test_a_cursor_stands_for_its_position(position: Position, walk: bytes) -> None:
    cursors = Cursors(b"s" * 16)
    assert cursors.position(cursors.cursor(position, walk), walk) == position


@given(positions, st.integers(0, 54), st.characters(codec="ascii"))
def test_a_cursor_with_any_character_changed_is_refused(position: Position, at: int, character: str) -> None:
    cursors = Cursors(b"s" * 16)
    cursor = cursors.cursor(position, b"walk")
    changed = cursor[:at] + character + cursor[at + 1 :]
    if changed == cursor:
        return
    with pytest.raises(InvalidFilterError) as refused:
        cursors.position(changed, b"walk")
    assert refused.value.place == "cursor"


def test_a_cursor_of_another_secret_or_walk_is_refused() -> None:
    position = Position(datetime(2026, 1, 1, tzinfo=UTC), str(uuid.uuid4()))
    cursor = Cursors(b"s" * 16).cursor(position, b"walk")
    for secret, walk in ((b"t" * 16, b"walk"), (b"s" * 16, b"walk2"), (b"s" * 16, b"")):
        with pytest.raises(InvalidFilterError):
            Cursors(secret).position(cursor, walk)


def test_a_cursor_holds_a_time_and_an_id_and_nothing_of_the_walk() -> None:
    position = Position(datetime(2026, 1, 1, tzinfo=UTC), str(uuid.uuid4()))
    request = parse_walk({"metadata.secret": "tea"})
    cursor = Cursors(b"s" * 16).cursor(position, walk_of("alice", request))
    raw = base64.urlsafe_b64decode(cursor + "=")
    assert len(raw) == 1 + 8 + 16 + 16
    assert uuid.UUID(position.memory_id).bytes in raw
    assert b"alice" not in raw
    assert b"tea" not in raw


def test_walks_are_told_apart_by_person_and_meaning() -> None:
    same = [
        {"source": {"$in": ["a", "b"]}, "confidence": 1},
        {"confidence": 1, "source": {"$in": ["b", "a"]}},
        {"source": {"$in": {"b", "a"}}, "confidence": {"$eq": 1}, "include_invalid": False},
    ]
    assert len({walk_of("alice", parse_walk(filters)) for filters in same}) == 1
    different = [
        walk_of("alice", parse_walk(filters))
        for filters in (None, {"include_invalid": True}, {"source": "a"}, {"source": "b"}, {"metadata.source": "a"},
                        {"$not": {"source": "a"}}, {"source": {"$ne": "a"}}, {"metadata.n": 1}, {"metadata.n": "1"},
                        {"$or": [{"source": "a"}, {"source": "b"}]}, {"$and": [{"source": "a"}, {"source": "b"}]})
    ]  # fmt: skip
    assert len({*different, walk_of("alice2", parse_walk(None))}) == len(different) + 1


@given(st.lists(st.tuples(st.integers(0, 3), st.uuids().map(str)), unique_by=lambda held: held[1]), st.integers(1, 5))
def test_pages_make_up_the_whole_in_order(held: list[tuple[int, str]], limit: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    memories = [(memory_id, SimpleNamespace(created_at=start + timedelta(days=day))) for day, memory_id in held]
    seen: list[str] = []
    after: Position | None = None
    while True:
        page, after = page_of(memories, after=after, limit=limit)
        seen += page
        if after is None:
            break
        assert len(page) == limit
    by_id = sorted(held, key=lambda one: one[1])
    assert seen == [memory_id for _, memory_id in sorted(by_id, key=lambda one: one[0], reverse=True)]
