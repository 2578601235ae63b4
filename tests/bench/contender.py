"""What every system that is measured has to do, and what it is given for that."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar

from tests.bench.data import Item

_T = TypeVar("_T")
MaybeLater = _T | Awaitable[_T]
"""What threads get at once and tasks await."""

OPERATIONS = ("store", "retrieve", "search", "search_text", "retrieve_cold", "delete")
LIMIT = 5
"""Memories that a retrieve asks for."""
SEARCH_LIMIT = 10
MIN_CONFIDENCE = 0.5
"""What the filter asks for, beside the kind `fact`."""


class NothingFoundError(RuntimeError):
    """An answer without a memory where there are some that fit: not fast but wrong.

    It ends the run, but for whoever lists it as a failure: an index that is asked for few neighbours and filters them
    afterwards may be left with none. Then it is counted, and its time is not.
    """


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender may keep things.

    Attributes:
        directory: Its own; everything in it counts as its bytes on disk.
        home: The installation whose PostgreSQL is everybody's.
        database: SQLAlchemy URL of a database of its own on that server, with the extension `vector`.
        callers: The most callers there will be at a time.
        server_pid: That server's process id.
        tenant_each: Whether everybody is of a tenant of their own; for this project's provider alone.
    """

    directory: Path
    home: Path
    database: str
    callers: int
    server_pid: int
    tenant_each: bool = False


class Contender(Protocol):
    """A system that keeps memories. Operations may be called by any number of callers at a time.

    Attributes:
        title: What tables call it.
        persistent: Whether what it acknowledged outlives its process.
        callers: Whether callers are tasks of one event loop or threads: what its users would have.
        operations: Those of `OPERATIONS` that it has.
        failures: What calls may raise under load and is counted instead of ending the run.
        packages: Distributions whose versions the results name.
    """

    title: ClassVar[str]
    persistent: ClassVar[bool]
    callers: ClassVar[Literal["tasks", "threads"]]
    operations: ClassVar[frozenset[str]]
    failures: ClassVar[tuple[type[Exception], ...]]
    packages: ClassVar[tuple[str, ...]]

    def set_up(self, place: Place) -> None:
        """Ready to store."""
        ...

    def load(self, people: Mapping[str, Sequence[Item]]) -> MaybeLater[None]:
        """Keep all of that, as fast as it can."""
        ...

    def settle(self) -> MaybeLater[None]:
        """Nothing of what was acknowledged is left to be done in the background."""
        ...

    def store(self, person: str, item: Item) -> MaybeLater[str]:
        """One memory, findable when this returns; its id."""
        ...

    def retrieve(self, person: str, query: str) -> MaybeLater[int]:
        """The `LIMIT` memories that fit best; how many were found, read in full."""
        ...

    def cool(self) -> None:
        """This process holds nothing of anybody's memories any more, as after a restart."""
        ...

    def search(self, person: str) -> MaybeLater[int]:
        """The newest `SEARCH_LIMIT` facts of at least `MIN_CONFIDENCE`; how many were found, read in full."""
        ...

    def search_text(self, person: str, query: str) -> MaybeLater[int]:
        """Of those facts, the `SEARCH_LIMIT` that fit best; how many were found, read in full."""
        ...

    def delete(self, person: str, memory_id: str) -> MaybeLater[None]:
        """That memory is found no more."""
        ...

    def disk_bytes(self) -> int:
        """What it keeps on disk, without the write-ahead log."""
        ...

    def helpers(self) -> Sequence[int]:
        """Process ids that work for it, beside this process and the PostgreSQL server."""
        ...

    def close(self) -> None:
        """Take it down."""
        ...
