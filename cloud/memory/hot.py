"""The hot tier: people's memories, open, in this process, bounded in bytes. It holds immutable snapshots.

A snapshot answers exactly while its generation is the control plane's; the ledger checks that on every read, so the
tier may be as old as it likes without ever giving a wrong answer. What it must not do is lose a newer snapshot to an
older one: `put` keeps the newer.

What this process writes is kept beside the snapshot, still sealed, and becomes part of it when somebody reads: who
writes never waits for that, and many writes become one new snapshot. A person who is only written to, and much, is not
hot: the snapshot leaves, and the next reader loads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cloud.kernel import collector, telemetry
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.threads import short_turns
from cloud.memory.model import SealedRow, SubjectSnapshot

_Key = tuple[str, str]
_LOADS_AT_ONCE = 2
_WRITTEN_ROWS: Final = 128
"""Rows beside a snapshot at most: who reads next opens them all, which takes less than to load everything."""


@dataclass(frozen=True, slots=True)
class Written:
    """What this process wrote of one person and nobody has read yet.

    Attributes:
        tenant_id: The person's tenant.
        subject_id: Whose they are.
        generation: The person's, with it.
        rows: The memories, sealed.
        removed: Ids of memories that are gone.
        superseded: Ids of memories whose place another one took.
    """

    tenant_id: str
    subject_id: str
    generation: int
    rows: tuple[SealedRow, ...] = ()
    removed: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()

    @property
    def changes(self) -> int:
        """How many memories are others than before."""
        return len(self.rows) + len(self.removed) + len(self.superseded)

    @property
    def size_bytes(self) -> int:
        """What it takes, about."""
        return 100 * (1 + self.changes) + sum(400 + len(row.envelope) for row in self.rows)


@dataclass(slots=True)
class _Turn:
    """Whose turn it is to load one subject."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


class HotTier:
    """Snapshots by subject, least recently used ones leave first.

    Args:
        capacity_bytes: What all snapshots together may take, about.
        load_wait_s: Seconds that a caller waits for its turn to load.
    """

    def __init__(self, *, capacity_bytes: int, load_wait_s: float = 20.0) -> None:
        self._capacity_bytes = capacity_bytes
        self._load_wait_s = load_wait_s
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[_Key, SubjectSnapshot] = OrderedDict()
        self._written: dict[_Key, dict[int, Written]] = {}
        self._bytes = 0
        self._turns: dict[_Key, _Turn] = {}
        telemetry.watch_hot_tier(self)
        self._loads = threading.BoundedSemaphore(_LOADS_AT_ONCE)

    def get(self, tenant_id: str, subject_id: str) -> SubjectSnapshot | None:
        """The snapshot held, of whatever generation."""
        with self._lock:
            snapshot = self._snapshots.get((tenant_id, subject_id))
            if snapshot is not None:
                self._snapshots.move_to_end((tenant_id, subject_id))
            return snapshot

    def put(self, snapshot: SubjectSnapshot) -> None:
        """Hold a snapshot, unless a newer one is held."""
        key = (snapshot.tenant_id, snapshot.subject_id)
        with self._lock:
            held = self._snapshots.get(key)
            if held is not None and held.generation >= snapshot.generation:
                return
            newer = [one for one in self._written.get(key, {}).values() if one.generation > snapshot.generation]
            self._take(key)
            self._snapshots[key] = snapshot
            self._bytes += snapshot.size_bytes
            for one in newer:
                self._keep(key, one)
            self._shrink()

    def note(self, written: Written) -> None:
        """Keep what was written beside the person's snapshot, if one is held; if it is too much, let both go."""
        key = (written.tenant_id, written.subject_id)
        with self._lock:
            held = self._snapshots.get(key)
            if held is None or written.generation <= held.generation:
                return
            kept = self._written.get(key, {}).values()
            if sum(one.changes for one in (*kept, written)) > _WRITTEN_ROWS:
                self._take(key)
                return
            self._keep(key, written)
            self._shrink()

    def written(self, tenant_id: str, subject_id: str) -> tuple[SubjectSnapshot | None, list[Written]]:
        """The snapshot held, and what was written after it without a gap: in a gap somebody else wrote."""
        with self._lock:
            held = self._snapshots.get((tenant_id, subject_id))
            if held is None:
                return None, []
            found: list[Written] = []
            if kept := self._written.get((tenant_id, subject_id)):
                while (one := kept.get(held.generation + len(found) + 1)) is not None:
                    found.append(one)
            return held, found

    def drop(self, tenant_id: str, subject_id: str) -> None:
        """Forget a subject at once."""
        with self._lock:
            self._take((tenant_id, subject_id))

    def drop_tenant(self, tenant_id: str) -> None:
        """Forget every subject of a tenant at once."""
        with self._lock:
            for key in [key for key in self._snapshots if key[0] == tenant_id]:
                self._take(key)

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._snapshots.clear()
            self._written.clear()
            self._bytes = 0

    def size_bytes(self) -> int:
        """What is held, about."""
        with self._lock:
            return self._bytes

    @contextmanager
    def loading(self, tenant_id: str, subject_id: str) -> Iterator[None]:
        """One load at a time per subject, few at a time in all: the others wait and find what was loaded.

        Requests for what is hot are let in between (`short_turns`), and no collection of garbage is brought about.

        Raises:
            ProviderUnavailableError: The turn did not come in time.
        """
        with self.turn(tenant_id, subject_id):
            if not self._loads.acquire(timeout=self._load_wait_s):
                raise ProviderUnavailableError("hot tier")
            try:
                with short_turns(), collector.paused():
                    yield
            finally:
                self._loads.release()

    @contextmanager
    def turn(self, tenant_id: str, subject_id: str) -> Iterator[None]:
        """The only one who makes a snapshot of this subject, for as long as the block runs.

        Raises:
            ProviderUnavailableError: The turn did not come in time.
        """
        key = (tenant_id, subject_id)
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.waiting += 1
        try:
            if not turn.lock.acquire(timeout=self._load_wait_s):
                raise ProviderUnavailableError("hot tier")
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    self._turns.pop(key, None)

    def _keep(self, key: _Key, written: Written) -> None:
        kept = self._written.setdefault(key, {})
        if written.generation not in kept:
            kept[written.generation] = written
            self._bytes += written.size_bytes

    def _shrink(self) -> None:
        while self._bytes > self._capacity_bytes and len(self._snapshots) > 1:
            self._take(next(iter(self._snapshots)))
            telemetry.instruments().hot_evictions.add(1)

    def _take(self, key: _Key) -> None:
        snapshot = self._snapshots.pop(key, None)
        if snapshot is not None:
            self._bytes -= snapshot.size_bytes
        self._bytes -= sum(one.size_bytes for one in self._written.pop(key, {}).values())
