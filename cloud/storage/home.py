"""The home directory of an installation: where its files are, and that nobody else can read them.

Rules:

1. Every directory below the home is private to the account that runs the service (0700), except the directories that
   PostgreSQL's account owns when the service runs as root.
2. A home or a directory in it that another account owns, or that others could read or write, is refused, never
   repaired: what others could write may already hold what they wrote. Only an empty directory is made private.
3. The home itself may be searched (not listed) by others: PostgreSQL's account must pass through it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cloud.kernel.errors import ConfigurationError

SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_MAX_BYTES = 107
"""What fits into `sockaddr_un.sun_path` on Linux, without the terminating zero."""
_READ_OR_WRITE_BY_OTHERS = 0o066
_ANYTHING_BY_OTHERS = 0o077
_UNSAFE_CHARACTERS = frozenset(",\"'\\$`")
"""Mean something to PostgreSQL's lists of directories, to libpq's lists of hosts, or to the shell `pg_ctl` uses."""


@dataclass(frozen=True, slots=True)
class Home:
    """Places in an installation; made by `open_home`, which checked them.

    Attributes:
        root: The home itself, absolute and without symbolic links.
    """

    root: Path

    @property
    def postgres(self) -> Path:
        """What belongs to the embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def socket(self) -> Path:
        """Directory of the server's Unix socket."""
        return self.postgres / "socket"

    @property
    def secrets(self) -> Path:
        """Directory of passwords and keys."""
        return self.root / "secrets"

    @property
    def locks(self) -> Path:
        """Directory of the lock files."""
        return self.root / "locks"

    @property
    def pixeltable(self) -> Path:
        """Pixeltable's own home."""
        return self.root / "pixeltable"


def open_home(path: Path) -> Home:
    """Return the home at `path`, private to this account; a missing or empty one is made so.

    Args:
        path: Where the home is or shall be; `~` is understood.

    Raises:
        ConfigurationError: The path cannot serve, or the directory is not this account's own, or others can read or
            write in it.
    """
    path = path.expanduser().absolute()
    if path.is_symlink() and path.lstat().st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(f"home {path} is a symbolic link that another account owns")
    root = path.resolve()
    text = str(root)
    if not text.isprintable() or not _UNSAFE_CHARACTERS.isdisjoint(text):
        raise ConfigurationError(f"home {text!r}: the path may not hold control characters or any of , \" ' \\ $ `")
    if (length := len(os.fsencode(root / "postgres" / "socket" / SOCKET_NAME))) > _SOCKET_PATH_MAX_BYTES:
        raise ConfigurationError(
            f"home {root} is too deep: PostgreSQL's socket in it would have a path of {length} bytes, "
            f"{_SOCKET_PATH_MAX_BYTES} are possible; choose a home whose path is {length - _SOCKET_PATH_MAX_BYTES} "
            "bytes shorter"
        )
    _make_private(root, forbidden=_READ_OR_WRITE_BY_OTHERS, parents=True)
    home = Home(root)
    private_directory(home.secrets)
    private_directory(home.locks)
    return home


def private_directory(path: Path) -> Path:
    """Return `path` as a directory that only this account can enter; a missing or empty one is made so.

    Raises:
        ConfigurationError: It is no directory, or another account's, or others can enter it and it is not empty.
    """
    _make_private(path, forbidden=_ANYTHING_BY_OTHERS, parents=False)
    return path


def write_private(path: Path, data: bytes, *, mode: int = 0o600, group: int = -1) -> None:
    """Put `data` durably at `path`: readers see the former file or all of the new one.

    A symbolic link at `path` is replaced, not followed.

    Args:
        path: File in a directory that only this account can write.
        data: The whole content.
        mode: Permission bits of the file.
        group: Group id to give it to; -1 for this process's own.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(path: Path, *, forbidden: int, parents: bool) -> None:
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(f"{path} is not a directory")
        if found.st_uid != os.geteuid():
            raise ConfigurationError(
                f"{path} belongs to uid {found.st_uid}, but this process runs as uid {os.geteuid()}: run it as the "
                "owner, or give the directory to it"
            )
        if found.st_mode & forbidden and next(path.iterdir(), None) is None:
            path.chmod(0o700)
        # Looked at again: another process may have made it private between the two looks.
        if path.lstat().st_mode & forbidden:
            raise ConfigurationError(f"{path} is open to other accounts: check what is in it, then chmod 700 {path}")
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be used: {exc.strerror}") from exc
