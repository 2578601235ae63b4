"""The garbage collector beside what lasts.

A full collection looks at every object that refers to others, and no thread runs meanwhile. After the imports there are
270,000 of them, which takes 0.14 s and finds nothing: they live as long as the process. Making many objects that last,
as loading a person's memories does, brings full collections about, and finds nothing either.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class _Lasting:
    """Who wants what lasts to be left out, and whether it was us who left it out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._frozen = False

    def leave_out(self) -> None:
        with self._lock:
            self._wanted += 1
            # An application that does so itself knows better when.
            if self._wanted == 1 and not gc.get_freeze_count():
                # What is garbage by now would stay.
                gc.collect()
                gc.freeze()
                self._frozen = True

    def give_back(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted and self._frozen:
                gc.unfreeze()
                self._frozen = False


_lasting = _Lasting()
_pausing: Final = threading.Lock()


@contextmanager
def paused() -> Iterator[None]:
    """For making many objects that last: while the block runs there are no collections.

    Of several blocks at once the first alone pauses, until its own end: however they follow each other, young objects
    are looked at after each of them.
    """
    mine = _pausing.acquire(blocking=False)
    resumes = mine and gc.isenabled()
    if resumes:
        gc.disable()
    try:
        yield
    finally:
        if resumes:
            gc.enable()
        if mine:
            _pausing.release()


@contextmanager
def what_lasts_left_out() -> Iterator[None]:
    """While the block runs, collections look only at what is made in it.

    Nothing happens where the application has used `gc.freeze` itself; of several blocks at once the last one to end
    makes collections look at everything again.
    """
    _lasting.leave_out()
    try:
        yield
    finally:
        _lasting.give_back()
