"""When API keys were last used: noted in memory on every call, written a minute at a time, never on a call's own way.

What a call costs is one entry in a dictionary. Once a minute, while there is use, one statement writes the keys that
were used since, on a thread of its own. A process that is killed loses at most that minute; nothing else depends on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError
from cloud.tenancy.ports import KeyUseStore

FLUSH_EVERY_S: Final = 60.0

_log = logging.getLogger(__name__)


class KeyUse:
    """Notes the use of API keys and writes it down in batches.

    Args:
        store: Keeps the minute of each key's last use.
        monotonic_s: A clock that is never set.
    """

    def __init__(self, store: KeyUseStore, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self._flushed_s = monotonic_s()
        self._writer: threading.Thread | None = None

    def note(self, key_id: str) -> None:
        """Remember that a key was used just now; starts a write if the last one is a minute old."""
        with self._lock:
            self._used.add(key_id)
            due = self._monotonic_s() - self._flushed_s >= FLUSH_EVERY_S
            if not due or (self._writer is not None and self._writer.is_alive()):
                return
            self._flushed_s = self._monotonic_s()
            self._writer = threading.Thread(target=self._flush_quietly, name="luminescent-key-use", daemon=True)
            writer = self._writer
        writer.start()

    def flush(self) -> None:
        """Write down what was noted.

        Raises:
            ProviderUnavailableError: It could not be written; it stays noted.
        """
        with self._lock:
            used, self._used = self._used, set()
            self._flushed_s = self._monotonic_s()
        if not used:
            return
        try:
            self._store.used(sorted(used))
        except ProviderUnavailableError:
            with self._lock:
                self._used |= used
            raise

    def close(self) -> None:
        """Write down what is left, if the control plane still answers."""
        with self._lock:
            writer = self._writer
        if writer is not None:
            writer.join()
        self._flush_quietly()

    def _flush_quietly(self) -> None:
        try:
            self.flush()
        except ProviderUnavailableError as error:
            _log.warning("the last use of API keys is written later: %s", error)
