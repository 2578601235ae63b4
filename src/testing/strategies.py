"""Hypothesis strategies: memories that can be stored, user ids, and filters of the grammar."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from src.memory.schemas import Memory, MemoryType
from src.testing.samples import HOSTILE_USER_IDS

SOURCES = ("conversation", "adr", "import")
METADATA_KEYS = ("a", "b", "c")
_FAR_FUTURE = datetime(2900, 1, 1)  # Hypothesis takes naive bounds.

storable_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
"""Text that can be stored: no NUL, no lone surrogates."""

user_ids = st.sampled_from(HOSTILE_USER_IDS) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256
).filter(lambda text: not text.isspace())
"""Ids that a person can have."""

contents = storable_text.filter(lambda text: bool(text) and not text.isspace())
"""Contents that a memory can have."""

times = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC))
"""Aware times from 2000 to 2030."""

scalars = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0, -1.0]) | st.sampled_from(["", "1", "x"])
)
"""JSON scalars out of a small set, so that equal ones meet."""

json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(METADATA_KEYS), inner, max_size=3),
    max_leaves=6,
)
"""JSON values over the same scalars."""

metadata = st.dictionaries(st.sampled_from(METADATA_KEYS), json_values, max_size=3)
"""JSON objects over few keys, so that the paths of `filters` often exist."""


@st.composite
def memories(draw: st.DrawFn, *, users: st.SearchStrategy[str] = user_ids) -> Memory:
    """Memories that every provider stores; those that expire do so in the far future."""
    return Memory(
        user_id=draw(users),
        content=draw(contents),
        memory_type=draw(st.sampled_from(MemoryType)),
        confidence=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        source=draw(st.sampled_from(SOURCES)),
        raw_source=draw(st.none() | storable_text),
        created_at=draw(times),
        expires_at=draw(st.none() | st.datetimes(min_value=_FAR_FUTURE, timezones=st.just(UTC))),
        metadata=draw(metadata),
    )


def filters() -> st.SearchStrategy[dict[str, Any]]:
    """Filters of the grammar that are not empty, without `query` and `include_invalid`."""
    return st.recursive(_conditions(), _combined, max_leaves=6)


def _combined(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(parts, min_size=1, max_size=3)
    return (
        several.map(lambda chosen: {"$and": chosen})
        | several.map(lambda chosen: {"$or": chosen})
        | parts.map(lambda part: {"$not": part})
    )


def _conditions() -> st.SearchStrategy[dict[str, Any]]:
    paths = st.lists(st.sampled_from(METADATA_KEYS), min_size=1, max_size=3)
    numbers = st.sampled_from([0, 0.25, 0.5, 1])
    moments = times | times.map(datetime.isoformat)
    ordered = st.integers(-2, 2) | st.sampled_from(["", "1", "x"])
    return st.one_of(
        _on(st.just("memory_type"), st.sampled_from([*MemoryType, "fact"]), st.nothing()),
        _on(st.just("source"), st.sampled_from(SOURCES), st.sampled_from(SOURCES)),
        _on(st.just("confidence"), numbers, numbers),
        _on(st.sampled_from(["created_at", "expires_at"]), moments, moments),
        _on(paths.map(lambda path: "metadata." + ".".join(path)), scalars, ordered),
        numbers.map(lambda number: {"min_confidence": number}),
    )


def _on(
    fields: st.SearchStrategy[str], values: st.SearchStrategy[Any], ordered: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    operators = st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne"]), values),
        st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(values, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered),
        st.tuples(st.just("$exists"), st.booleans()),
    )
    conditions = values | st.lists(operators, min_size=1, max_size=2).map(dict)
    return st.tuples(fields, conditions).map(lambda pair: {pair[0]: pair[1]})
