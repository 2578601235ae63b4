"""Calls of server functions on pooled connections: prepared once, then one message there and one back.

A call of the request path is one statement in autocommit, so nothing of what a general connection does around a
statement is needed: no transaction to begin, none to roll back when the connection is given back, no cursor, no row.
The pool is asked for a connection when none lies ready here: asking it at each call takes as long as all else in the
process. What remains is bounded as every wait is (`cloud.storage.connections`).
"""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import psycopg
import sqlalchemy as sa
from psycopg import pq
from psycopg.errors import error_from_result
from sqlalchemy.exc import DBAPIError

from cloud.storage.wire import ServerFunction

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

_TEXT_FORMAT: Final = 0
_BINARY_FORMAT: Final = 1
_JSON_OID: Final = 3802
_PREPARED: Final = "luminescent.prepared"
_POLL: Final = "luminescent.poll"
_BROKEN: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Calls:
    """Runs server functions on the connections of an engine's pool.

    Args:
        engine: Its pool lends the connections.
        answer_s: Seconds that one answer of the server may take.
        ready: How many of them may lie ready here between calls.
    """

    def __init__(self, engine: sa.Engine, *, answer_s: float, ready: int) -> None:
        self._engine = engine
        self._answer_s = answer_s
        self._most_ready = ready
        # The one that was used last comes next: its caches are warm. A deque's ends are safe for threads.
        self._ready: deque[sa.PoolProxiedConnection] = deque()

    def close(self) -> None:
        """Give back to the pool what lies ready, and what is used yet when it is not any more."""
        self._most_ready = 0
        self.drop()

    def drop(self) -> None:
        """Give back to the pool what lies ready."""
        while (pooled := self._taken()) is not None:
            pooled.close()

    def answer(self, function: ServerFunction, arguments: list[bytes | None]) -> object:
        """What the function answers: a JSON value, or a text.

        Raises:
            DBAPIError: As SQLAlchemy raises it for the same statement; its message shows no argument.
            sqlalchemy.exc.TimeoutError: The pool had no connection in time.
        """
        try:
            pooled = self._live()
            try:
                answer = self._exchanged(pooled, function, arguments)
            except BaseException as error:
                # A server that refuses leaves it as it was. Interrupted, nobody knows what may still arrive.
                if not isinstance(error, psycopg.Error) or _connection(pooled).pgconn.status != pq.ConnStatus.OK:
                    pooled.invalidate(error)
                pooled.close()
                raise
            self._put_back(pooled)
        except psycopg.Error as error:
            raise _translated(function, error) from error
        return answer

    def _live(self) -> sa.PoolProxiedConnection:
        """A connection of the pool that the server has not closed meanwhile, as it does when it starts again."""
        while True:
            pooled = self._taken() or self._engine.pool.connect()
            # Nothing is asked, so nothing is said but the end.
            if not _poll(pooled).poll(0):
                return pooled
            pooled.invalidate()
            pooled.close()

    def _taken(self) -> sa.PoolProxiedConnection | None:
        try:
            return self._ready.pop()
        except IndexError:
            return None

    def _put_back(self, pooled: sa.PoolProxiedConnection) -> None:
        if len(self._ready) < self._most_ready:
            self._ready.append(pooled)
        else:
            pooled.close()

    def _exchanged(
        self, pooled: sa.PoolProxiedConnection, function: ServerFunction, arguments: list[bytes | None]
    ) -> object:
        try:
            result = self._sent(pooled, function, arguments)
        except psycopg.errors.InvalidSqlStatementName:
            # Nothing ran. The driver forgets every prepared statement of a connection on which a transaction was rolled
            # back, ours too, and so may a pool between us and the server. Others may have been prepared since then.
            pooled.info[_PREPARED].discard(function.prepared)
            result = self._sent(pooled, function, arguments)
        value = result.get_value(0, 0)
        if value is None:
            return None
        return json.loads(value) if result.ftype(0) == _JSON_OID else value.decode()

    def _sent(
        self, pooled: sa.PoolProxiedConnection, function: ServerFunction, arguments: list[bytes | None]
    ) -> PGresult:
        pgconn, poll = _connection(pooled).pgconn, _poll(pooled)
        prepared = pooled.info.setdefault(_PREPARED, set())
        if function.prepared not in prepared:
            pgconn.send_prepare(function.prepared, function.statement, function.oids)
            # An error that comes after it was prepared, such as a timeout, does not undo it.
            with contextlib.suppress(psycopg.errors.DuplicatePreparedStatement):
                self._result(pgconn, poll)
            prepared.add(function.prepared)
        formats = [_BINARY_FORMAT] * len(arguments)
        pgconn.send_query_prepared(function.prepared, arguments, formats, _TEXT_FORMAT)
        return self._result(pgconn, poll)

    def _result(self, pgconn: PGconn, poll: select.poll) -> PGresult:
        """The one result of what was sent.

        Raises:
            psycopg.Error: The server refused it, or did not answer in time; then the connection is closed.
        """
        give_up_at = time.monotonic() + self._answer_s
        sending = pgconn.flush()
        if sending:
            poll.modify(pgconn.socket, select.POLLIN | select.POLLOUT)
        while sending or pgconn.is_busy():
            left_s = give_up_at - time.monotonic()
            ready = poll.poll(max(0.0, left_s) * 1000)
            if not ready and left_s <= 0:
                pgconn.finish()
                raise psycopg.OperationalError("the server did not answer in time")
            if ready and ready[0][1] & (select.POLLIN | _BROKEN):
                pgconn.consume_input()
            if sending:
                sending = pgconn.flush()
                if not sending:
                    poll.modify(pgconn.socket, select.POLLIN)
        result = pgconn.get_result()
        if result is None:
            raise psycopg.OperationalError("the server gave no result")
        while pgconn.get_result() is not None:
            # A closing connection says so in a result of its own; the first one is the statement's.
            continue
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise error_from_result(result, encoding="utf-8")
        return result


def _connection(pooled: sa.PoolProxiedConnection) -> psycopg.Connection[tuple[object, ...]]:
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


def _poll(pooled: sa.PoolProxiedConnection) -> select.poll:
    """What waits for the server to say something; made once for each connection."""
    poll = pooled.info.get(_POLL)
    if poll is None:
        poll = pooled.info[_POLL] = select.poll()
        poll.register(_connection(pooled).pgconn.socket, select.POLLIN)
    return poll


def _translated(function: ServerFunction, error: psycopg.Error) -> BaseException:
    """The error as SQLAlchemy raises it, so that who called need not know which way the statement went."""
    return DBAPIError.instance(function.statement.decode(), None, error, psycopg.Error, hide_parameters=True)
