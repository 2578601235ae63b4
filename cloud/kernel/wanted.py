"""What is one for the whole process and changed for a while, such as a setting of the interpreter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Undo = Callable[[], None]
"""Undoes a change."""


def nothing_to_undo() -> None:
    """Undoes a change that was not made."""


class WhileWanted:
    """Changed by the first of those who want it at once, and undone by the last of them, on whatever threads.

    Args:
        change: Makes the change and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Undo]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._wanted = 0
        self._undo: Undo = nothing_to_undo

    @contextmanager
    def held(self) -> Iterator[None]:
        """The change lasts while the block runs, and longer if others want it too."""
        with self._lock:
            if not self._wanted:
                self._undo = self._change()
            self._wanted += 1
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                if not self._wanted:
                    self._undo()
