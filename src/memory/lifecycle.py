"""What happens to a memory after it was stored: its changes, pages of a walk over many, duplicates of a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from src.memory.schemas import Memory


class ChangeKind(StrEnum):
    """What was done to a memory."""

    STORED = "stored"
    UPDATED = "updated"
    DELETED = "deleted"
    UNDELETED = "undeleted"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """One line of a memory's history. It tells that something changed, never what stood there before.

    Attributes:
        revision: The revision that the memory had afterwards, from 1; deleting and the like leave it as it is.
        kind: What was done.
        at: When (UTC).
        actor: Who did it, as the provider's log names them: never a user id. `None` if nobody did, as with an expiry,
            or if the provider knows no callers.
        successor: Id of the memory that took its place, for `SUPERSEDED`.
    """

    revision: int
    kind: ChangeKind
    at: datetime
    actor: str | None = None
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryPage:
    """Some memories of a walk over all of them.

    Attributes:
        memories: Newest first, and by id within one moment.
        next_cursor: Where the next page begins; `None` after the last one.
    """

    memories: tuple[Memory, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A memory of the same person that says the same as a new one, or nearly.

    Attributes:
        memory_id: Its id.
        exact: Whether the texts are equal but for case, spacing and forms of characters.
        similarity: Cosine of the two embeddings, up to 1.0, which an exact one has.
    """

    memory_id: str
    exact: bool
    similarity: float


class StoredMemoryId(str):
    """The id that `store` returned, which also tells what the new memory repeats.

    Attributes:
        duplicates: Exact ones first, then the most similar; `None` if they could not be looked for. The memory is
            stored in either case.
    """

    __slots__ = ("duplicates",)

    duplicates: tuple[Duplicate, ...] | None

    def __new__(cls, memory_id: str, duplicates: tuple[Duplicate, ...] | None) -> Self:
        """An id with its duplicates."""
        made = super().__new__(cls, memory_id)
        made.duplicates = duplicates
        return made
