"""The sequencer: gives every committed event its place in its log's tree, and signs the tree's head.

Rules

1. One sequencer works at a time: a second one would fork the tree.
2. The lock is taken first, and pending events are selected by a statement of their own after that. In one statement
   with the lock they would be those of before it, and be sequenced twice.
3. Leaf, tiles, head and the end of an event's pending commit together. A kill between two rounds leaves nothing half
   done, and one within a round leaves nothing done.
4. Nothing orders events but their place in the tree: clocks of different machines differ, and commits overtake.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cloud.audit.canonical import canonical
from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import root_of
from cloud.audit.tiles import LoadTile, Place, appended, overlaid, subtrees
from cloud.audit.verify import Checkpoint, leaf_hash

BATCH: Final = 2_000


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """A committed event without a leaf."""

    event_id: str
    log_id: str
    event: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Growth:
    """What a round adds to one log's tree.

    Attributes:
        log_id: The log.
        first: Index of the first new leaf.
        event_ids: The events, in the order of their leaves.
        leaf_hashes: Their hashes, 32 bytes each.
        tiles: Tiles that change.
        checkpoint: The new head, signed.
    """

    log_id: str
    first: int
    event_ids: Sequence[str]
    leaf_hashes: Sequence[bytes]
    tiles: Mapping[Place, bytes]
    checkpoint: str


class TreeStore(Protocol):
    """Trees and pending events."""

    def round(self, grow: Callable[[Sequence[PendingEvent], TreeReader], Sequence[Growth]], *, batch: int) -> int:
        """Let `grow` decide over at most `batch` pending events under the sequencer's lock, and commit its answer.

        Returns:
            How many events got a leaf; 0 also if another sequencer is at work.
        """
        ...


class TreeReader(Protocol):
    """Reads trees as they are within a round."""

    def sizes(self, log_ids: Iterable[str]) -> Mapping[str, int]:
        """How many leaves each of these logs has; those without a tree are left out."""
        ...

    def tiles(self, log_id: str) -> LoadTile:
        """The tiles of a log."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did.

    Attributes:
        events: The events that got a leaf.
        checkpoints: The new heads, signed; one for each log that grew.
    """

    events: Sequence[PendingEvent] = ()
    checkpoints: Sequence[str] = ()


class Sequencer:
    """Sequences rounds of pending events.

    Args:
        store: Trees and pending events.
        keys: The keys as they are now; the last one signs heads.
    """

    def __init__(self, store: TreeStore, keys: Callable[[], AuditKeys]) -> None:
        self._store = store
        self._keys = keys

    def round(self) -> Round:
        """Sequence one batch.

        Raises:
            ConfigurationError: The audit keys cannot be read.
            ProviderUnavailableError: The control plane did not answer.
        """
        done = Round()

        def grow(pending: Sequence[PendingEvent], trees: TreeReader) -> list[Growth]:
            nonlocal done
            grown = self._grown(pending, trees)
            done = Round(pending, [growth.checkpoint for growth in grown])
            return grown

        return done if self._store.round(grow, batch=BATCH) else Round()

    def _grown(self, pending: Sequence[PendingEvent], trees: TreeReader) -> list[Growth]:
        by_log: dict[str, list[PendingEvent]] = defaultdict(list)
        for event in pending:
            by_log[event.log_id].append(event)
        sizes, keys = trees.sizes(by_log), self._keys()
        return [
            self._grown_log(log_id, sizes.get(log_id, 0), events, trees.tiles(log_id), keys)
            for log_id, events in by_log.items()
        ]

    def _grown_log(
        self, log_id: str, size: int, events: Sequence[PendingEvent], load: LoadTile, keys: AuditKeys
    ) -> Growth:
        hashes = [leaf_hash(canonical(event.event)) for event in events]
        tiles = appended(size, hashes, load)
        grown = size + len(hashes)
        root = root_of(grown, subtrees(overlaid(load, tiles)))
        checkpoint = keys.current.checkpoint(Checkpoint(keys.origin(log_id), grown, root))
        return Growth(log_id, size, [event.event_id for event in events], hashes, tiles, checkpoint)
