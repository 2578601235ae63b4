"""Advisory locks of the control plane: one process of all does a thing at a time, on whatever machine it is.

They belong to a connection: who loses it, as when the server restarts, has lost them and is not told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from cloud.storage.engine import ControlEngine

_POLL_S: Final = 0.02
_TRY_LOCK: Final = sa.text("SELECT pg_try_advisory_lock(:space, :id)")
_UNLOCK: Final = sa.text("SELECT pg_advisory_unlock(:space, :id)")


@contextmanager
def advisory_locks(engine: ControlEngine, keys: Sequence[tuple[int, int]], *, wait_s: float) -> Iterator[bool]:
    """Hold these advisory locks, taken in the order given, on one connection; yields whether all are held."""
    until_s = time.monotonic() + wait_s
    with engine.connection() as connection:
        taken: list[tuple[int, int]] = []
        try:
            for space, number in keys:
                # Asked for again and again: a lock that is waited for runs into the timeout of statements.
                while not connection.execute(_TRY_LOCK, {"space": space, "id": number}).scalar():
                    if time.monotonic() >= until_s:
                        yield False
                        return
                    time.sleep(_POLL_S)
                taken.append((space, number))
            yield True
        finally:
            if not connection.closed and not connection.invalidated:
                for space, number in reversed(taken):
                    connection.execute(_UNLOCK, {"space": space, "id": number})
