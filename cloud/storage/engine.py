"""Engines on the control plane: one per role, each below row-level security, each call with a deadline.

Request-path statements are server functions that decide and record in one transaction; they run in autocommit, so a
call is one round trip. Administration uses explicit transactions. READ COMMITTED throughout: the functions lock
what they decide on and read it afterwards.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from cloud.kernel import telemetry, telemetry_names
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.calling import Calls
from cloud.storage.connections import bound_waits
from cloud.storage.metadata import TENANT_TABLES
from cloud.storage.wire import ServerFunction

_T = TypeVar("_T")

Row = sa.Row[*tuple[Any, ...]]
"""A row of a result; its columns are those of the statement."""

CONTROL_PLANE: Final = "control plane"
"""What its errors name as the component that failed."""
_TRANSIENT: Final = (OperationalError, InterfaceError, PoolTimeoutError)
_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0
_GRACE_S: Final = 0.5
"""What a client waits beyond the server's own timeout: an answer that says which is better than none."""
_SERIALIZATION: Final = frozenset({"40001", "40P01"})
_UNIQUE_VIOLATION: Final = "23505"
_READ_ONLY: Final = "25006"
"""The server takes no writes: after a failover the connection leads to one that follows another by now."""
_SESSION: Final = (
    "-c statement_timeout={ms} -c lock_timeout={ms} -c idle_in_transaction_session_timeout=60000"
    # For calls in autocommit too, whatever the server, the database or the role has as its default: the server
    # functions lock what they decide on and must then see what others committed meanwhile.
    " -c default_transaction_isolation=read\\ committed"
    # Elsewhere a moment at either end of what a datetime holds is in a year that the driver cannot read.
    " -c TimeZone=UTC"
)


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a control-plane call may take in all, attempts and waits together.

    Attributes:
        total_s: Seconds until the call gives up.
        statement_s: Seconds that one statement may run.
        attempts: Attempts at most.
    """

    total_s: float = 8.0
    statement_s: float = 3.0
    attempts: int = 4


class ControlEngine:
    """Runs statements of one role; translates the driver's errors into the product's.

    Args:
        url: Where and as whom to connect.
        pool_size: Connections kept; as many again may be opened for a burst.
        deadline: Bounds of every call.
        application_name: Shown in `pg_stat_activity`.
        recover: Called after a failed attempt with the seconds that are left; the embedded server uses it to start
            again.
    """

    def __init__(
        self,
        url: sa.URL,
        *,
        pool_size: int = 4,
        deadline: Deadline | None = None,
        application_name: str = "luminescent-cloud",
        recover: Callable[[float], None] | None = None,
    ) -> None:
        self._deadline = deadline or Deadline()
        self._recover = recover
        self._engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=self._deadline.statement_s,
            isolation_level="READ COMMITTED",
            # Parameters hold sealed envelopes and ids; they stay out of messages and logs all the same.
            hide_parameters=True,
            connect_args=_connect_arguments(url, application_name, self._deadline.statement_s),
        )
        answer_s = self._deadline.statement_s + _GRACE_S
        bound_waits(self._engine, answer_s=answer_s)
        # As many again may be opened, so what lies ready for calls keeps nobody else waiting.
        self._calls = Calls(self._engine, answer_s=answer_s, ready=pool_size)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Close every pooled connection."""
        self._calls.close()
        self._engine.dispose()

    def call(
        self, statement: sa.Executable, parameters: Mapping[str, object], *, retry_parameter: str | None
    ) -> object:
        """Run one self-contained statement and return its single value.

        Args:
            statement: A call of a server function.
            parameters: Its parameters.
            retry_parameter: Name of the parameter that tells the function that an earlier attempt may have
                committed; `None` if running it twice does no harm.

        Raises:
            ProviderUnavailableError: No answer within the deadline.
        """

        def send(bound: Mapping[str, object]) -> object:
            with self._autocommit.connect() as connection:
                return connection.execute(statement, bound).scalar()

        return self._repeated(send, parameters, retry_parameter)

    def invoke(
        self, function: ServerFunction, parameters: Mapping[str, object], *, retry_parameter: str | None
    ) -> object:
        """As `call`, for a server function that says what its parameters are: the shortest way there and back.

        Returns:
            A JSON value, or a text.

        Raises:
            ProviderUnavailableError: No answer within the deadline.
        """

        def send(bound: Mapping[str, object]) -> object:
            return self._calls.answer(function, function.arguments(bound))

        return self._repeated(send, parameters, retry_parameter)

    def rows(self, statement: sa.Executable, parameters: Mapping[str, object] | None = None) -> Sequence[Row]:
        """Run one reading statement in autocommit and return all its rows.

        Raises:
            ProviderUnavailableError: No answer within the deadline.
        """

        def attempt() -> Sequence[Row]:
            with self._autocommit.connect() as connection:
                return connection.execute(statement, dict(parameters or {})).all()

        return self._bounded(attempt)

    def transaction(self, work: Callable[[sa.Connection], _T], *, isolation: str = "READ COMMITTED") -> _T:
        """Run `work` in one transaction that may be repeated as a whole when it could not commit.

        Args:
            work: Gets the connection; must be safe to run again after a failed attempt.
            isolation: Isolation level of the transaction.

        Raises:
            ProviderUnavailableError: It did not commit within the deadline.
        """

        def attempt() -> _T:
            with (
                self._engine.connect().execution_options(isolation_level=isolation) as connection,
                connection.begin(),
            ):
                return work(connection)

        return self._bounded(attempt)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """A connection in autocommit for work that keeps it, such as holding an advisory lock."""
        try:
            with self._autocommit.connect() as connection:
                yield connection
        except _TRANSIENT as exc:
            raise ProviderUnavailableError(CONTROL_PLANE) from exc

    def _repeated(
        self, send: Callable[[Mapping[str, object]], object], parameters: Mapping[str, object], retry: str | None
    ) -> object:
        """What `send` returns for the parameters, of which the one named `retry` says whether it is a repetition."""
        attempt_number = 0

        def attempt() -> object:
            nonlocal attempt_number
            attempt_number += 1
            return send(parameters if retry is None else {**parameters, retry: attempt_number > 1})

        return self._bounded(attempt)

    def _bounded(self, attempt: Callable[[], _T]) -> _T:
        # By hand: tenacity's own loop takes 30 us of each call, nearly all of which are made once.
        began_s = time.monotonic()
        number = 0
        while True:
            number += 1
            try:
                return self._translated(attempt, is_repetition=number > 1)
            except _Transient as exc:
                left_s = self._deadline.total_s - (time.monotonic() - began_s)
                if number >= self._deadline.attempts or left_s <= 0:
                    raise ProviderUnavailableError(CONTROL_PLANE) from exc.__cause__
                if self._recover is not None:
                    self._recover(left_s)
            # Apart from each other, as those that failed together would be together again.
            time.sleep(min(_PAUSE_MAX_S, _PAUSE_S * 2 ** (number - 1)) + random.uniform(0, _PAUSE_S))  # noqa: S311 - no secret

    def _translated(self, attempt: Callable[[], _T], *, is_repetition: bool) -> _T:
        telemetry.count(telemetry_names.STATEMENTS)
        try:
            return attempt()
        except _TRANSIENT as exc:
            raise _Transient from exc
        except DBAPIError as exc:
            sqlstate = getattr(exc.orig, "sqlstate", None)
            if sqlstate == _READ_ONLY:
                self._connect_anew()
                raise _Transient from exc
            if exc.connection_invalidated or sqlstate in _SERIALIZATION:
                raise _Transient from exc
            if is_repetition and sqlstate == _UNIQUE_VIOLATION:
                # The attempt before was still committing when this one looked for its traces. The next one sees them.
                raise _Transient from exc
            raise

    def _connect_anew(self) -> None:
        """No connection that lies ready is used again; one that is in use goes when it is given back."""
        self._calls.drop()
        self._engine.dispose()


