"""Samples that every provider is tested with: good memories, hostile names, and tables of what must be refused."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from src.memory.schemas import Memory, MemoryType

HOSTILE_USER_IDS = (
    "%",
    "_",
    "a%",
    "user_1",
    "user-1",
    "user1",
    "' OR 1=1 --",
    '"; DROP TABLE memories; --',
    "acme/../x",
    "acme",
    "acme2",
    "ACME",
    "*",
    "$ne",
    "{}",
    "null",
    "None",
    "🦊",
    "🦊🦊",
    "ألف",
    "\u202eresu",
    "caf\u00e9",
    "cafe\u0301",
    "a b",
    " a b",
    "u" * 256,
)
"""Distinct user ids of distinct people, each of which is a pattern, a query, a path or a look-alike of another."""

MALFORMED_IDS = (
    "",
    "nonsense",
    "%",
    "' OR '1'='1",
    "00000000-0000-0000-0000-000000000000",
    "018f2b6e-7c1a-7def-8123-456789abcdef",
    "018F2B6E-7C1A-7DEF-8123-456789ABCDEF",
    "{018f2b6e-7c1a-7def-8123-456789abcdef}",
    "018f2b6e7c1a7def8123456789abcdef",
    "\0" * 36,
    "\ud800",
    "x" * 100_000,
)
"""Ids that no memory has; most cannot be one's."""


def new_user(label: str = "user") -> str:
    """A user id that nobody had before, so that tests may share a provider."""
    return f"{label}-{uuid.uuid4().hex}"


def sample_memory(user_id: str = "alice", **fields: Any) -> Memory:
    """A memory that can be stored; `fields` replace its own, without validation."""
    values: dict[str, Any] = {
        "user_id": user_id,
        "content": "Prefers tabs over spaces",
        "memory_type": MemoryType.PREFERENCE,
        "source": "conversation",
    }
    return Memory.model_construct(**(values | fields))


@dataclass(frozen=True, slots=True)
class InvalidSample:
    """A memory that must be refused.

    Attributes:
        label: What is wrong with it.
        field: The field the error must name.
        value: What that field holds.
    """

    label: str
    field: str
    value: object


@dataclass(frozen=True, slots=True)
class InvalidFilter:
    """A filter that must be refused.

    Attributes:
        label: What is wrong with it.
        filters: The filter.
        place: Where the error must say the fault is.
    """

    label: str
    filters: dict[str, Any]
    place: str


def _nested(depth: int, *, key: str = "$not") -> dict[str, Any]:
    inner: dict[str, Any] = {"source": "x"}
    for _ in range(depth):
        inner = {key: inner}
    return inner


def _cyclic() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    return metadata


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

INVALID_MEMORIES = (
    InvalidSample("empty content", "content", ""),
    InvalidSample("blank content", "content", " \n\t\u3000"),
    InvalidSample("content over 64 KiB", "content", "a" * (64 * 1024 + 1)),
    InvalidSample("content over 64 KiB in UTF-8", "content", "é" * (32 * 1024 + 1)),
    InvalidSample("content with NUL", "content", "a\0b"),
    InvalidSample("content with a lone surrogate", "content", "a\ud800b"),
    InvalidSample("content that is no text", "content", 5),
    InvalidSample("raw source over 256 KiB", "raw_source", "a" * (256 * 1024 + 1)),
    InvalidSample("raw source with NUL", "raw_source", "\0"),
    InvalidSample("empty source", "source", ""),
    InvalidSample("source over 1,024 characters", "source", "s" * 1025),
    InvalidSample("source with a lone surrogate", "source", "\udfff"),
    InvalidSample("empty user id", "user_id", ""),
    InvalidSample("blank user id", "user_id", "  "),
    InvalidSample("user id over 256 characters", "user_id", "u" * 257),
    InvalidSample("user id with a line break", "user_id", "alice\nbob"),
    InvalidSample("user id with NUL", "user_id", "alice\0"),
    InvalidSample("user id with a C1 control", "user_id", "alice\u0085"),
    InvalidSample("user id with a lone surrogate", "user_id", "\ud83e"),
    InvalidSample("user id that is no text", "user_id", None),
    InvalidSample("unknown type", "memory_type", "rumour"),
    InvalidSample("type that is no text", "memory_type", 1),
    InvalidSample("confidence NaN", "confidence", float("nan")),
    InvalidSample("confidence infinite", "confidence", float("inf")),
    InvalidSample("confidence above 1", "confidence", 1.0000001),
    InvalidSample("confidence below 0", "confidence", -0.1),
    InvalidSample("confidence that is a boolean", "confidence", True),
    InvalidSample("confidence that is text", "confidence", "0.5"),
    InvalidSample("extraction version that is text", "extraction_version", "1"),
    InvalidSample("extraction version that is negative", "extraction_version", -1),
    InvalidSample("creation that is no time", "created_at", "2024-01-01"),
    InvalidSample("no time of access", "last_accessed_at", None),
    InvalidSample("expiry in the past", "expires_at", LONG_AGO),
    InvalidSample("expiry in the past, naive", "expires_at", LONG_AGO.replace(tzinfo=None)),
    InvalidSample("metadata that is a list", "metadata", [1]),
    InvalidSample("metadata that is null", "metadata", None),
    InvalidSample("metadata with a set", "metadata", {"a": {1}}),
    InvalidSample("metadata with an object", "metadata", {"a": object()}),
    InvalidSample("metadata with bytes", "metadata", {"a": b"x"}),
    InvalidSample("metadata with NaN", "metadata", {"a": [float("nan")]}),
    InvalidSample("metadata with infinity", "metadata", {"a": float("-inf")}),
    InvalidSample("metadata with a key that is a number", "metadata", {"a": {1: 2}}),
    InvalidSample("metadata with NUL in a key", "metadata", {"a\0": 1}),
    InvalidSample("metadata with NUL in a value", "metadata", {"a": ["\0"]}),
    InvalidSample("metadata with a lone surrogate", "metadata", {"a": {"b": "\ud800"}}),
    InvalidSample("metadata over 64 KiB", "metadata", {"a": "x" * (64 * 1024)}),
    InvalidSample("metadata of very many values", "metadata", {"a": [0] * 200_000}),
    InvalidSample("metadata 10,000 deep", "metadata", _nested(10_000, key="a")),
    InvalidSample("metadata that holds itself", "metadata", _cyclic()),
    InvalidSample("metadata with a number of 5,000 digits", "metadata", {"a": 10**5000}),
    InvalidSample("provenance with a set", "provenance", {1, 2}),
    InvalidSample("provenance over 64 KiB", "provenance", "x" * (64 * 1024)),
)
"""Memories that must be refused, one fault each."""

