"""When memories were last read: gathered in this process, written in batches beside the request path.

Rules
1. A read never waits for this and never writes: it notes ids in memory.
2. What is noted is written about every 30 s, when much has gathered, and at an orderly close; a process that is killed
   loses what it had not written. That is why it is no record of who read what: the audit log is, and each of these
   reads has its event there. So a flush leaves no event of its own.
3. What is noted is bounded. While the control plane does not answer, the oldest notes are given up for new ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.managed_ports import ManagedLedger

THREAD: Final = "luminescent-read-times"
_CLOSING_ATTEMPTS: Final = 20
_CLOSING_PAUSE_S: Final = 0.05
_APART_S: Final = 0.02

_Key = tuple[str, str]

_log = logging.getLogger(__name__)


class ReadTimes:
    """Notes reads, and writes the notes to the ledger from a thread of its own.

    Args:
        ledger: Where they are kept.
        interval_s: Seconds between writes.
        batch: How many memories one statement takes. Few: it is beside the requests, and holds what it writes.
        many: How many gathered memories are written at once. Many: who reads again and again is written once.
        capacity: How many memories are noted at most.
    """

    def __init__(
        self,
        ledger: ManagedLedger,
        *,
        interval_s: float = 30.0,
        batch: int = 200,
        many: int = 10_000,
        capacity: int = 50_000,
    ) -> None:
        self._ledger = ledger
        self._interval_s = interval_s
        self._batch = batch
        self._many = many
        self._capacity = capacity
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._notes: dict[_Key, dict[str, datetime]] = {}
        self._predicates: dict[str, TenantPredicate] = {}
        self._count = 0
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def note(self, predicate: TenantPredicate, subject_id: str, memory_ids: Iterable[str], at: datetime) -> None:
        """Note that these memories of one person were read."""
        with self._lock:
            if self._closed:
                return
            self._predicates[predicate.tenant_id] = predicate
            self._add((predicate.tenant_id, subject_id), dict.fromkeys(memory_ids, at))
            if self._count >= self._many:
                self._wake.set()
            if self._thread is None and self._count:
                self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                self._thread.start()

    def drop(self, tenant_id: str, subject_id: str) -> None:
        """Forget what is noted of a person."""
        with self._lock:
            self._count -= len(self._notes.pop((tenant_id, subject_id), ()))

    def noted(self, tenant_id: str, subject_id: str) -> int:
        """How many memories of a person are noted and not written."""
        with self._lock:
            return len(self._notes.get((tenant_id, subject_id), ()))

    def pending(self) -> int:
        """How many memories are noted and not written."""
        with self._lock:
            return self._count

    def flush(self, *, tenant_id: str | None = None) -> bool:
        """Write what is noted, of one tenant or of all; returns whether all of it could be written now.

        Raises:
            ProviderUnavailableError: The control plane did not answer; the notes are kept.
        """
        # One flush at a time, or a close could return before what another thread has taken up is written.
        with self._flushing:
            taken = self._taken(tenant_id)
            predicates = {key[0]: self._predicates[key[0]] for key in taken}
            try:
                complete = [self._write(predicate, taken) for predicate in predicates.values()]
                return all(complete)
            finally:
                # What was written has been taken out.
                with self._lock:
                    for key, times in taken.items():
                        self._add(key, times)

    def close(self) -> None:
        """Write what is noted, and let the thread end."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join()
        try:
            for _ in range(_CLOSING_ATTEMPTS):
                if self.flush():
                    return
                time.sleep(_CLOSING_PAUSE_S)
        except ProviderUnavailableError as error:
            _log.warning("when %d memories were last read could not be written: %s", self.pending(), error)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            try:
                self.flush()
            except ProviderUnavailableError as error:
                _log.warning("when memories were last read is written later: %s", error)

    def _taken(self, tenant_id: str | None) -> dict[_Key, dict[str, datetime]]:
        with self._lock:
            taken = {key: times for key, times in self._notes.items() if tenant_id in (None, key[0])}
            for key, times in taken.items():
                del self._notes[key]
                self._count -= len(times)
            return taken

    def _write(self, predicate: TenantPredicate, notes: dict[_Key, dict[str, datetime]]) -> bool:
        """Write a tenant's notes and take them out of `notes`; whether all could be written."""
        theirs = [
            (key, memory_id, at)
            for key, times in notes.items()
            if key[0] == predicate.tenant_id
            for memory_id, at in times.items()
        ]
        complete = True
        for start in range(0, len(theirs), self._batch):
            if start and not self._closed:
                time.sleep(_APART_S)
            chunk = theirs[start : start + self._batch]
            held = self._ledger.touch(predicate, {memory_id: at for _, memory_id, at in chunk})
            complete = complete and not held
            for key, memory_id, _ in chunk:
                if memory_id not in held:
                    del notes[key][memory_id]
        return complete

    def _add(self, key: _Key, times: dict[str, datetime]) -> None:
        """Take up notes; the lock is held."""
        if not times:
            return
        held = self._notes.setdefault(key, {})
        before = len(held)
        for memory_id, at in times.items():
            held[memory_id] = max(at, held.get(memory_id, at))
        self._count += len(held) - before
        while self._count > self._capacity:
            oldest = next(iter(self._notes))
            self._count -= len(self._notes.pop(oldest))
