"""Connections that do not wait for ever.

The server's own `statement_timeout` bounds what a statement may run, not how long a server that stands still keeps its
client waiting: one that is stopped, swapped out or behind a dead network looks at no clock. So each wait for an answer
ends here as well. The connection is closed then, for nobody knows what may still arrive on it.
"""

from __future__ import annotations

import time
from typing import TypeVar, cast

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry

_RV = TypeVar("_RV")
_POLL_S = 0.1


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection on which no wait for the server lasts longer than `answer_s`."""

    answer_s: float = 60.0

    def wait(self, gen: PQGen[_RV], interval: float = _POLL_S, timeout: float | None = None) -> _RV:
        """What `gen` returns.

        Raises:
            psycopg.OperationalError: The server did not answer in time; the connection is closed.
        """
        return super().wait(self._until(gen, time.monotonic() + self.answer_s), interval, timeout)

    def _until(self, gen: PQGen[_RV], give_up_at: float) -> PQGen[_RV]:
        try:
            wanted = next(gen)
            while True:
                # The driver resumes this at every interval too, with a falsy value if the server said nothing.
                ready = yield wanted
                if not ready and time.monotonic() >= give_up_at:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = gen.send(ready)
        except StopIteration as done:
            answer: _RV = done.value
            return answer


def bound_waits(engine: sa.Engine, *, answer_s: float) -> None:
    """Every connection that `engine` makes from now on is a `BoundedConnection`.

    Args:
        engine: An engine on the psycopg dialect.
        answer_s: Seconds that one answer of the server may take.
    """

    def connect(
        dialect: Dialect, entry: ConnectionPoolEntry, arguments: list[object], options: dict[str, object]
    ) -> DBAPIConnection:
        connection = BoundedConnection.connect(*arguments, **options)  # type: ignore[arg-type]
        connection.answer_s = answer_s
        return cast(DBAPIConnection, connection)

    sa.event.listen(engine, "do_connect", connect)
