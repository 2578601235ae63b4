"""Predicates over memories: frozen parts, and their evaluation.

`src.memory.filters` says what the parts mean; anything with the attributes of `Filterable` can be tested.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, TypeAlias, assert_never

Scalar: TypeAlias = str | int | float | bool | datetime | None
Test: TypeAlias = "Callable[[Filterable], bool]"


class Field(Enum):
    """What a condition reads."""

    MEMORY_TYPE = "memory_type"
    SOURCE = "source"
    CONFIDENCE = "confidence"
    CREATED_AT = "created_at"
    EXPIRES_AT = "expires_at"
    METADATA = "metadata"


class Operator(Enum):
    """How a condition compares."""

    EQ = "$eq"
    NE = "$ne"
    IN = "$in"
    NIN = "$nin"
    GT = "$gt"
    GTE = "$gte"
    LT = "$lt"
    LTE = "$lte"
    EXISTS = "$exists"


LISTS = frozenset({Operator.IN, Operator.NIN})
ORDER = frozenset({Operator.GT, Operator.GTE, Operator.LT, Operator.LTE})


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison.

    Attributes:
        field: What it reads.
        path: Keys into the metadata; empty for other fields.
        operator: How it compares.
        operand: A scalar; for `$in` and `$nin` several, for `$exists` a boolean. Times are aware and in UTC.
    """

    field: Field
    path: tuple[str, ...]
    operator: Operator
    operand: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """True if every part is; without parts true for everything."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True if a part is."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Opposite:
    """True if the part is not."""

    part: Predicate


Predicate: TypeAlias = Condition | AllOf | AnyOf | Opposite


class Filterable(Protocol):
    """What a predicate reads of a memory."""

    @property
    def memory_type(self) -> str:
        """`preference`, `fact` or `decision`, also as a member of `MemoryType`."""
        ...

    @property
    def source(self) -> str:
        """Where it came from."""
        ...

    @property
    def confidence(self) -> float:
        """0 to 1."""
        ...

    @property
    def created_at(self) -> datetime:
        """Aware."""
        ...

    @property
    def expires_at(self) -> datetime | None:
        """Aware, or `None` for never."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """A JSON object."""
        ...


def matches(predicate: Predicate, record: Filterable) -> bool:
    """Whether the record satisfies the predicate. For many records, `tester` once is faster."""
    return tester(predicate)(record)


def tester(predicate: Predicate) -> Test:
    """The predicate as a function of a record: comparisons are chosen once, not for every record."""
    match predicate:
        case Condition():
            return _condition_test(predicate)
        case AllOf(parts):
            return _every([tester(part) for part in parts])
        case AnyOf(parts):
            some = [tester(part) for part in parts]
            return lambda record: any(test(record) for test in some)
        case Opposite(part):
            inner = tester(part)
            return lambda record: not inner(record)
        case _:
            assert_never(predicate)


def _every(tests: Sequence[Test]) -> Test:
    match tests:
        case [one]:
            return one
        case [one, other]:
            # Two are most common: a filter on a type and on a bound.
            return lambda record: one(record) and other(record)
        case _:
            return lambda record: all(test(record) for test in tests)


class _Special(Enum):
    """Values that compare with nothing else; Python's own `True` would equal 1."""

    ABSENT = 0
    FALSE = 1
    TRUE = 2
    COMPOSITE = 3


_Value: TypeAlias = str | int | float | datetime | None | _Special
# `Any`: what can be ordered depends on the operand; `isinstance` has made sure of it.
_ORDERS: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.GT: operator.gt,
    Operator.GTE: operator.ge,
    Operator.LT: operator.lt,
    Operator.LTE: operator.le,
}


def _condition_test(condition: Condition) -> Test:
    read = _reader(condition.field, condition.path)
    operand = condition.operand
    match condition.operator:
        case Operator.EXISTS:
            return lambda record: (read(record) is not _Special.ABSENT) is operand
        case Operator.EQ | Operator.IN:
            wanted = _values(operand)
            return lambda record: read(record) in wanted
        case Operator.NE | Operator.NIN:
            unwanted = _values(operand)
            return lambda record: read(record) not in unwanted
        case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
            holds = _ORDERS[condition.operator]
            kind = str if isinstance(operand, str) else datetime if isinstance(operand, datetime) else (int, float)
            return lambda record: isinstance(value := read(record), kind) and holds(value, operand)
        case _:
            assert_never(condition.operator)


def _values(operand: Scalar | tuple[Scalar, ...]) -> frozenset[_Value]:
    # A list or object in metadata is read as COMPOSITE, which no operand is, so it equals nothing.
    return frozenset(_value(one) for one in (operand if isinstance(operand, tuple) else (operand,)))


def _value(stored: object) -> _Value:
    match stored:
        case bool():
            return _Special.TRUE if stored else _Special.FALSE
        case str() | int() | float() | datetime() | None:
            return stored
        case _:
            return _Special.COMPOSITE


def _reader(field: Field, path: tuple[str, ...]) -> Callable[[Filterable], _Value]:
    match field:
        case Field.MEMORY_TYPE:
            # A member of the enum equals its text and hashes alike.
            return operator.attrgetter("memory_type")
        case Field.SOURCE:
            return operator.attrgetter("source")
        case Field.CONFIDENCE:
            return operator.attrgetter("confidence")
        case Field.CREATED_AT:
            return operator.attrgetter("created_at")
        case Field.EXPIRES_AT:
            return lambda record: _Special.ABSENT if record.expires_at is None else record.expires_at
        case Field.METADATA:
            return lambda record: _at(record.metadata, path)
        case _:
            assert_never(field)


def _at(metadata: Mapping[str, object], path: tuple[str, ...]) -> _Value:
    here: object = metadata
    for key in path:
        if not isinstance(here, Mapping) or key not in here:
            return _Special.ABSENT
        here = here[key]
    return _value(here)
