"""The sequencer: gives every committed event its place in its log's tree, and signs the tree's head.

Rules

1. One sequencer works at a time: a second one would fork the tree.
2. The lock is taken first, and pending events are selected by a statement of their own after that. In one statement
   with the lock they would be those of before it, and be sequenced twice.
3. Leaf, tiles, head and the end of an event's pending commit together. A kill between two rounds leaves nothing half
   done, and one within a round leaves nothing done.
4. Nothing orders events but their place in the tree: clocks of different machines differ, and commits overtake.
5. No tree is grown that is not the one that was signed: the next signature would vouch for what somebody changed. Such
   a log is held; its events stay pending, and nobody else's wait for it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cloud.audit.canonical import canonical
from cloud.audit.heads import Head, HeadFault, head_fault
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

    def round(
        self,
        grow: Callable[[Sequence[PendingEvent], TreeReader], Sequence[Growth]],
        *,
        batch: int,
        held: Collection[str] = (),
    ) -> int:
        """Let `grow` decide over at most `batch` pending events under the sequencer's lock, and commit its answer.

        Args:
            grow: Decides.
            batch: How many events at most.
            held: Logs whose events stay pending.

        Returns:
            How many events `grow` was given; 0 also if another sequencer is at work.
        """
        ...


class TreeReader(Protocol):
    """Reads trees as they are within a round."""

    def heads(self, log_ids: Iterable[str]) -> Mapping[str, Head]:
        """The head of each of these logs; those without a tree are left out."""
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
        held: Logs that were found not to be what was signed for them.
    """

    events: Sequence[PendingEvent] = ()
    checkpoints: Sequence[str] = ()
    held: Sequence[HeadFault] = ()


class Sequencer:
    """Sequences rounds of pending events. Safe for threads: whoever wants a leaf at once works beside the worker.

    Args:
        store: Trees and pending events.
        keys: The keys as they are now; the last one signs heads.
        outside: The heads that were kept outside the database; asked for once.
    """

    def __init__(
        self,
        store: TreeStore,
        keys: Callable[[], AuditKeys],
        outside: Callable[[], Mapping[str, Checkpoint]] = dict,
    ) -> None:
        self._store = store
        self._keys = keys
        self._outside = outside
        self._expected: dict[str, Checkpoint] | None = None
        self._held: dict[str, HeadFault] = {}
        self._turn = threading.RLock()

    def is_held(self, log_id: str) -> bool:
        """Whether this log is not grown, because it is not what was signed for it."""
        return log_id in self._held

    def look_again(self) -> None:
        """Compare every log with what is kept outside before it is grown again: an operator may have seen to it."""
        with self._turn:
            self._expected = None
            self._held = {}

    def round(self) -> Round:
        """Sequence one batch.

        Raises:
            ConfigurationError: The audit keys, or the heads that were kept outside, cannot be read.
            ProviderUnavailableError: The control plane did not answer.
        """
        with self._turn:
            return self._round()

    def _round(self) -> Round:
        if self._expected is None:
            self._expected = dict(self._outside())
        done = Round()

        def grow(pending: Sequence[PendingEvent], trees: TreeReader) -> list[Growth]:
            nonlocal done
            grown, held = self._grown(pending, trees)
            logs = {growth.log_id for growth in grown}
            events = [event for event in pending if event.log_id in logs]
            done = Round(events, [growth.checkpoint for growth in grown], held)
            return grown

        if not self._store.round(grow, batch=BATCH, held=tuple(self._held)):
            return Round()
        self._held |= {fault.log_id: fault for fault in done.held}
        for event in done.events:
            # What was compared once in this process is grown by this process from then on.
            self._expected.pop(event.log_id, None)
        return done

    def _grown(self, pending: Sequence[PendingEvent], trees: TreeReader) -> tuple[list[Growth], list[HeadFault]]:
        by_log: dict[str, list[PendingEvent]] = defaultdict(list)
        for event in pending:
            by_log[event.log_id].append(event)
        heads, keys = trees.heads(by_log), self._keys()
        grown, held = [], []
        for log_id, events in by_log.items():
            head, load = heads.get(log_id), trees.tiles(log_id)
            fault = self._fault(log_id, head, load, keys)
            if fault is not None:
                held.append(fault)
            else:
                grown.append(_grown_log(log_id, head.size if head else 0, events, load, keys))
        return grown, held

    def _fault(self, log_id: str, head: Head | None, load: LoadTile, keys: AuditKeys) -> HeadFault | None:
        kept = (self._expected or {}).get(log_id)
        if head is None and kept is None:
            return None
        fault = head_fault(log_id, head, kept, load, keys)
        if fault is None:
            return None
        return HeadFault(log_id, fault, head.size if head else 0, kept.size if kept else 0)


def _grown_log(log_id: str, size: int, events: Sequence[PendingEvent], load: LoadTile, keys: AuditKeys) -> Growth:
    hashes = [leaf_hash(canonical(event.event)) for event in events]
    tiles = appended(size, hashes, load)
    grown = size + len(hashes)
    root = root_of(grown, subtrees(overlaid(load, tiles)))
    checkpoint = keys.current.checkpoint(Checkpoint(keys.origin(log_id), grown, root))
    return Growth(log_id, size, [event.event_id for event in events], hashes, tiles, checkpoint)
