"""Cursors: where a walk over memories goes on, as text that only its maker can make, for one walk alone.

A cursor names the last memory of a page by time and id, not by number, so what is stored or deleted meanwhile moves
nothing. It is bound to the walk (the person, the filter): in any other it is as good as forged. It holds a time and a
memory id, both of which its reader has just been shown, and nothing else.
"""

from __future__ import annotations

import binascii
import hmac
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar, assert_never

from src.errors import InvalidFilterError
from src.memory.filters import SearchRequest
from src.memory.predicates import AllOf, AnyOf, Condition, Opposite, Predicate

_FORMAT: Final = b"\x01"
_TAG_BYTES: Final = 16
_TIME_BYTES: Final = 8
_ID_BYTES: Final = 16
_TEXT_CHARACTERS: Final = 55  # 41 bytes in base64 without padding.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Dated(Protocol):
    """What stands in a walk: a memory, whatever holds it."""

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        ...


_D = TypeVar("_D", bound=Dated)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order of a walk: newest first, by id within one moment."""

    created_at: datetime
    memory_id: str

    def key(self) -> tuple[timedelta, str]:
        """Sorts as the walk goes."""
        return (_EPOCH - self.created_at, self.memory_id)


class Cursors:
    """Makes and reads the cursors of one secret.

    Args:
        secret: Whoever has it can make cursors; at least 16 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def cursor(self, position: Position, walk: bytes) -> str:
        """The text that stands for a position in a walk."""
        micros = (position.created_at - _EPOCH) // _MICROSECOND
        body = micros.to_bytes(_TIME_BYTES, "big", signed=True) + uuid.UUID(position.memory_id).bytes
        return urlsafe_b64encode(_FORMAT + body + self._tag(body, walk)).decode("ascii").rstrip("=")

    def position(self, cursor: object, walk: bytes) -> Position:
        """The position that a cursor of this walk stands for.

        Raises:
            InvalidFilterError: It is none of this secret and walk (place `cursor`).
        """
        fault = InvalidFilterError(place="cursor", reason="is none of this walk; begin again without a cursor")
        if not isinstance(cursor, str) or len(cursor) != _TEXT_CHARACTERS or not cursor.isascii():
            raise fault
        try:
            raw = urlsafe_b64decode(cursor + "=")
        except (binascii.Error, ValueError):
            raise fault from None
        body, tag = raw[len(_FORMAT) : -_TAG_BYTES], raw[-_TAG_BYTES:]
        # Base64 has several texts for the same bytes, and only one of them was made here.
        if not raw.startswith(_FORMAT) or not hmac.compare_digest(tag, self._tag(body, walk)):
            raise fault
        created_at = _EPOCH + int.from_bytes(body[:_TIME_BYTES], "big", signed=True) * _MICROSECOND
        return Position(created_at, str(uuid.UUID(bytes=body[_TIME_BYTES:])))

    def _tag(self, body: bytes, walk: bytes) -> bytes:
        return hmac.digest(self._secret, _FORMAT + body + walk, "sha256")[:_TAG_BYTES]


def walk_of(user_id: str, request: SearchRequest) -> bytes:
    """What binds cursors to a walk: the same for the same person and filter, in whatever order its parts are given."""
    return repr((user_id, request.include_invalid, _canonical(request.predicate))).encode("utf-8", "surrogatepass")


def page_of(
    found: Iterable[tuple[str, _D]], *, after: Position | None, limit: int
) -> tuple[list[str], Position | None]:
    """The ids of the next page, in order, and the position behind which there is more; `None` if there is not.

    Args:
        found: Everything that the walk goes over, by id.
        after: Where the last page ended; `None` for the first.
        limit: How many at most.
    """
    positions = [Position(held.created_at, memory_id) for memory_id, held in found]
    ordered = sorted(position.key() for position in positions)
    if after is not None:
        ordered = [key for key in ordered if key > after.key()]
    page = ordered[:limit]
    more = Position(_EPOCH - page[-1][0], page[-1][1]) if len(ordered) > limit else None
    return [memory_id for _, memory_id in page], more


def _canonical(predicate: Predicate) -> str:
    match predicate:
        case AllOf(parts) | AnyOf(parts):
            return f"{type(predicate).__name__}{sorted(map(_canonical, parts))}"
        case Opposite(part):
            return f"Opposite[{_canonical(part)}]"
        case Condition(field, path, operator, operand):
            values = sorted(map(repr, operand)) if isinstance(operand, tuple) else repr(operand)
            return repr((field.value, path, operator.value, values))
        case _:
            assert_never(predicate)
