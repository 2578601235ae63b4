"""The grammar refuses what it does not know; what it knows means what a slow and plain reading says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import InvalidFilterError
from src.memory.filters import parse_filters
from src.memory.predicates import AllOf, Condition, Field, Operator, matches
from src.memory.schemas import Memory, MemoryType, as_utc
from src.testing.samples import INVALID_FILTERS, InvalidFilter, sample_memory
from src.testing.strategies import filters, json_values, memories

ABSENT = object()
HALF_MEANT_KEYS = [
    *("$and", "$or", "$not", "$in", "$eq", "$gt", "$exists", "$", ""),
    *("source", "confidence", "created_at", "metadata", "metadata.", "metadata.a", "query", "\ud800"),
]


def naive(wanted: dict[str, Any], memory: Memory) -> bool:
    """The grammar read aloud, without regard to speed or to the code under test."""
    return all(naive_part(key, value, memory) for key, value in wanted.items())


def naive_part(key: str, value: Any, memory: Memory) -> bool:
    if key == "$and":
        return all(naive(part, memory) for part in value)
    if key == "$or":
        return any(naive(part, memory) for part in value)
    if key == "$not":
        return not naive(value, memory)
    if key == "min_confidence":
        return memory.confidence >= value
    stored = naive_read(key, memory)
    operators = value if isinstance(value, dict) else {"$eq": value}
    return all(naive_holds(operator, operand, stored) for operator, operand in operators.items())


def naive_read(key: str, memory: Memory) -> object:
    if not key.startswith("metadata."):
        stored = getattr(memory, key)
        return ABSENT if stored is None else stored
    here: Any = memory.metadata
    for name in key.split(".")[1:]:
        if not isinstance(here, dict) or name not in here:
            return ABSENT
        here = here[name]
    return here


def naive_kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return type(value).__name__


def naive_equal(stored: object, operand: Any) -> bool:
    if isinstance(stored, list | dict) or stored is ABSENT:
        return False
    if isinstance(stored, datetime) and isinstance(operand, str):
        operand = as_utc(datetime.fromisoformat(operand))
    return naive_kind(stored) == naive_kind(operand) and stored == operand


def naive_holds(operator: str, operand: Any, stored: Any) -> bool:
    if operator == "$exists":
        return (stored is not ABSENT) == operand
    if operator in ("$eq", "$ne"):
        return naive_equal(stored, operand) == (operator == "$eq")
    if operator in ("$in", "$nin"):
        return any(naive_equal(stored, one) for one in operand) == (operator == "$in")
    if isinstance(stored, datetime) and isinstance(operand, str):
        operand = as_utc(datetime.fromisoformat(operand))
    if stored is ABSENT or naive_kind(stored) != naive_kind(operand):
        return False
    return {
        "$gt": lambda: stored > operand,
        "$gte": lambda: stored >= operand,
        "$lt": lambda: stored < operand,
        "$lte": lambda: stored <= operand,
    }[operator]()


OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists")
DAY = datetime(2024, 1, 1, tzinfo=UTC)
SCALARS = (None, True, False, 0, 1, 1.0, 0.5, -1, "", "1", "x", "é")
TABLE: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    # What is stored, and what it is compared with.
    "metadata.a": ((*SCALARS, [1], {"a": 1}, ABSENT), SCALARS),
    "metadata.a.b": (({"b": 1}, {"b": None}, {}, [{"b": 1}], "b", ABSENT), (None, 1)),
    "memory_type": ((MemoryType.FACT, MemoryType.DECISION, "fact"), (MemoryType.FACT, "decision")),
    "source": (("adr", "conversation"), ("adr", "b", "conversation")),
    "confidence": ((0.0, 0.5, 1.0), (0, 0.5, 1)),
    "created_at": ((DAY, DAY + timedelta(days=1)), (DAY, "2024-01-01T02:00:00+02:00", "2024-01-02")),
    "expires_at": ((None, DAY, DAY + timedelta(days=1)), (DAY, "2024-01-02T00:00:00Z")),
}


def operand_for(operator: str, operand: object) -> object:
    if operator in ("$in", "$nin"):
        return [operand, operand]
    return operand is None if operator == "$exists" else operand


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("key", TABLE)
def test_every_comparison_is_the_plain_one(key: str, operator: str) -> None:
    stored_values, operands = TABLE[key]
    for stored in stored_values:
        if key.startswith("metadata."):
            memory = sample_memory(metadata={} if stored is ABSENT else {"a": stored}, expires_at=None)
        else:
            memory = sample_memory(**{"expires_at": None, key: stored})
        for operand in operands:
            wanted = {key: {operator: operand_for(operator, operand)}}
            without_order = key == "memory_type" or operand is None or isinstance(operand, bool)
            if operator in ("$gt", "$gte", "$lt", "$lte") and without_order:
                with pytest.raises(InvalidFilterError, match="no order"):
                    parse_filters(wanted)
                continue
            expected = naive(wanted, memory)
            assert matches(parse_filters(wanted).predicate, memory) == expected, (stored, wanted)
            if operator == "$eq":
                assert matches(parse_filters({key: operand}).predicate, memory) == expected


@settings(max_examples=200, deadline=None)
@given(filters(), memories(users=st.just("alice")))
def test_predicate_means_what_the_grammar_says(wanted: dict[str, Any], memory: Memory) -> None:
    assert matches(parse_filters(wanted).predicate, memory) == naive(wanted, memory)


@settings(max_examples=100, deadline=None)
@given(filters(), memories(users=st.just("alice")))
def test_not_is_the_opposite_of_everything(wanted: dict[str, Any], memory: Memory) -> None:
    assert matches(parse_filters({"$not": wanted}).predicate, memory) != matches(
        parse_filters(wanted).predicate, memory
    )


@pytest.mark.parametrize("case", INVALID_FILTERS, ids=lambda case: case.label)
def test_error_names_the_place(case: InvalidFilter) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        parse_filters(case.filters)
    assert refused.value.place == case.place
    assert len(str(refused.value)) < 300


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        json_values | st.floats() | st.datetimes() | st.text() | st.binary() | st.sampled_from(MemoryType),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(HALF_MEANT_KEYS) | st.integers(),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_anything_else_raises_the_declared_error_only(anything: Any) -> None:
    try:
        request = parse_filters(anything)
    except InvalidFilterError:
        return
    matches(
        request.predicate,
        sample_memory(metadata={"a": 1}, expires_at=None, created_at=datetime.now(UTC), confidence=0.5),
    )


@pytest.mark.parametrize("not_a_mapping", [None, [], "source", 5, [("source", "x")]])
def test_only_an_object_is_a_filter(not_a_mapping: Any) -> None:
    with pytest.raises(InvalidFilterError, match="filters"):
        parse_filters(not_a_mapping)


def test_errors_do_not_repeat_what_may_be_personal() -> None:
    for wanted in ({"alice@example.org": 1}, {"metadata.a": {"Alice Liddell": 1}}, {"source": {"$gt": 17}}):
        with pytest.raises(InvalidFilterError) as refused:
            parse_filters(wanted)
        assert not any(word in str(refused.value) for word in ("alice", "Alice", "17"))


def test_limits_of_the_grammar_are_within() -> None:
    deepest: dict[str, Any] = {"source": "x"}
    for _ in range(31):
        deepest = {"$not": deepest}
    parse_filters(deepest)
    parse_filters({"metadata.a": {"$in": list(range(1000))}})
    parse_filters({"$or": [{"source": str(n)} for n in range(1000)]})


def test_query_and_include_invalid_are_no_conditions() -> None:
    request = parse_filters({"query": "editor", "include_invalid": True, "source": "adr"})
    assert request.query == "editor"
    assert request.include_invalid is True
    assert request.predicate == Condition(Field.SOURCE, (), Operator.EQ, "adr")
    nothing = parse_filters({})
    assert (nothing.query, nothing.include_invalid, nothing.predicate) == (None, False, AllOf(()))


@dataclass(slots=True)
class Hot:
    """A record that is no `Memory`; its type is plain text."""

    memory_type: str = "fact"
    source: str = "adr"
    confidence: float = 0.5
    created_at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    expires_at: datetime | None = None
    metadata: dict[str, object] = field(default_factory=dict)


@pytest.mark.parametrize("memory_type", ["fact", MemoryType.FACT])
@pytest.mark.parametrize("operand", ["fact", MemoryType.FACT])
@pytest.mark.parametrize("condition", [lambda v: v, lambda v: {"$in": [v]}, lambda v: {"$not": v}])
def test_types_match_as_text_and_as_members(memory_type: str, operand: str, condition: Any) -> None:
    wanted = condition(operand)
    if isinstance(wanted, dict) and "$not" in wanted:
        assert not matches(parse_filters({"$not": {"memory_type": operand}}).predicate, Hot(memory_type))
    else:
        assert matches(parse_filters({"memory_type": wanted}).predicate, Hot(memory_type))


def test_naive_times_mean_utc() -> None:
    for operand in ("2024-01-01", "2024-01-01T00:00:00", "2024-01-01T01:00:00+01:00", datetime(2024, 1, 1)):
        assert matches(parse_filters({"created_at": operand}).predicate, Hot())
