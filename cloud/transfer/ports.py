"""What an import needs of its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud.transfer.model import Position
from src.memory.schemas import Memory

Progress = Callable[[int], None]
"""Is told how many bytes of the file are done, or how many memories are written."""


class MemoryStore(Protocol):
    """The provider, as an import uses it."""

    async def store_many(self, memories: Sequence[Memory], context: Mapping[str, object]) -> list[str]:
        """Accept all memories or none; see `CloudMemoryProvider.store_many`."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far an import got. It holds places and numbers, and nothing of what was imported.

    Attributes:
        position: Every entry up to this one is done.
        counts: `ImportReport.counts()` at that place.
        report_bytes: Size of the report file at that place.
    """

    position: Position
    counts: Mapping[str, int]
    report_bytes: int


class CheckpointStore(Protocol):
    """Keeps the checkpoints of imports that have not ended."""

    def load(self, import_id: str) -> Checkpoint | None:
        """The checkpoint of an import; `None` if there is none that can be used."""
        ...

    def save(self, import_id: str, checkpoint: Checkpoint) -> None:
        """Keep it durably in place of the former one.

        Raises:
            ConfigurationError: It cannot be written.
        """
        ...

    def remove(self, import_id: str) -> None:
        """The import has ended."""
        ...