def _connect_arguments(url: sa.URL, application_name: str, statement_s: float) -> dict[str, object]:
    """What is added to the URL: defaults where it says nothing, and settings of the session after its own."""
    defaults = {"application_name": application_name, "connect_timeout": max(1, int(statement_s))}
    given = url.query.get("options", "")
    options = [*([given] if isinstance(given, str) else given), _SESSION.format(ms=int(statement_s * 1000))]
    return {
        **{name: value for name, value in defaults.items() if name not in url.query},
        "options": " ".join(options).strip(),
    }


class _Transient(Exception):  # noqa: N818 - never leaves this module
    """The attempt failed in a way that another attempt may not."""


def check_role(engine: ControlEngine) -> None:
    """The engine's role is held by row-level security on every tenant table, or the service does not start.

    Raises:
        ConfigurationError: The role is a superuser, bypasses row-level security, owns a tenant table, or a tenant
            table has none.
    """
    names = [table.name for table in TENANT_TABLES]
    (row,) = engine.rows(
        sa.text(
            "SELECT r.rolname, r.rolsuper, r.rolbypassrls,"
            " array(SELECT c.relname::text FROM pg_class c WHERE c.relname = ANY(:names) AND c.relkind IN ('r', 'p')"
            "        AND c.relnamespace = 'public'::regnamespace AND pg_has_role(r.oid, c.relowner, 'USAGE')) AS owned,"
            " array(SELECT n FROM unnest(CAST(:names AS text[])) AS n LEFT JOIN pg_class c ON c.relname = n"
            "        AND c.relnamespace = 'public'::regnamespace WHERE c.relrowsecurity IS NOT TRUE) AS open"
            " FROM pg_roles r WHERE r.rolname = current_user"
        ),
        {"names": names},
    )
    role, is_super, bypasses, owned, unprotected = row
    if is_super or bypasses:
        raise ConfigurationError(
            f"role '{role}' bypasses row-level security; connect as a role of infra/postgres/roles.sql"
        )
    if owned:
        raise ConfigurationError(
            f"role '{role}' owns tenant tables ({', '.join(owned)}); row-level security would not hold it"
        )
    if unprotected:
        raise ConfigurationError(f"tables without row-level security: {', '.join(unprotected)}; run the migrations")