INVALID_FILTERS = (
    InvalidFilter("unknown field", {"colour": "red"}, "colour"),
    InvalidFilter("the user is not a field", {"user_id": "bob"}, "user_id"),
    InvalidFilter("the tenant is not a field", {"tenant_id": {"$ne": "x"}}, "tenant_id"),
    InvalidFilter("created_after is not a field", {"created_after": "2024-01-01"}, "created_after"),
    InvalidFilter("metadata without a path", {"metadata": {"a": 1}}, "metadata"),
    InvalidFilter("metadata with an empty key in its path", {"metadata.a..b": 1}, "metadata.a..b"),
    InvalidFilter("unknown operator", {"source": {"$regex": ".*"}}, "source.$regex"),
    InvalidFilter("operator without its dollar", {"confidence": {"gt": 0.5}}, "confidence.gt"),
    InvalidFilter("unknown combinator", {"$nor": [{"source": "x"}]}, "$nor"),
    InvalidFilter("a deep fault", {"$or": [{"source": "x"}, {"colour": 1}]}, "$or[1].colour"),
    InvalidFilter("unknown type", {"memory_type": "rumour"}, "memory_type"),
    InvalidFilter("order of types", {"memory_type": {"$gt": "fact"}}, "memory_type.$gt"),
    InvalidFilter("source that is a number", {"source": 5}, "source"),
    InvalidFilter("source that is a list", {"source": ["a", "b"]}, "source"),
    InvalidFilter("source with NUL", {"source": "a\0"}, "source"),
    InvalidFilter("confidence that is text", {"confidence": {"$gt": "0.5"}}, "confidence.$gt"),
    InvalidFilter("confidence that is a boolean", {"confidence": True}, "confidence"),
    InvalidFilter("confidence that is NaN", {"confidence": {"$lt": float("nan")}}, "confidence.$lt"),
    InvalidFilter("min_confidence that is text", {"min_confidence": "0.5"}, "min_confidence"),
    InvalidFilter("min_confidence with an operator", {"min_confidence": {"$gt": 0.5}}, "min_confidence"),
    InvalidFilter("time that is no time", {"created_at": {"$gt": "yesterday"}}, "created_at.$gt"),
    InvalidFilter("time that is a number", {"expires_at": {"$lt": 17}}, "expires_at.$lt"),
    InvalidFilter("time that is null", {"expires_at": None}, "expires_at"),
    InvalidFilter("metadata compared with a list", {"metadata.a": [1]}, "metadata.a"),
    InvalidFilter("order of booleans", {"metadata.a": {"$lt": True}}, "metadata.a.$lt"),
    InvalidFilter("$in without a list", {"source": {"$in": "ab"}}, "source.$in"),
    InvalidFilter("$in of nothing", {"source": {"$in": []}}, "source.$in"),
    InvalidFilter("$in of too much", {"metadata.a": {"$in": list(range(1001))}}, "metadata.a.$in"),
    InvalidFilter("$exists of a number", {"metadata.a": {"$exists": 1}}, "metadata.a.$exists"),
    InvalidFilter("condition without operator", {"source": {}}, "source"),
    InvalidFilter("$and of nothing", {"$and": []}, "$and"),
    InvalidFilter("$and of no list", {"$and": {"source": "x"}}, "$and"),
    InvalidFilter("$or of an empty filter", {"$or": [{}]}, "$or[0]"),
    InvalidFilter("$not of a list", {"$not": [{"source": "x"}]}, "$not"),
    InvalidFilter("query below the top", {"$and": [{"query": "x"}]}, "$and[0].query"),
    InvalidFilter("query that is a number", {"query": 5}, "query"),
    InvalidFilter("query with NUL", {"query": "\0"}, "query"),
    InvalidFilter("include_invalid that is text", {"include_invalid": "yes"}, "include_invalid"),
    InvalidFilter("33 levels", _nested(32), ".".join(["$not"] * 32)),
    InvalidFilter("10,000 levels", _nested(10_000), ".".join(["$not"] * 32)),
    InvalidFilter(
        "1,001 conditions", {"$or": [{"source": str(n), "confidence": 1} for n in range(501)]}, "$or[500].source"
    ),
)
"""Filters that must be refused, one fault each."""

EXPIRY_S = 1.0
SOON = timedelta(seconds=EXPIRY_S)
"""How long a memory lives that a contract test sees expire."""
