"""What checks need, made when first asked for, and the loop that runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from cloud.kernel.errors import ConfigurationError, LuminescentError
from cloud.kernel.findings import Finding, Level, problem
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sqlite import FileKeyring
from cloud.settings import CloudSettings
from cloud.startup.keyring import find_root_keys, keyring_directory
from cloud.startup.servers import external_server
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.engine import ControlEngine, Deadline, Row
from cloud.storage.external import ExternalPostgres
from cloud.storage.roles import CONTROL_DATABASE

_T = TypeVar("_T")

_QUICK = Deadline(total_s=6.0, statement_s=5.0, attempts=2)


class Obstacle(Exception):  # noqa: N818 - never leaves this package
    """What a check needs is not to be had, and another check has said why."""


class Context:
    """The parts of an installation, opened one by one. A context manager.

    Nothing is made, migrated or repaired: a home that is not there stays away. The embedded server is started if it
    does not run, and stopped again if nobody else uses it.

    Args:
        settings: How the installation is run.
    """

    def __init__(self, settings: CloudSettings) -> None:
        self.settings = settings
        self._made: dict[str, object] = {}
        self._failed: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def closing(self, give_back: Callable[[], object]) -> None:
        """Call `give_back` when the context ends."""
        self._stack.callback(give_back)

    def require_home(self) -> None:
        """There is a home that was opened before."""

        def look() -> None:
            if not (self.settings.home / "secrets").is_dir():
                raise ConfigurationError(
                    f"there is no installation in {self.settings.home}: name another with --home, or make one with"
                    " luminescent-cloud tenants create"
                )

        self.once("home", look)

    @property
    def server(self) -> EmbeddedPostgres | ExternalPostgres:
        """The server; the embedded one runs, whether an external one answers is for a check to find out."""

        def make() -> EmbeddedPostgres | ExternalPostgres:
            server: EmbeddedPostgres | ExternalPostgres | None = external_server(self.settings)
            if server is None:
                self.require_home()
                server = EmbeddedPostgres.open(self.settings.home)
            self._stack.callback(server.close)
            return server

        return self.once("server", make)

    @property
    def external(self) -> ExternalPostgres | None:
        """The server, if it is an external one."""
        server = self.server
        return server if isinstance(server, ExternalPostgres) else None

    def engine(self, role: str) -> ControlEngine:
        """The control plane as a role."""

        def make() -> ControlEngine:
            engine = ControlEngine(
                self.server.url(role, CONTROL_DATABASE),
                pool_size=1,
                deadline=_QUICK,
                application_name="luminescent-cloud doctor",
            )
            self._stack.callback(engine.close)
            return engine

        return self.once(f"engine of {role}", make)

    def rows(self, role: str, statement: str, **parameters: object) -> list[Row]:
        """Rows of a statement on the control plane, as a role; what needs a table comes after `require_revision`."""
        self.require(f"role {role}")
        return list(self.engine(role).rows(sa.text(statement), parameters))

    @property
    def root_keys(self) -> RootKeys:
        """The key above all keys."""
        self.require_home()
        return self.once("root key", lambda: find_root_keys(self.settings, create=False))

    @property
    def keyring(self) -> FileKeyring:
        """The keyring, opened with the root key."""

        def make() -> FileKeyring:
            keyring = FileKeyring.open(keyring_directory(self.settings), self.root_keys)
            self._stack.callback(keyring.close)
            return keyring

        return self.once("keyring", make)

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What `make` returned when this name was first asked for.

        Raises:
            Obstacle: It failed then.
        """
        self.require(name)
        if name not in self._made:
            try:
                self._made[name] = make()
            except Obstacle as obstacle:
                self._failed[name] = str(obstacle)
                raise
            except BaseException:
                # What it was is for `_run` to tell; here it is remembered that it failed.
                self._failed[name] = name
                raise
        return cast(_T, self._made[name])

    def fail(self, name: str, because_of: str | None = None) -> None:
        """Let whatever requires `name` be skipped from now on, because of what failed first."""
        self._failed[name] = because_of or name

    def require(self, name: str) -> None:
        """Nobody has reported that `name` fails.

        Raises:
            Obstacle: Somebody has; names what failed first.
        """
        if name in self._failed:
            raise Obstacle(self._failed[name])


Check = Callable[[Context], Iterable[Finding]]


def examine(context: Context, checks: Iterable[Check]) -> list[Finding]:
    """What the checks find, in their order; one that fails is a finding itself and ends nothing."""
    return [finding for check in checks for finding in _run(context, check)]


def _run(context: Context, check: Check) -> Iterator[Finding]:
    name = getattr(check, "__name__", "check").replace("_", " ").strip()
    try:
        yield from check(context)
    except Obstacle as obstacle:
        context.fail(name, str(obstacle))
        yield Finding(name, Level.SKIPPED, f"not looked at before this is mended: {obstacle}")
    except LuminescentError as error:
        context.fail(name)
        yield problem(name, str(error), None)
    except sa.exc.DBAPIError as exc:
        # Its text may quote values.
        yield problem(name, f"the database refused the look (SQLSTATE {_state(exc.orig)})", _UPGRADE)
    except OSError as exc:
        yield problem(name, f"{exc.filename or 'a file'}: {exc.strerror or type(exc).__name__}", "see to that file")


_UPGRADE = "bring the database to this version: luminescent-cloud db upgrade"


def _state(error: Any) -> str | None:
    state = getattr(error, "sqlstate", None)
    return str(state) if state is not None else None
