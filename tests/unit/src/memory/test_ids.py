"""Memory ids are UUIDv7: in canonical form, unique, and in the order of their making."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from src.memory import ids
from src.memory.ids import new_memory_id, parse_memory_id


def test_ids_are_uuid7_of_the_present() -> None:
    made = uuid.UUID(new_memory_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert abs((made.int >> 80) - time.time() * 1000) < 60_000


def test_ids_of_one_process_only_grow() -> None:
    made = [new_memory_id() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_ids_grow_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_memory_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    assert new_memory_id() > before


def test_threads_make_distinct_ids() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = [
            memory_id
            for batch in threads.map(lambda _: [new_memory_id() for _ in range(500)], range(8))
            for memory_id in batch
        ]
    assert len(set(made)) == 4000


def test_only_the_canonical_form_is_an_id() -> None:
    made = new_memory_id()
    assert parse_memory_id(made) == made
    for other in (made.upper(), made.replace("-", ""), f"{{{made}}}", f" {made}", made[:-1], made[:-1] + "g", None, 7):
        assert other == made or parse_memory_id(other) is None
