"""What `accept` lets through is storable and shares nothing; what it refuses, it names."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luminescent_cluster.memory.blocks.schemas import Provenance
from luminescent_cluster.memory.schemas import Memory as PublishedMemory
from luminescent_cluster.memory.schemas import MemoryType as PublishedType
from pydantic import BaseModel

from src.errors import InvalidFilterError, InvalidMemoryError
from src.memory.json_values import MAX_DEPTH
from src.memory.schemas import Memory, MemoryType
from src.memory.validation import accept, check_limit, check_query, check_user_id
from src.testing.samples import INVALID_MEMORIES, InvalidSample, sample_memory
from src.testing.strategies import memories

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("sample", INVALID_MEMORIES, ids=lambda sample: sample.label)
def test_error_names_the_field_and_not_the_value(sample: InvalidSample) -> None:
    with pytest.raises(InvalidMemoryError) as refused:
        accept(sample_memory(**{"user_id": "alice", sample.field: sample.value}), NOW)
    assert refused.value.field == sample.field
    assert len(str(refused.value)) < 120
    if isinstance(sample.value, str) and len(sample.value) > 3:
        assert sample.value not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content", "a" * (64 * 1024)),
        ("raw_source", "a" * (256 * 1024)),
        ("source", "s" * 1024),
        ("user_id", "u" * 256),
        ("confidence", 0),
        ("confidence", 1),
        ("metadata", {"a": "x" * (64 * 1024 - len('{"a":""}'))}),
        ("metadata", {"a": 2**64, "b": -0.0, "c": 1e308}),
        ("expires_at", NOW + timedelta(microseconds=1)),
    ],
)
def test_the_limits_themselves_are_within(field: str, value: object) -> None:
    assert getattr(accept(sample_memory(**{"user_id": "alice", field: value}), NOW), field) == value


def test_depth_is_bounded_exactly() -> None:
    nested: object = 1
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    assert accept(sample_memory(metadata={"a": nested}), NOW).metadata == {"a": nested}
    with pytest.raises(InvalidMemoryError, match="deep"):
        accept(sample_memory(metadata={"a": [nested]}), NOW)


def test_a_memory_expires_at_its_moment_and_not_after() -> None:
    with pytest.raises(InvalidMemoryError, match="expires_at"):
        accept(sample_memory(expires_at=NOW), NOW)


@settings(max_examples=50, deadline=None)
@given(memories())
def test_accepted_memory_is_equal_idempotent_and_shares_nothing(memory: Memory) -> None:
    memory.id = "something"
    accepted = accept(memory, NOW)
    assert accepted == memory.model_copy(update={"id": None})
    assert accept(accepted, NOW) == accepted
    assert accepted.metadata is not memory.metadata
    assert json.loads(json.dumps(accepted.metadata)) == accepted.metadata


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidMemoryError) as refused:
        accept(Memory.model_construct(content="c", memory_type="fact", source="s"), NOW)
    assert refused.value.field == "user_id"
    with pytest.raises(InvalidMemoryError):
        accept("not a memory", NOW)


class Colour(str, Enum):  # noqa: UP042
    RED = "red"


def test_subclasses_become_the_plain_values_they_stand_for() -> None:
    accepted = accept(
        sample_memory(source=Colour.RED, metadata={Colour.RED: (Colour.RED, 1)}, extraction_version=True + 1), NOW
    )
    assert type(accepted.source) is str
    assert accepted.source == "red"
    assert accepted.metadata == {"red": ["red", 1]}
    assert [type(key) for key in accepted.metadata] == [str]
    assert type(accepted.metadata["red"][0]) is str


def test_published_memories_are_accepted() -> None:
    published = PublishedMemory(
        user_id="alice",
        content="c",
        memory_type=PublishedType.DECISION,
        source="s",
        provenance=Provenance(source_id="1", source_type="adr", confidence=0.5, created_at=NOW),
    )
    accepted = accept(published, NOW)
    assert accepted.memory_type is MemoryType.DECISION
    assert accepted.provenance == {
        "source_id": "1",
        "source_type": "adr",
        "confidence": 0.5,
        "created_at": "2026-01-01T00:00:00+00:00",
        "retrieval_score": None,
        "metadata": None,
    }


class Origin(BaseModel):
    at: datetime
    inner: object = None


@dataclass
class Chain:
    origins: list[Origin]


def test_models_in_provenance_are_written_as_json() -> None:
    accepted = accept(sample_memory(provenance=Chain([Origin(at=NOW)])), NOW)
    assert accepted.provenance == {"origins": [{"at": "2026-01-01T00:00:00Z", "inner": None}]}


def test_models_that_cannot_be_written_are_refused() -> None:
    for inner in (object(), NestedForever()):
        with pytest.raises(InvalidMemoryError, match="provenance"):
            accept(sample_memory(provenance=Origin(at=NOW, inner=inner)), NOW)


class NestedForever(BaseModel):
    """Refers to itself."""

    own: object = None

    def model_post_init(self, _context: object) -> None:
        self.own = self


def test_models_in_metadata_are_refused() -> None:
    with pytest.raises(InvalidMemoryError, match="metadata"):
        accept(sample_memory(metadata={"a": Origin(at=NOW)}), NOW)


@given(st.text())
def test_user_id_is_itself_or_refused(text: str) -> None:
    unusable = any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    if 0 < len(text) <= 256 and not text.isspace() and not unusable:
        assert check_user_id(text) == text
        return
    with pytest.raises(InvalidFilterError) as refused:
        check_user_id(text)
    assert refused.value.place == "user_id"


def test_limits_are_whole_numbers_from_1_to_1000() -> None:
    assert [check_limit(1), check_limit(1000)] == [1, 1000]
    for limit in (0, 1001, -1, True, 1.0, "1", None):
        with pytest.raises(InvalidFilterError) as refused:
            check_limit(limit)
        assert refused.value.place == "limit"


def test_queries_are_well_formed_text_up_to_64_kib() -> None:
    assert check_query("") == ""
    assert len(check_query("é" * (32 * 1024))) == 32 * 1024
    for query in ("é" * (32 * 1024 + 1), "a\0", "\ud800", b"x", None):
        with pytest.raises(InvalidFilterError) as refused:
            check_query(query)
        assert refused.value.place == "query"
