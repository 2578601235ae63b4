"""One PostgreSQL cluster on this machine: made, started, found again after a crash, stopped.

Linux only: what runs is read from `/proc`. The caller holds the start lock around `create`, `start` and `stop`.

A server is running when it answers on its socket; that also finds one in another process namespace. A process id in
`postmaster.pid` proves nothing by itself, for ids are used again: after a container's restart it may well be our own.
So a process counts as this cluster's only by account and command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.pq import Ping

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.storage.account import COMPONENT, ServerAccount
from cloud.storage.home import SOCKET_NAME, Home, private_directory, sync_directory, write_private
from cloud.storage.server_config import SUPERUSER, account_map, client_rules, server_settings

_DEADLINE_S: Final = 60
_STOP_S: Final = 20
_SETTLE_S: Final = 10.0
_PING_S: Final = 5
_POLL_S: Final = 0.02
_ORPHANS_QUIT_S: Final = 2.0
_LOG_MAX_BYTES: Final = 8 << 20
_WAL_SEGMENT_MB: Final = 4
"""Small: every erasure closes two segments, and each is written in full when it is made."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster in a home.

    Attributes:
        home: Where it is.
        account: Under which account its processes run.
        binaries: Directory of PostgreSQL's programs.
    """

    home: Home
    account: ServerAccount
    binaries: Path

    @property
    def _data(self) -> Path:
        return self.home.postgres / "data"

    @property
    def _log_directory(self) -> Path:
        return self.home.postgres / "log"

    @property
    def _log(self) -> Path:
        return self._log_directory / "server.log"

    @property
    def _name(self) -> str:
        return f"luminescent-{hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]}"

    def create(self) -> None:
        """The cluster exists, complete; what an interrupted attempt left is removed first.

        Raises:
            ConfigurationError: The account cannot reach it, a directory in it is not as it must be, or initdb failed.
        """
        self._check_places()
        if self._data.exists():
            return
        unfinished = self.home.postgres / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        self._server_directory(unfinished)
        arguments = [
            "--auth-local=peer", "--auth-host=reject", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C",
            "--data-checksums", f"--wal-segsize={_WAL_SEGMENT_MB}", "--no-instructions",
        ]  # fmt: skip
        done = self.account.run(
            [self.binaries / "initdb", "-D", unfinished, *arguments], timeout_s=2 * _DEADLINE_S, keep_errors=True
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise ConfigurationError(f"initdb failed with exit status {done.returncode}, saying: {said[0]}")
        unfinished.rename(self._data)
        sync_directory(self.home.postgres)

    def start(self) -> None:
        """The server accepts connections; one that was killed is started again.

        Raises:
            ProviderUnavailableError: It did not accept connections within 60 seconds.
            ConfigurationError: It refused to start; the message quotes why.
        """
        give_up_at = time.monotonic() + _DEADLINE_S
        # One that refuses, or lives and does not answer, is starting, recovering or stopping: wait what it becomes.
        while (answer := self._ping()) != Ping.OK:
            if answer == Ping.NO_RESPONSE and self.pid() is None:
                self._clear_remains()
                self._launch()
                return
            if time.monotonic() >= give_up_at:
                raise ProviderUnavailableError(COMPONENT, reason="is still starting or stopping")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """The server is stopped and everything it acknowledged is on disk.

        Raises:
            ProviderUnavailableError: It did not stop.
        """
        if self.pid() is None:
            return
        # PostgreSQL 16 hangs when told to stop while it restarts itself after the crash of a backend.
        settled_at = time.monotonic() + _SETTLE_S
        while self._ping() == Ping.REJECT and time.monotonic() < settled_at:
            time.sleep(_POLL_S)
        # An immediate stop loses nothing either: the next start recovers.
        for mode, deadline_s in (("fast", _STOP_S), ("immediate", _STOP_S)):
            self.account.run(
                [self.binaries / "pg_ctl", "-D", self._data, "-m", mode, "-w", "-t", str(deadline_s), "stop"],
                timeout_s=2 * deadline_s,
            )
            if self.pid() is None:
                return
        raise ProviderUnavailableError(COMPONENT, reason="did not stop within the deadline")

    def accepts(self) -> bool:
        """Whether the server takes connections now."""
        return self._ping() == Ping.OK

    def pid(self) -> int | None:
        """Process id of the running postmaster, or `None`."""
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return None
        pid = int(lines[0])
        command = _command_line(pid, self.account.uid)
        return pid if os.fsencode(self._data) in command.split(b"\0") else None

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as superuser, in autocommit.

        Raises:
            ProviderUnavailableError: No connection.
        """
        try:
            return psycopg.connect(
                host=str(self.home.socket),
                user=SUPERUSER,
                dbname=database,
                autocommit=True,
                connect_timeout=_DEADLINE_S,
                application_name="luminescent-cloud start-up",
            )
        except psycopg.OperationalError as exc:
            raise ProviderUnavailableError(COMPONENT, reason="refused the connection of its own account") from exc

    def _check_places(self) -> None:
        private = private_directory if not self.account.is_other else _passable_directory
        private(self.home.postgres)
        for path in (self.home.socket, self._log_directory):
            self._server_directory(path)
        if self._data.exists():
            self._server_directory(self._data)
        self.account.let_pass_to(self.home.postgres)
        self.account.let_pass_to(self.binaries)

    def _server_directory(self, path: Path) -> None:
        """`path` is a directory of the server's account that nobody else can enter; a missing one is made so."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(f"{path} is not a directory")
        # Ours and empty: this process, or one that was killed here, has just made it.
        if self.account.is_other and found.st_uid == os.geteuid() and not any(path.iterdir()):
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
            found = path.lstat()
        if found.st_uid != self.account.uid:
            raise ConfigurationError(
                f"{path} belongs to uid {found.st_uid}, but PostgreSQL runs as account '{self.account.name}' "
                f"(uid {self.account.uid}): give {self.home.postgres}/data, log and socket to that account"
            )
        if found.st_mode & 0o077:
            raise ConfigurationError(f"{path} is open to other accounts: chmod 700 {path}")

    def _launch(self) -> None:
        postgres = self.home.postgres
        settings, hba, ident = (
            postgres / "postgresql.conf",
            postgres / "pg_hba.conf",
            postgres / "pg_ident.conf",
        )
        accounts = {self.account.name, self.account.service_name}
        for path, text in (
            (settings, server_settings(socket=self.home.socket, hba=hba, ident=ident, cluster_name=self._name)),
            (hba, client_rules()),
            (ident, account_map(accounts)),
        ):
            write_private(path, text.encode(), mode=0o640, group=self.account.gid)
        if self._log.exists() and self._log.lstat().st_size > _LOG_MAX_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        log_offset = self._log.lstat().st_size if self._log.exists() else 0
        program, options, deadline = self.binaries / "pg_ctl", f"-c config_file='{settings}'", str(_DEADLINE_S)
        done = self.account.run(
            [program, "-D", self._data, "-l", self._log, "-o", options, "-w", "-t", deadline, "start"],
            timeout_s=2 * _DEADLINE_S,
        )
        if done.returncode == 0:
            return
        if self.pid() is not None:
            raise ProviderUnavailableError(COMPONENT, reason="is still recovering after a crash")
        raise ConfigurationError(f"{COMPONENT} did not start: {self._last_refusal(log_offset)}")

    def _clear_remains(self) -> None:
        """Nothing of a killed server is left that keeps the next one from starting.

        Backends of a killed postmaster end by themselves once they wait for something; a busy one holds the shared
        memory until then. The files that name the dead postmaster go last, once nothing of it runs: PostgreSQL would
        believe them if its process id was given away, or if nobody has yet taken note of its end.
        """
        began_at = time.monotonic()
        while orphans := list(self._orphans()):
            waited_s = time.monotonic() - began_at
            if waited_s > _DEADLINE_S:
                raise ProviderUnavailableError(COMPONENT, reason="was killed and leaves processes that do not end")
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT if waited_s < _ORPHANS_QUIT_S else signal.SIGKILL)
            time.sleep(_POLL_S)
        for path in (self._data / "postmaster.pid", self.home.socket / f"{SOCKET_NAME}.lock"):
            path.unlink(missing_ok=True)

    def _orphans(self) -> Iterator[int]:
        title = f"postgres: {self._name}: ".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _command_line(int(entry.name), self.account.uid).startswith(title):
                yield int(entry.name)

    def _ping(self) -> Ping:
        """OK, REJECT while it starts, recovers or stops, or NO_RESPONSE if nobody is there or answers in time.

        A program asks: libpq's own function holds the interpreter's lock, so one server that stands still would stop
        every thread of this process.
        """
        place = ["-h", str(self.home.socket), "-U", SUPERUSER, "-d", "postgres"]
        asked = self.account.run(
            [self.binaries / "pg_isready", "-q", *place, "-t", str(_PING_S)], timeout_s=2 * _PING_S
        )
        return Ping(asked.returncode)

    def _pid_file(self) -> list[str]:
        try:
            return _read_here(self._data / "postmaster.pid", 0).decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def _last_refusal(self, offset: int) -> str:
        """The last line by which the starting server refused. It had no client yet, so no data is in it."""
        try:
            lines = _read_here(self._log, offset).decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        refusals = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return refusals[-1].partition("] ")[2] if refusals else f"see {self._log}"


def _passable_directory(path: Path) -> Path:
    """A directory of ours that PostgreSQL's account can pass through but not read or change."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o711)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise ConfigurationError(f"{path} must be a directory of uid {os.geteuid()} with mode 711")
    return path


def _read_here(path: Path, offset: int) -> bytes:
    """Content of a file in a directory that the server's account can change: no link out of it is followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        return file.read(1 << 20)


def _command_line(pid: int, uid: int) -> bytes:
    """Arguments of a process of account `uid`, each ended by a zero byte; empty if there is none or it is dead."""
    place = Path("/proc") / str(pid)
    try:
        # From `status`, not the directory's owner: that is root for a program its account may not read.
        real_uid = re.search(rb"^Uid:\t(\d+)", (place / "status").read_bytes(), re.MULTILINE)
        return (place / "cmdline").read_bytes() if real_uid and int(real_uid[1]) == uid else b""
    except OSError:
        return b""
