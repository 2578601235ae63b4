"""Removes rows of both planes and looks whether any is left, until none is: for one person, or for a whole tenant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError
from cloud.memory.materializer import placement_locks
from cloud.storage.engine import ControlEngine

_LOCK_WAIT_S: Final = 30.0
_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)
_PLACEMENT_ATTEMPTS: Final = 3


class Removal:
    """What every removal of one kind shares in a process.

    Args:
        engine: Engine that holds the placements' locks while rows are removed.
        kind: What errors name: `erasure` or `closing`.
    """

    def __init__(self, engine: ControlEngine, kind: str) -> None:
        self._engine = engine
        self._kind = kind
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Alone in this process: each takes connections while it holds a placement's, and a few at once would wait for
        each other's.

        Raises:
            ProviderUnavailableError: Others took too long.
        """
        if not self._turn.acquire(timeout=_LOCK_WAIT_S):
            raise ProviderUnavailableError(self._kind, reason="is busy with others")
        try:
            yield
        finally:
            self._turn.release()

    def under_locks(self, placements: Callable[[], Sequence[str]], remove: Callable[[Sequence[str]], None]) -> None:
        """Let `remove` take rows away from `placements`, under the materializers' own locks: they must not write a row
        that they took from intake before, nor a move one that it read before.

        Raises:
            ProviderUnavailableError: A placement stayed busy, or the tenant moved again and again.
        """
        for _ in range(_PLACEMENT_ATTEMPTS):
            found = placements()
            with placement_locks(self._engine, found, wait_s=_LOCK_WAIT_S) as held:
                if not held:
                    raise ProviderUnavailableError("materializer", reason="kept the placement busy")
                if placements() != found:
                    continue  # A move has begun in between.
                remove(found)
            return
        raise ProviderUnavailableError("data plane", reason="moves the tenant again and again")


def emptied(remove: Callable[[], None], counts: Callable[[], Mapping[str, int]]) -> tuple[str, ...]:
    """Remove and look, a few times; returns the places that still hold something.

    A restart of the server takes a placement's lock away: what was done since was done without it, and a materializer
    that lost it too may have written a last batch meanwhile.

    Args:
        remove: Removes every row; harmless when repeated.
        counts: Records by name of the place.

    Raises:
        ProviderUnavailableError: A part did not answer in the last round either.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            remove()
            left = tuple(name for name, count in counts().items() if count)
        except ProviderUnavailableError:
            if pause_s is None:
                raise
        else:
            if not left or pause_s is None:
                return left
        time.sleep(pause_s)
    raise AssertionError("the last round returns or raises")
