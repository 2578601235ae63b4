"""The garbage collector beside what lasts.

A full collection looks at every object that refers to others, and no thread runs meanwhile. After the imports there are
270,000 of them, which takes 0.14 s and finds nothing: they live as long as the process. Making many objects that last,
as loading a person's memories does, brings full collections about, and finds nothing either.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from cloud.kernel.wanted import Undo, WhileWanted, nothing_to_undo


def _left_out() -> Undo:
    if gc.get_freeze_count():
        # An application that does so itself knows better when.
        return nothing_to_undo
    # What is garbage by now would stay.
    gc.collect()
    gc.freeze()
    return gc.unfreeze


_lasting: Final = WhileWanted(_left_out)
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


def what_lasts_left_out() -> AbstractContextManager[None]:
    """While the block runs, collections look only at what is made in it.

    Nothing happens where the application has used `gc.freeze` itself; of several blocks at once the last one to end
    makes collections look at everything again.
    """
    return _lasting.held()
