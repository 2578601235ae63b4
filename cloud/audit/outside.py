"""Keeps signed heads outside the database, so that one that was rolled back, cut off or forked is noticed.

`DirectoryHeads` is the default: a directory on another disk, or one that another machine collects, is better than the
home. Files in it:

- `YYYY-MM-DD.ndjson`: every checkpoint that was signed that day (UTC), a round of the sequencer a line; only added to.
  Their names are the order in which they are read. So a line goes into the last one, also where a clock that was ahead
  gave it the name of a day that has not come.
- `heads.note`: a signed list of the heads of all logs, and how far in which file it reaches, so that looking does not
  mean reading everything. It is made from these files and never from the database.

Of each log the largest head counts, and of several of one size the first: what a database that was rolled back signs
anew does not take the place of what was signed before. A signed restart alone does: an operator accepted, for a reason
that stands in it, that the log goes on from an earlier head.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cloud.audit.keyfile import AuditKeys
from cloud.audit.verify import Checkpoint, VerificationError, open_checkpoint, open_note
from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import private_directory, sync_directory, write_private

HEADS: Final = "heads.note"
_TITLE: Final = "luminescent audit heads"
_RESTART: Final = "luminescent audit restart"
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.ndjson")
_REACH: Final = re.compile(rb"[^\n]*\n[^\n]*\n(%b) ([0-9]{1,18})\n" % _DAY.pattern.encode())
_REACH_BYTES: Final = 512
_LINE_BYTES: Final = 64 << 20
_Position = tuple[str, int]


class OutsideHeads(Protocol):
    """Where heads are kept outside the database."""

    def append(self, notes: Sequence[str]) -> None:
        """Keep these checkpoints, durably, after all that were kept before.

        Raises:
            ConfigurationError: They cannot be written.
        """
        ...

    def restart(self, head: Checkpoint, reason: str) -> None:
        """Keep, signed, that a log goes on from this head, whatever was kept of it before.

        Raises:
            ConfigurationError: It cannot be written.
        """
        ...

    def summarize(self) -> None:
        """Sign a list of all heads as they are kept now.

        Raises:
            ConfigurationError: What is kept cannot be read or does not hold, or the list cannot be written.
        """
        ...

    def heads(self) -> Mapping[str, Checkpoint]:
        """The head of each log, by its id.

        Raises:
            ConfigurationError: What is kept cannot be read or does not hold: then nothing is claimed.
        """
        ...


class DirectoryHeads:
    """`OutsideHeads` in a directory.

    Args:
        directory: The directory; made if missing.
        keys: The keys that signed.
        clock: The time, UTC.

    Raises:
        ConfigurationError: The directory is not private.
    """

    def __init__(self, directory: Path, keys: Callable[[], AuditKeys], clock: Callable[[], datetime]) -> None:
        self._directory = private_directory(directory)
        self._keys = keys
        self._clock = clock

    def append(self, notes: Sequence[str]) -> None:
        self._append({"checkpoints": list(notes)})

    def restart(self, head: Checkpoint, reason: str) -> None:
        keys = self._keys()
        text = f"{_RESTART}\n{json.dumps(reason)}\n{head.text()}"
        self._append({"restarts": [keys.current.note(text, keys.name)]})

    def _append(self, what: Mapping[str, object]) -> None:
        now = self._clock().astimezone(UTC)
        line = json.dumps({"at": now.isoformat(), **what}, ensure_ascii=False).encode() + b"\n"
        today, written = f"{now:%Y-%m-%d}.ndjson", ""
        try:
            # Again if another process began a later file meanwhile: whoever read that one reads none before it.
            while (last := self._last(today)) != written:
                self._write(self._directory / last, line)
                written = last
        except OSError as exc:
            raise ConfigurationError(f"{self._directory} cannot be written: {exc.strerror}") from exc

    def _last(self, today: str) -> str:
        """The name of the file that is read last, which may be that of a day that has not come."""
        names = [path.name for path in self._files()]
        last = max([today, *names])
        size = (self._directory / last).stat().st_size if last in names else 0
        name, reached = self._reach()
        if (last, size) >= (name, reached):
            return last
        # The file that the list reaches into was removed, or put back as it was earlier: nothing is read before there.
        return _day_after(name)

    def _reach(self) -> _Position:
        """How far the list of heads reaches; who reads the heads looks whether it is signed."""
        try:
            with (self._directory / HEADS).open("rb") as file:
                found = _REACH.match(file.read(_REACH_BYTES))
        except FileNotFoundError:
            return "", 0
        return (found[1].decode(), int(found[2])) if found else ("", 0)

    def _files(self) -> list[Path]:
        """The files of all days, in the order in which they are read."""
        return sorted(path for path in self._directory.iterdir() if _DAY.fullmatch(path.name))

    def _write(self, path: Path, line: bytes) -> None:
        try:
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                # What a process was killed in ends without a newline; it is no line, and must not spoil this one.
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                data = b"\n" + line if torn else line
                if os.write(descriptor, data) != len(data):
                    raise ConfigurationError(f"{path} cannot be written: the disk is full")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_directory(self._directory)
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc

    def heads(self) -> Mapping[str, Checkpoint]:
        return self._folded()[0]

    def summarize(self) -> None:
        heads, position = self._folded()
        keys = self._keys()
        text = "".join(
            f"{line}\n"
            for line in (
                _TITLE,
                self._clock().astimezone(UTC).isoformat(),
                f"{position[0]} {position[1]}",
                *(f"{log} {one.size} {base64.b64encode(one.root).decode()}" for log, one in sorted(heads.items())),
            )
        )
        try:
            write_private(self._directory / HEADS, keys.current.note(text, keys.name).encode())
        except OSError as exc:
            raise ConfigurationError(f"{self._directory / HEADS} cannot be written: {exc.strerror}") from exc

    def _folded(self) -> tuple[dict[str, Checkpoint], _Position]:
        """The head of each log, and how far this looked."""
        keys = self._keys()
        heads, position = self._summary(keys)
        try:
            for place, line in self._lines(position):
                position = place
                for note in line.get("checkpoints", ()):
                    log_id, head = self._opened(str(note), keys, place)
                    if log_id not in heads or head.size > heads[log_id].size:
                        heads[log_id] = head
                for note in line.get("restarts", ()):
                    log_id, head = self._restarted(str(note), keys, place)
                    heads[log_id] = head
        except OSError as exc:
            raise ConfigurationError(f"{self._directory} cannot be read: {exc.strerror}") from exc
        return heads, position

    def _opened(self, note: str, keys: AuditKeys, place: _Position) -> tuple[str, Checkpoint]:
        log_id = keys.log_id(note.partition("\n")[0])
        if log_id is None:
            # Of another installation: somebody has put two into one directory.
            raise ConfigurationError(f"{self._directory / place[0]} holds a checkpoint of another installation")
        try:
            return log_id, open_checkpoint(note, keys.verifiers(log_id))
        except VerificationError as error:
            raise ConfigurationError(f"{self._directory / place[0]} was changed: {error}") from error

    def _restarted(self, note: str, keys: AuditKeys, place: _Position) -> tuple[str, Checkpoint]:
        text = _signed(note, keys)
        if text is not None:
            title, _, rest = text.partition("\n")
            head = Checkpoint.parse(rest.partition("\n")[2])
            log_id = keys.log_id(head.origin)
            if title == _RESTART and log_id is not None:
                return log_id, head
        raise ConfigurationError(f"{self._directory / place[0]} was changed: a restart is not signed")

    def _summary(self, keys: AuditKeys) -> tuple[dict[str, Checkpoint], _Position]:
        path = self._directory / HEADS
        try:
            note = path.read_text("utf-8")
        except FileNotFoundError:
            return {}, ("", 0)
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"{path} cannot be read") from exc
        text = _signed(note, keys)
        if text is not None:
            try:
                title, _, where, *lines = text.splitlines()
                name, _, offset = where.partition(" ")
                if title == _TITLE:
                    return dict(_listed(line, keys) for line in lines), (name, int(offset))
            except ValueError as exc:
                raise ConfigurationError(f"{path} is of another version") from exc
        raise ConfigurationError(f"{path} was changed: it is not signed by this installation")

    def _lines(self, after: _Position) -> Iterator[tuple[_Position, Mapping[str, list[object]]]]:
        """Every line from a place on, with the place behind it."""
        for path in self._files():
            if path.name < after[0]:
                continue
            with path.open("rb") as file:
                file.seek(after[1] if path.name == after[0] else 0)
                while line := file.readline(_LINE_BYTES):
                    if not line.endswith(b"\n"):
                        break  # Being written, or what a process was killed in.
                    yield (path.name, file.tell()), _read(line)


def _day_after(name: str) -> str:
    """The name of the file of the day after that of this one."""
    try:
        return f"{date.fromisoformat(name.partition('.')[0]) + timedelta(days=1)}.ndjson"
    except (ValueError, OverflowError) as exc:
        raise ConfigurationError(f"{HEADS} reaches into {name}, which is no day") from exc


def _read(line: bytes) -> Mapping[str, list[object]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # What a process was killed in, closed by the next one's newline.
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, list)}


def _signed(note: str, keys: AuditKeys) -> str | None:
    """The text of a note that one of the keys signed under the installation's name."""
    for key in keys.keys:
        try:
            return open_note(note, key.verifier(keys.name))
        except VerificationError:
            continue
    return None


def _listed(line: str, keys: AuditKeys) -> tuple[str, Checkpoint]:
    log_id, size, root = line.split(" ")
    return log_id, Checkpoint(keys.origin(log_id), int(size), base64.b64decode(root, validate=True))
