"""The hot tier: people's memories, open, in this process, bounded in bytes. It holds immutable snapshots.

A snapshot answers exactly while its generation is the control plane's; the ledger checks that on every read, so the
tier may be as old as it likes without ever giving a wrong answer. What it must not do is lose a newer snapshot to an
older one: `put` keeps the newer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cloud.kernel import telemetry
from cloud.kernel.errors import ProviderUnavailableError
from cloud.memory.model import SubjectSnapshot

_Key = tuple[str, str]
_LOADS_AT_ONCE = 2


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
            self._take(key)
            self._snapshots[key] = snapshot
            self._bytes += snapshot.size_bytes
            while self._bytes > self._capacity_bytes and len(self._snapshots) > 1:
                self._take(next(iter(self._snapshots)))
                telemetry.instruments().hot_evictions.add(1)

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
            self._bytes = 0

    def size_bytes(self) -> int:
        """What is held, about."""
        with self._lock:
            return self._bytes

    @contextmanager
    def loading(self, tenant_id: str, subject_id: str) -> Iterator[None]:
        """One load at a time per subject, few at a time in all: the others wait and find what was loaded.

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
                if not self._loads.acquire(timeout=self._load_wait_s):
                    raise ProviderUnavailableError("hot tier")
                try:
                    yield
                finally:
                    self._loads.release()
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    self._turns.pop(key, None)

    def _take(self, key: _Key) -> None:
        snapshot = self._snapshots.pop(key, None)
        if snapshot is not None:
            self._bytes -= snapshot.size_bytes
