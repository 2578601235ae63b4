"""Pixeltable's environment of this process: one home, one database, no listening socket, no log of its own.

Pixeltable keeps one environment per process and, left alone, starts an HTTP server on loopback that serves every file
this account can read to every local user; reads settings from `PIXELTABLE_*` variables, from `~/.pixeltable` and from
the `pyproject.toml` of whatever directory the process was started in; and logs errors with the values of rows. It sends
nothing anywhere by itself in 0.7.21: its telemetry is hooks that this project subscribes nobody to.

Rules:

1. It is imported here and not before: the import takes seconds.
2. Its settings are given as overrides, which outrank the environment; `PIXELTABLE_*` and `PXTCLOUD_*` variables are
   removed from this process, for one of them (`PIXELTABLE_DB_URI`) would send tables to another database. The connect
   string, with its password, is in the environment only while Pixeltable reads it.
3. Its web server is replaced before initialization, and it is verified afterwards that nothing listens.
4. Its loggers pass on nothing: several of its records, some of level ERROR, quote rows.
5. A second home is refused; Pixeltable itself would silently go on with the first one's database.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryError

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.home import open_home, private_directory, write_private

if TYPE_CHECKING:
    from pixeltable.env import Env

COMPONENT: Final = "pixeltable"
_LOCK_ID: Final = 0x6C635F70  # 'lc_p': one process at a time initializes a database, wherever it runs
_LOCK_DEADLINE_S: Final = 120
_SETTINGS_FILE: Final = b"[pixeltable]\nfile_cache_size_g = 0.1\n"
"""Our tables hold no files; by default a fifth of the free disk would be claimed. Only a file may set this."""
_NO_SERVER: Final = "http://file-server-is-off.invalid"
_CONNECT_VARIABLE: Final = "PIXELTABLE_DB_CONNECT_STR"
_FOREIGN_LOGGERS: Final = ("sqlalchemy.engine", "libav", "uvicorn")
"""Loggers of others that Pixeltable takes over."""
_LISTENING: Final = "0A"  # state column of /proc/net/tcp

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    home: Path
    url: URL
    pid: int


_lock = threading.Lock()
_opened: _Opened | None = None


def open_pixeltable(home: Path, url: URL, *, pool_size: int = 5) -> bool:
    """Pixeltable works in this process, on `home` and `url`, and listens nowhere. Idempotent and thread-safe.

    Takes 2-3 seconds the first time.

    Args:
        home: The installation's home directory.
        url: The database Pixeltable owns, with the `vector` extension, as a role without further rights.
        pool_size: Connections to it that are kept; twice as many in a burst.

    Returns:
        Whether this call opened it; whoever did not leaves it connected for who did.

    Raises:
        ConfigurationError: Pixeltable was opened before with another home or database, or by someone else, or in the
            process this one was forked from; or this version of it cannot be kept from listening.
        ProviderUnavailableError: The database did not answer, or another process did not finish its initialization.
    """
    global _opened
    with _lock:
        if _opened is not None:
            _check_same(_opened, _Opened(home.expanduser().resolve(), url, os.getpid()))
            return False
        if (module := sys.modules.get("pixeltable.env")) is not None and module.Env._instance is not None:
            raise ConfigurationError(
                "Pixeltable is in use in this process already, and can have only one home: open the cloud side "
                "before, or in another process"
            )
        place = open_home(home)
        directory = private_directory(place.pixeltable)
        write_private(directory / "config.toml", _SETTINGS_FILE)
        _clear_environment()
        before = listening_sockets()
        with _initializing_alone(url):
            _initialize(directory, url, pool_size)
        _check_nothing_listens(before)
        _opened = _Opened(place.root, url, os.getpid())
        return True


def disconnect_pixeltable() -> None:
    """Pixeltable holds no idle connection any more. For before the server stops; the next call connects again.

    Its environment stays what it is until the process ends.
    """
    with _lock:
        if _opened is not None and _opened.pid == os.getpid():
            from pixeltable.env import Env

            Env.get().engine.dispose()


def listening_sockets() -> frozenset[str]:
    """Inodes of the TCP sockets on which this process listens; empty where there is no `/proc`."""
    listening = set()
    for name in ("tcp", "tcp6"):
        table = Path("/proc/self/net") / name
        if table.exists():
            rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
            listening |= {row[9] for row in rows if row[3] == _LISTENING}
    own = set()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed since it was listed
        if target.startswith("socket:["):
            own.add(target.removeprefix("socket:[").removesuffix("]"))
    return frozenset(listening & own)


def _check_same(opened: _Opened, wanted: _Opened) -> None:
    if opened.pid != wanted.pid:
        raise ConfigurationError(
            "this process was forked from one that had opened Pixeltable, whose connections it cannot share: start "
            "a new process instead"
        )
    if opened != wanted:
        raise ConfigurationError(
            f"Pixeltable has one home and one database per process: it is open on {opened.home}, and cannot be "
            f"opened on {wanted.home} or another database here"
        )


def _clear_environment() -> None:
    removed = [name for name in os.environ if name.upper().startswith(("PIXELTABLE_", "PXTCLOUD_"))]
    for name in removed:
        del os.environ[name]
    if removed:
        _log.warning("environment variables %s are not for this installation; removed", ", ".join(sorted(removed)))


@contextmanager
def _initializing_alone(url: URL) -> Iterator[None]:
    """No other process initializes the same database: two at once collide.

    A lock in the database rather than in a file: the processes may be on different machines. It ends with the
    transaction, so a connection pooler between us does no harm.
    """
    engine = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        hide_parameters=True,
        connect_args={"connect_timeout": _LOCK_DEADLINE_S, "application_name": "luminescent-cloud start-up"},
    )
    try:
        with engine.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_DEADLINE_S}s'"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
            yield
    except (SQLAlchemyError, RetryError) as exc:
        raise ProviderUnavailableError(COMPONENT, reason="could not reach or lock its database") from exc


def _initialize(directory: Path, url: URL, pool_size: int) -> None:
    # Foreign warnings on import, such as that of a missing XDG_RUNTIME_DIR, are not about anything used here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable import exceptions
        from pixeltable import globals as api
        from pixeltable.config import Config
        from pixeltable.env import Env
    if not callable(getattr(Env, "_start_web_server", None)):
        raise ConfigurationError(
            "this version of Pixeltable starts its web server in a way that is not known, so it cannot be kept from "
            "serving this account's files: use a version that this release supports"
        )
    Env._start_web_server = _start_no_web_server
    settings = {
        "pixeltable.home": str(directory),
        "pixeltable.config": str(directory / "config.toml"),
        "pixeltable.time_zone": "UTC",
        "pixeltable.verbosity": 0,
        "pixeltable.log_level": "CRITICAL",
        "pixeltable.show_progress": "false",
        "pixeltable.db_pool_size": pool_size,
        "pixeltable.db_pool_max_overflow": pool_size,
    }
    foreign = {name: logging.getLogger(name) for name in _FOREIGN_LOGGERS}
    states = {name: (logger.level, logger.propagate) for name, logger in foreign.items()}
    os.environ[_CONNECT_VARIABLE] = url.render_as_string(hide_password=False)
    try:
        # `reinit`: an attempt that failed, because the database was down, leaves its settings behind.
        Config.init(settings, reinit=True, project_root=None)
        Env.get()
        api.init()
    except exceptions.Error as exc:
        # The one place where its text may be read: there are no rows yet.
        raise ConfigurationError(f"Pixeltable cannot be initialized ({exc.error_code.name})") from exc
    finally:
        del os.environ[_CONNECT_VARIABLE]
    _silence(Env.get())
    for name, (level, propagate) in states.items():
        foreign[name].setLevel(level)
        foreign[name].propagate = propagate


def _start_no_web_server(env: Env) -> None:
    """In place of `Env._start_web_server`. Results ask for an address, though only media columns use it."""
    env._http_address = _NO_SERVER


def _silence(env: Env) -> None:
    """Detach Pixeltable's log files and console, and remove the files, which its level has kept empty."""
    for logger, handler in env._managed_logging_handlers:
        logger.removeHandler(handler)
        handler.close()
        if isinstance(handler, logging.FileHandler):
            file = Path(handler.baseFilename)
            # One of the same second, in another process, may have had the same name.
            if file.exists() and file.stat().st_size == 0:
                file.unlink(missing_ok=True)
    env._managed_logging_handlers.clear()
    own = logging.getLogger("pixeltable")
    own.addHandler(logging.NullHandler())
    own.propagate = False
    env.engine.hide_parameters = True


def _check_nothing_listens(before: frozenset[str]) -> None:
    from pixeltable.env import Env

    if Env.get()._httpd is not None or listening_sockets() - before:
        raise ConfigurationError(
            "a socket is listening since Pixeltable was opened, through which this account's files could be read: "
            "use a version of Pixeltable that this release supports; if the socket is your own, open it before or after"
        )
