"""Removes rows and looks whether any is left, until none is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from cloud.kernel.errors import ProviderUnavailableError

_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)


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
