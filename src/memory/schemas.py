"""What a memory is: the published fields, and the times they hold in UTC.

Building a `Memory` checks as little as the published schema does; a provider's `store` checks everything
(`src.memory.validation`) and names the field at fault.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field


class MemoryType(str, Enum):  # noqa: UP042 - the published enum formats as `MemoryType.FACT`; StrEnum would not
    """What kind of statement a memory makes."""

    PREFERENCE = "preference"
    FACT = "fact"
    DECISION = "decision"


class MemoryScope(str, Enum):  # noqa: UP042 - as above
    """How far a memory reaches, narrowest first; kept in `metadata` by whoever extracts it."""

    USER = "user"
    PROJECT = "project"
    GLOBAL = "global"


def as_utc(moment: datetime) -> datetime:
    """The same moment as an aware UTC datetime; never overflows.

    Args:
        moment: A datetime. Without an offset it is taken as UTC.

    Returns:
        The moment in UTC. One that leaves the years 1 to 9999 by the conversion becomes the nearest one within.
    """
    offset = moment.utcoffset()
    if offset is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        nearest = datetime.max if moment.year > 1 else datetime.min
        return nearest.replace(tzinfo=UTC)


def utc_now() -> datetime:
    """The present as an aware UTC datetime."""
    return datetime.now(UTC)


UtcDatetime = Annotated[datetime, AfterValidator(as_utc)]
"""A datetime that is aware and in UTC once validated; a naive one is taken as UTC."""


class Memory(BaseModel):
    """One thing remembered about a person.

    Attributes:
        user_id: Whose memory it is; compared exactly, code point by code point.
        content: What is remembered; what ranking reads.
        memory_type: What kind of statement it is.
        confidence: How sure its extraction was, 0 to 1.
        source: Where it came from, such as `conversation`.
        raw_source: The text it was extracted from.
        extraction_version: Version of the extraction that made it.
        created_at: When it was made (UTC).
        last_accessed_at: When it was last read (UTC); kept up to date by the provider.
        expires_at: From this moment (UTC) on it is absent; `None` for never.
        metadata: A JSON object of the caller's own.
        provenance: Where it came from in full, as JSON.
        id: Set on everything a provider returns; `store` ignores it.
    """

    user_id: str
    content: str
    memory_type: MemoryType
    confidence: float = Field(default=1.0, ge=0.0, le=1.0)
    source: str
    raw_source: str | None = None
    extraction_version: int = 1
    created_at: UtcDatetime = Field(default_factory=utc_now)
    last_accessed_at: UtcDatetime = Field(default_factory=utc_now)
    expires_at: UtcDatetime | None = None
    # `Any`: the published type of both; what they hold is checked by `store`.
    metadata: dict[str, Any] = Field(default_factory=dict)
    provenance: Any = None
    id: str | None = None

    @classmethod
    def of_checked(cls, **values: Any) -> Memory:
        """A memory of values that were checked before, in the order of the fields; what they hold is not looked at.

        `model_construct` does the same and looks at each field for what is missing, which takes longer than checking.

        Raises:
            ValueError: Not all fields are given, in their order, and nothing else.
        """
        if tuple(values) != _FIELDS:
            raise ValueError("a memory is made of all its fields, in their order")
        memory = cls.__new__(cls)
        set_state = object.__setattr__
        set_state(memory, "__dict__", values)
        set_state(memory, "__pydantic_fields_set__", set(values))
        set_state(memory, "__pydantic_extra__", None)
        set_state(memory, "__pydantic_private__", None)
        return memory


_FIELDS = tuple(Memory.model_fields)
