"""The report file of an import: JSON Lines of its faults, written as they are met, each of them once.

The first line names the import, the last one sums it up once it has ended. An import that goes on from a checkpoint
takes the file back to where it was then, so a fault that was written twice stands there once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError
from cloud.transfer.model import Fault, Position

_HEAD_BYTES: Final = 4096


class ReportFile:
    """Where faults are written; nowhere without a path. What was added is in the file, and not in this process."""

    def __init__(self, file: FileIO | None, path: Path | None) -> None:
        self._file = file
        self._path = path

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        return self._file.tell() if self._file is not None else 0

    def add(self, fault: Fault) -> None:
        """Write a fault.

        Raises:
            ConfigurationError: It cannot be written.
        """
        self.write({**shown_position(fault.position), "reason": fault.reason})

    def write(self, line: Mapping[str, object]) -> None:
        """Write a line.

        Raises:
            ConfigurationError: It cannot be written.
        """
        if self._file is None:
            return
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with _writing(self._path):
            # A disk that fills up takes a part of it first.
            while data:
                data = data[self._file.write(data) or 0 :]


def shown_position(position: Position) -> dict[str, int]:
    """A place as documents have it."""
    return {"entry": position.number, "part": position.part} if position.part else {"entry": position.number}


@contextmanager
def report_file(
    path: Path | None, import_id: str, *, resumed: Position | None, keep_bytes: int
) -> Iterator[ReportFile]:
    """The report of an import, ready to be written on.

    Args:
        path: Where; `None` for no file.
        import_id: The import.
        resumed: The entry after which it goes on, if it does.
        keep_bytes: How much of an earlier run's report holds up to there.

    Raises:
        ConfigurationError: There is another file, or it cannot be written.
    """
    if path is None:
        yield ReportFile(None, None)
        return
    with _writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # Not buffered: a file whose last lines could not be written would fail again when it is closed.
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        _take_back(file, path, import_id, keep_bytes if resumed is not None else 0)
        report = ReportFile(file, path)
        if not report.size_bytes:
            head = {"import": import_id, **({"resumed_after": shown_position(resumed)} if resumed else {})}
            report.write(head)
        yield report


def _take_back(file: FileIO, path: Path, import_id: str, keep_bytes: int) -> None:
    with _writing(path):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size and _import_named_in(file.readline(_HEAD_BYTES)) != import_id:
            raise ConfigurationError(f"{path} exists and is not the report of this import: name another file")
        file.truncate(keep_bytes if 0 < keep_bytes <= size else 0)
        file.seek(0, os.SEEK_END)


def _import_named_in(head: bytes) -> object:
    try:
        document = json.loads(head)
    except (ValueError, RecursionError):
        return None
    return document.get("import") if isinstance(document, dict) else None


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(f"the report {path} cannot be written: {exc.strerror}") from exc
