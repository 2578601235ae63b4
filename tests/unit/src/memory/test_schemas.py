"""Times of a memory are aware and in UTC; building one is as lenient as the published schema."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from luminescent_cluster.memory.schemas import Memory as PublishedMemory

from src.memory.schemas import Memory, MemoryScope, MemoryType, as_utc

ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)


@given(st.datetimes(timezones=st.none() | ZONES))
def test_every_datetime_has_a_moment_in_utc(moment: datetime) -> None:
    converted = as_utc(moment)
    assert converted.utcoffset() == timedelta(0)
    if moment.tzinfo is None:
        assert converted.replace(tzinfo=None) == moment
    elif timedelta(days=1) < moment.replace(tzinfo=None) - datetime.min < timedelta(days=3_652_000):
        assert converted == moment


@pytest.mark.parametrize(
    ("moment", "nearest"),
    [
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), datetime.max),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), datetime.min),
    ],
)
def test_moments_past_the_calendar_become_the_nearest(moment: datetime, nearest: datetime) -> None:
    assert as_utc(moment) == nearest.replace(tzinfo=UTC)
    assert Memory(
        user_id="u", content="c", memory_type="fact", source="s", created_at=moment
    ).created_at == nearest.replace(tzinfo=UTC)


def test_fields_and_defaults_are_the_published_ones() -> None:
    assert set(Memory.model_fields) - set(PublishedMemory.model_fields) == {"id"}
    assert set(PublishedMemory.model_fields) <= set(Memory.model_fields)
    given_fields = {"user_id": "u", "content": "c", "memory_type": "fact", "source": "s"}
    times = {"created_at", "last_accessed_at"}
    ours, published = Memory(**given_fields), PublishedMemory(**given_fields)
    assert ours.model_dump(exclude={"id", *times}, mode="json") == published.model_dump(exclude=times, mode="json")


def test_what_only_a_provider_can_judge_can_be_built() -> None:
    Memory(user_id="", content="", memory_type="fact", source="", metadata={"a": {1}}, expires_at=datetime.min)


def test_enums_are_text() -> None:
    assert [member.value for member in MemoryType] == ["preference", "fact", "decision"]
    assert [member.value for member in MemoryScope] == ["user", "project", "global"]
    assert MemoryType.FACT == "fact"


def test_a_memory_of_checked_values_is_the_one_that_would_be_built() -> None:
    built = Memory(
        user_id="u", content="c", memory_type=MemoryType.FACT, source="s", metadata={"a": [1]}, id="i", confidence=0.5
    )
    values = {name: getattr(built, name) for name in Memory.model_fields}
    made = Memory.of_checked(**values)
    assert made == Memory(**values)
    assert made.model_fields_set == Memory(**values).model_fields_set
    assert made.model_dump_json() == built.model_dump_json()
    assert made.model_copy(update={"content": "d"}).content == "d"
    made.confidence = 1.0
    assert (made.confidence, built.confidence) == (1.0, 0.5)


@pytest.mark.parametrize("wrong", [{}, {"surprise": 1}])
def test_a_memory_of_checked_values_has_all_fields_and_no_others(wrong: dict[str, object]) -> None:
    values = {name: None for name in Memory.model_fields if name != "source"} | wrong
    with pytest.raises(ValueError, match="all its fields"):
        Memory.of_checked(**values)
