"""Files that a command writes once: claimed before its work is done, so that no result of it has nowhere to go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import sync_directory


@contextlib.contextmanager
def claimed(path: Path | None) -> Iterator[Callable[[str], None]]:
    """`path` is a new empty file of mode 0600, if one is named; it goes again if the block fails before it is written.

    Yields:
        Writes the whole text of the file, durably; does nothing where no file is named. Raises `ConfigurationError`
        if it cannot be written.

    Raises:
        ConfigurationError: It is there already, or cannot be written.
    """
    if path is None:
        yield lambda _: None
        return
    is_written = False

    def write(text: str) -> None:
        nonlocal is_written
        try:
            # By the descriptor: nobody else's file is written to if the name is another's by now.
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise _not_written(path, exc) from exc
        is_written = True

    descriptor = _created(path)
    try:
        # The name lasts before anything is done whose result is nowhere else.
        _sync(path)
        yield write
    except BaseException:
        # Whatever ended it, an interruption too. What was written stays: it may be nowhere else.
        if not is_written:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _created(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already; name another file") from None
    except OSError as exc:
        raise _not_written(path, exc) from exc


def _sync(path: Path) -> None:
    try:
        sync_directory(path.parent)
    except OSError as exc:
        raise _not_written(path, exc) from exc


def _not_written(path: Path, exc: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be written: {exc.strerror}")
