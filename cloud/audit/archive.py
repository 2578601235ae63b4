"""What an archive of audit events is, and what it is checked against; pure.

An archive is a file with a run of leaves of one log that follow each other and got their leaves in one month. Its
events are proven by the log's tree, whose hashes stay in the database: an archive that is not what they say is refused,
when it is made and whenever it is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloud.audit.retention import Month
from cloud.audit.tiles import WIDTH, LoadTile
from cloud.audit.verify import HASH_BYTES, leaf_hash
from cloud.kernel.errors import UnreadableFileError

_READABLE: Final = 40
_DIGEST: Final = 24

Progress = Callable[[int], None]
"""Is told how many events are archived."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive, as the control plane knows it.

    Attributes:
        log_id: The log.
        first: Its first leaf.
        end: The one after its last.
        month: In which they got their leaves.
        oldest_at: The least time of its events.
        newest_at: The greatest.
        sha256: Digest of the file.
        bytes: Its size.
        deleted_at: When it was deleted because it was kept long enough, or `None`.
    """

    log_id: str
    first: int
    end: int
    month: Month
    oldest_at: datetime
    newest_at: datetime
    sha256: bytes
    bytes: int
    deleted_at: datetime | None = None

    @property
    def leaves(self) -> str:
        """Which leaves it holds, for people."""
        return f"leaves {self.first} to {self.end - 1} of the audit log of {self.log_id}"

    @property
    def file(self) -> str:
        """Its name below the directory of archives."""
        return f"{directory_of(self.log_id)}/{self.month}-{self.first}.parquet"


@dataclass(frozen=True, slots=True)
class ArchivedLeaf:
    """A leaf with its event.

    Attributes:
        index: Its index.
        event_id: The event's id.
        occurred_at: Its time.
        sequenced_at: When it got its leaf.
        hash: The leaf's hash, 32 bytes.
        event: The event's canonical bytes.
    """

    index: int
    event_id: str
    occurred_at: datetime
    sequenced_at: datetime
    hash: bytes
    event: bytes


def directory_of(log_id: str) -> str:
    """The name of a log's directory: whatever its id is, it is a plain name, and no other log's in any file system."""
    readable = re.sub(r"[^a-z0-9_-]", "_", log_id.lower())[:_READABLE]
    return f"{readable}-{hashlib.sha256(log_id.encode()).hexdigest()[:_DIGEST]}"


def proven(leaves: Iterable[ArchivedLeaf], where: str, first: int, load: LoadTile) -> Iterator[ArchivedLeaf]:
    """These leaves, each of which is what the tree has in its place; they follow each other from `first` on.

    Args:
        leaves: The leaves.
        where: Where they come from, for the message.
        first: Index of the first one.
        load: The hashes of the log's tree.

    Raises:
        UnreadableFileError: One is not, which is named.
    """
    number, tile = -1, b""
    for index, leaf in enumerate(leaves, start=first):
        if index // WIDTH != number:
            number = index // WIDTH
            tile = load((0, number))
        at = index % WIDTH * HASH_BYTES
        expected = tile[at : at + HASH_BYTES]
        if leaf.index != index or leaf.hash != expected or leaf_hash(leaf.event) != expected:
            raise UnreadableFileError("changed", f"{where}: leaf {index} is not what the log's tree has in its place")
        yield leaf


def utc(instant: datetime) -> datetime:
    """The same instant in UTC."""
    return instant.astimezone(UTC)
