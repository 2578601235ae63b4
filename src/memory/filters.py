"""The grammar of filters: what `search` understands, parsed into a predicate of frozen parts.

    filter    = { field: condition, "$and": [filter, …], "$or": [filter, …], "$not": filter, … }   all must hold
    condition = value | { operator: operand, … }                                              a value means `$eq`

| field                      | operand                                    | operators                               |
|----------------------------|--------------------------------------------|-----------------------------------------|
| `memory_type`              | preference, fact, decision (text or enum)  | equality, `$exists`                     |
| `source`                   | text                                       | equality, order, `$exists`              |
| `confidence`               | number                                     | equality, order, `$exists`              |
| `created_at`, `expires_at` | datetime or ISO 8601 text; naive means UTC | equality, order, `$exists`              |
| `metadata.<path>`          | text, number, boolean, null                | equality, order of text and of numbers, |
|                            |                                            | `$exists`                               |
| `min_confidence`           | number; short for `confidence` `$gte`      | none                                    |

Equality: `$eq $ne $in $nin`; order: `$gt $gte $lt $lte`. At the top level only: `query`, a text to rank by, and
`include_invalid`, whether memories that are no longer valid (expired) count too.

Rules
1. What is not in this grammar raises: unknown fields and operators, wrong operands, empty lists and objects.
2. A path names keys of nested objects, separated by dots.
3. Values of different kinds are never equal and have no order: 1 is 1.0, but not true and not "1". Text is compared
   by code points.
4. A value that is absent (no such path, no expiry) makes every condition false, except `$ne` and `$nin`, which are
   exactly the opposites of `$eq` and `$in`, and `$exists: false`. A null in metadata is a value.
5. Lists and objects in metadata exist, and equal nothing.
6. At most 32 levels, 1,000 conditions and 1,000 values in a list.
7. The tenant and the user are not fields: no filter reaches beyond what the caller may see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from src.errors import InvalidFilterError
from src.memory.json_values import text_fault
from src.memory.predicates import (
    LISTS,
    ORDER,
    AllOf,
    AnyOf,
    Condition,
    Field,
    Operator,
    Opposite,
    Predicate,
    Scalar,
)
from src.memory.schemas import MemoryType, as_utc
from src.memory.validation import check_query

MAX_DEPTH = 32
MAX_CONDITIONS = 1000
MAX_VALUES = 1000
MAX_PATH_CHARACTERS = 1024
_MAX_VALUE_BYTES = 64 * 1024

_FIELDS = {field.value: field for field in Field if field is not Field.METADATA}
_OPERATORS = {operator.value: operator for operator in Operator}
_METADATA_PREFIX = "metadata."
# What an error may repeat of a key: names of fields and operators, not whatever a caller put in their place.
_NAMEABLE = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a filter asks for.

    Attributes:
        predicate: What every memory that is returned satisfies.
        query: The text to rank by, or `None`: newest first.
        include_invalid: Whether memories that are no longer valid count too.
    """

    predicate: Predicate
    query: str | None
    include_invalid: bool


def parse_filters(filters: Mapping[str, object]) -> SearchRequest:
    """The request that `filters` makes; an empty mapping asks for everything of the person's.

    Args:
        filters: A filter in the grammar above.

    Returns:
        The request.

    Raises:
        InvalidFilterError: It is not in the grammar; `place` is the path to the fault.
    """
    if not isinstance(filters, Mapping):
        raise InvalidFilterError(place="filters", reason="must be an object")
    rest = dict(filters)
    query = check_query(rest.pop("query")) if "query" in rest else None
    include_invalid = rest.pop("include_invalid", False)
    if not isinstance(include_invalid, bool):
        raise InvalidFilterError(place="include_invalid", reason="must be true or false")
    predicate = _Parser().filter(rest, place="", depth=1)
    return SearchRequest(predicate=predicate, query=query, include_invalid=include_invalid)


def parse_walk(filters: Mapping[str, object] | None) -> SearchRequest:
    """As `parse_filters`, for what goes over all that passes: `None` is everything, and there is no `query`.

    Raises:
        InvalidFilterError: It is not in the grammar, or ranks.
    """
    request = parse_filters({} if filters is None else filters)
    if request.query is not None:
        raise InvalidFilterError(place="query", reason="ranks what is searched; here everything counts")
    return request


