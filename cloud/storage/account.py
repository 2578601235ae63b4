"""The operating system's account under which the embedded PostgreSQL runs.

PostgreSQL refuses to run as root. A service that runs as root therefore runs it as a system account of its own, which
can log in nowhere; any other service runs it as itself, and nothing here changes anything.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError

COMPONENT: Final = "embedded PostgreSQL"
ACCOUNT_NAME: Final = "luminescent"
_CREATE_ATTEMPTS: Final = 20
_CREATE_PAUSE_S: Final = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """An account that PostgreSQL can run under.

    Attributes:
        name: Its login name.
        uid: Its user id, never 0.
        gid: Its primary group.
        service_name: Login name of the account this process runs under; the same unless that is root.
    """

    name: str
    uid: int
    gid: int
    service_name: str

    @property
    def is_other(self) -> bool:
        """Whether it is another account than this process's own."""
        return self.uid != os.geteuid()

    def run(
        self, arguments: Sequence[str | Path], *, timeout_s: float, keep_errors: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program as this account, in a process group of its own, without our environment and files.

        Args:
            arguments: The program and its arguments.
            timeout_s: Seconds until it is killed.
            keep_errors: Whether to keep what it writes to standard error. Not for a program that leaves a server
                behind, which would keep the pipe open for ever.

        Raises:
            ConfigurationError: The program cannot be executed by this account.
            ProviderUnavailableError: It did not end in time.
        """
        try:
            return subprocess.run(
                [os.fspath(argument) for argument in arguments],
                check=False,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if keep_errors else subprocess.DEVNULL,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                process_group=0,  # Ctrl-C meant for us does not reach it
                user=self.uid if self.is_other else None,
                group=self.gid if self.is_other else None,
                extra_groups=[] if self.is_other else None,
            )
        except subprocess.TimeoutExpired as exc:
            raise ProviderUnavailableError(COMPONENT) from exc
        except OSError as exc:
            raise ConfigurationError(
                f"account '{self.name}' cannot execute {arguments[0]}: {exc.strerror}; install the Python environment "
                "so that other accounts can read and execute it (umask 022)"
            ) from exc

    def let_pass_to(self, directory: Path) -> None:
        """Make sure this account can pass through `directory` and all that hold it.

        Where the right to search is missing on a directory of ours, that right alone is granted, and logged.

        Raises:
            ConfigurationError: A directory of another owner is closed to the account.
        """
        if not self.is_other:
            return
        resolved = directory.resolve()
        for place in (*reversed(resolved.parents), resolved):
            found = place.stat()
            if found.st_uid == self.uid:
                needed = stat.S_IXUSR
            elif found.st_gid == self.gid:
                needed = stat.S_IXGRP
            else:
                needed = stat.S_IXOTH
            if found.st_mode & needed:
                continue
            if found.st_uid != os.geteuid():
                raise ConfigurationError(
                    f"account '{self.name}', which runs PostgreSQL, cannot pass through {place}: grant it the right "
                    "to search that directory, or choose another place"
                )
            _log.warning("granting others the right to search %s, so that '%s' can pass through", place, self.name)
            place.chmod(stat.S_IMODE(found.st_mode) | needed)


def server_account() -> ServerAccount:
    """The account for PostgreSQL; for a service that runs as root it is created if it is missing.

    Raises:
        ConfigurationError: This process's account has no entry in the user database, or the system account cannot
            be created.
    """
    try:
        own = pwd.getpwuid(os.geteuid())
    except KeyError:
        raise ConfigurationError(
            f"uid {os.geteuid()} has no entry in the user database, which PostgreSQL needs: add one, or use an "
            "external PostgreSQL"
        ) from None
    if own.pw_uid != 0:
        return ServerAccount(own.pw_name, own.pw_uid, own.pw_gid, own.pw_name)
    other = _find() or _create()
    if other.pw_uid == 0:
        raise ConfigurationError(f"account '{ACCOUNT_NAME}' is root under another name; PostgreSQL refuses it")
    return ServerAccount(other.pw_name, other.pw_uid, other.pw_gid, own.pw_name)


def _find() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        return None


def _create() -> pwd.struct_passwd:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is not None:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        # Repeated: another process may hold the lock of the user database, or be creating the same account.
        for _ in range(_CREATE_ATTEMPTS):
            subprocess.run(
                [program, *options, "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if (created := _find()) is not None:
                _log.warning("system account '%s' runs the embedded PostgreSQL", ACCOUNT_NAME)
                return created
            time.sleep(_CREATE_PAUSE_S)
    raise ConfigurationError(
        f"PostgreSQL refuses to run as root and system account '{ACCOUNT_NAME}' could not be created: create it, run "
        "the service as an ordinary account, or use an external PostgreSQL"
    )