class _Parser:
    """Parses one filter; counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, filters: Mapping[str, object], *, place: str, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise InvalidFilterError(place=place, reason=f"is nested more than {MAX_DEPTH} levels deep")
        parts: list[Predicate] = []
        for key, value in filters.items():
            where = _below(place, key)
            match key:
                case "$and":
                    parts.append(AllOf(self._list(value, place=where, depth=depth)))
                case "$or":
                    parts.append(AnyOf(self._list(value, place=where, depth=depth)))
                case "$not":
                    parts.append(Opposite(self._nested(value, place=where, depth=depth)))
                case "min_confidence":
                    self._count(where)
                    parts.append(Condition(Field.CONFIDENCE, (), Operator.GTE, _number(value, where)))
                case _:
                    field, path = _field(key, where)
                    parts.extend(self._conditions_on(field, path, value, place=where))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _nested(self, value: object, *, place: str, depth: int) -> Predicate:
        if not isinstance(value, Mapping):
            raise InvalidFilterError(place=place, reason="must be an object")
        if not value:
            raise InvalidFilterError(place=place, reason="is empty")
        for key in ("query", "include_invalid"):
            if key in value:
                raise InvalidFilterError(place=_below(place, key), reason="is allowed at the top level only")
        return self.filter(value, place=place, depth=depth + 1)

    def _list(self, value: object, *, place: str, depth: int) -> tuple[Predicate, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidFilterError(place=place, reason="must be a list of filters")
        if not value:
            raise InvalidFilterError(place=place, reason="is empty")
        if len(value) > MAX_CONDITIONS:
            raise InvalidFilterError(place=place, reason=f"has more than {MAX_CONDITIONS} parts")
        return tuple(self._nested(part, place=f"{place}[{index}]", depth=depth) for index, part in enumerate(value))

    def _conditions_on(self, field: Field, path: tuple[str, ...], value: object, *, place: str) -> list[Predicate]:
        if not isinstance(value, Mapping):
            self._count(place)
            return [Condition(field, path, Operator.EQ, _scalar(field, value, place))]
        if not value:
            raise InvalidFilterError(place=place, reason="is empty")
        conditions: list[Predicate] = []
        for key, operand in value.items():
            where = _below(place, key)
            self._count(where)
            conditions.append(_condition(field, path, _operator(key, where), operand, where))
        return conditions

    def _count(self, place: str) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidFilterError(place=place, reason=f"is past the {MAX_CONDITIONS} conditions allowed")


def _below(place: str, key: object) -> str:
    name = key if isinstance(key, str) and _NAMEABLE.fullmatch(key) else "?"
    return f"{place}.{name}" if place else name


def _field(key: object, place: str) -> tuple[Field, tuple[str, ...]]:
    if not isinstance(key, str):
        raise InvalidFilterError(place=place, reason="is not the name of a field")
    field = _FIELDS.get(key)
    if field is not None:
        return field, ()
    if key.startswith(_METADATA_PREFIX):
        path = tuple(key.removeprefix(_METADATA_PREFIX).split("."))
        if all(path) and len(path) <= MAX_DEPTH and len(key) <= MAX_PATH_CHARACTERS and not text_fault(key):
            return Field.METADATA, path
        raise InvalidFilterError(place=place, reason="is not a path of metadata keys separated by dots")
    if key.startswith("$"):
        raise InvalidFilterError(place=place, reason="is an unknown operator here")
    raise InvalidFilterError(place=place, reason="is an unknown field")


def _operator(key: object, place: str) -> Operator:
    operator = _OPERATORS.get(key) if isinstance(key, str) else None
    if operator is None:
        raise InvalidFilterError(place=place, reason="is an unknown operator")
    return operator


def _condition(field: Field, path: tuple[str, ...], operator: Operator, operand: object, place: str) -> Condition:
    if operator is Operator.EXISTS:
        if not isinstance(operand, bool):
            raise InvalidFilterError(place=place, reason="must be true or false")
        return Condition(field, path, operator, operand)
    if operator in LISTS:
        if not isinstance(operand, list | tuple | set | frozenset) or not operand:
            raise InvalidFilterError(place=place, reason="must be a list of values that is not empty")
        if len(operand) > MAX_VALUES:
            raise InvalidFilterError(place=place, reason=f"has more than {MAX_VALUES} values")
        return Condition(field, path, operator, tuple(_scalar(field, value, place) for value in operand))
    value = _scalar(field, operand, place)
    if operator in ORDER and (field is Field.MEMORY_TYPE or value is None or isinstance(value, bool)):
        raise InvalidFilterError(place=place, reason="compares values that have no order")
    return Condition(field, path, operator, value)


def _scalar(field: Field, value: object, place: str) -> Scalar:
    match field:
        case Field.MEMORY_TYPE:
            return _memory_type(value, place)
        case Field.SOURCE:
            return _text(value, place)
        case Field.CONFIDENCE:
            return _number(value, place)
        case Field.CREATED_AT | Field.EXPIRES_AT:
            return _moment(value, place)
        case Field.METADATA:
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, str):
                return _text(value, place)
            if isinstance(value, int | float):
                return _number(value, place)
            raise InvalidFilterError(place=place, reason="must be text, a number, true, false or null")


def _memory_type(value: object, place: str) -> str:
    if isinstance(value, str):
        for member in MemoryType:
            if member.value == str.__str__(value):
                return member.value
    raise InvalidFilterError(place=place, reason="must be preference, fact or decision")


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidFilterError(place=place, reason="must be text")
    fault = text_fault(value, max_bytes=_MAX_VALUE_BYTES)
    if fault is not None:
        raise InvalidFilterError(place=place, reason=fault)
    return str.__str__(value)


def _number(value: object, place: str) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidFilterError(place=place, reason="must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilterError(place=place, reason="must be a finite number")
    return value


def _moment(value: object, place: str) -> datetime:
    if isinstance(value, datetime):
        return as_utc(value)
    if isinstance(value, str):
        try:
            return as_utc(datetime.fromisoformat(value))
        except ValueError:
            # Without its cause: the text of that error quotes the value.
            raise InvalidFilterError(place=place, reason="is not an ISO 8601 time") from None
    raise InvalidFilterError(place=place, reason="must be a datetime or ISO 8601 text")
