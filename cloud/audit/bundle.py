"""Writes a log as evidence: a directory that `cloud.audit.verify` checks without the service.

`docs/audit-format.md` describes the files. A bundle is written into a draft beside its place and renamed when it is
complete and durable, so half a bundle is never found under its name. A draft that was interrupted is gone on with,
against the same head, when the same is asked for again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import rfc8785

from cloud.audit import verify
from cloud.audit.canonical import canonical
from cloud.audit.heads import Head
from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import cover, range_of
from cloud.audit.tiles import WIDTH, LoadTile, subtrees
from cloud.audit.views import View, write_view
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError

Progress = Callable[[int, int], None]
"""Is told how many events are written, of how many."""

_STATE: Final = "export.json"
_FLUSH_EVERY: Final = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """What is exported: a head, and the leaves from `first` to `end` of its tree.

    Attributes:
        head: The head.
        first: The first leaf.
        end: The one after the last.
        earlier: Checkpoints that were kept outside the database before the head was read: it must not be behind them.
    """

    head: Head
    first: int
    end: int
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditBundle:
    """What was written.

    Attributes:
        directory: Where.
        log: The log's origin.
        first: Index of the first event.
        events: How many events.
        size: Leaves of the tree at the bundle's head.
        verifier_key: The key to verify it with; compare it with one from another source.
        resumed: Events that an interrupted export had written before.
    """

    directory: Path
    log: str
    first: int
    events: int
    size: int
    verifier_key: str
    resumed: int


class Trees(Protocol):
    """Logs as trees, read for an export."""

    def head(self, log_id: str) -> Head | None:
        """The head of a log, or `None` if it has no leaf."""
        ...

    def leaves(self, log_id: str, first: int, end: int) -> Iterator[Mapping[str, object]]:
        """The events that are the leaves from `first` to `end`, in their order, read in pages."""
        ...

    def tiles(self, log_id: str) -> LoadTile:
        """The hashes of a log's tree."""
        ...


class Draft:
    """A bundle that is being written. A context manager: what is left when it ends is gone on with next time.

    Args:
        directory: Where the bundle shall be; must not exist, or be empty.
        asked: What is exported: a draft of something else is begun anew.

    Raises:
        ConfigurationError: The directory is not empty or cannot be written, or another process writes to it.
    """

    def __init__(self, directory: Path, asked: Mapping[str, object]) -> None:
        self.directory = directory
        self._asked = dict(asked)
        self._stack = contextlib.ExitStack()
        try:
            if directory.exists() and any(directory.iterdir()):
                raise ConfigurationError(f"{directory} is not empty; export into an empty directory")
            self.path = directory.parent / f".{directory.name}.partial"
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock()
        except OSError as exc:
            raise ConfigurationError(f"{directory} cannot be written: {exc.strerror}") from exc

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, part: Callable[[], Part]) -> Part:
        """The part that an interrupted export began with, or else that of now, which is kept."""
        try:
            match json.loads((self.path / _STATE).read_bytes()):
                case {
                    "asked": asked,
                    "size": int(size),
                    "checkpoint": str(note),
                    "first": int(first),
                    "end": int(end),
                    "earlier": list(earlier),
                }:
                    if asked == self._asked:
                        return Part(Head(size, note), first, end, tuple(earlier))
        except (FileNotFoundError, ValueError):
            pass
        for entry in self.path.iterdir():
            entry.unlink()
        new = part()
        state = {
            "asked": self._asked,
            "size": new.head.size,
            "checkpoint": new.head.checkpoint,
            "first": new.first,
            "end": new.end,
            "earlier": list(new.earlier),
        }
        draft = self.path / f"{_STATE}.new"
        draft.write_bytes(_json(state))
        draft.replace(self.path / _STATE)
        return new

    def write(self, name: str, data: bytes) -> None:
        """A file of the bundle, durable."""
        with _opened(self.path / name, os.O_TRUNC) as out:
            out.write(data)

    def finish(self) -> None:
        """Give the bundle its name.

        Raises:
            ConfigurationError: It cannot be renamed.
        """
        try:
            (self.path / _STATE).unlink()
            _sync(self.path)
            self.path.rename(self.directory)
            _sync(self.directory.parent)
        except OSError as exc:
            raise ConfigurationError(f"{self.directory} cannot be written: {exc.strerror}") from exc

    def discard(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _lock(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigurationError(f"another process is exporting to {self.directory}") from exc


def write_bundle(
    draft: Draft,
    log_id: str,
    part: Part,
    trees: Trees,
    keys: AuditKeys,
    *,
    view: View | None = None,
    progress: Progress = lambda _done, _of: None,
) -> AuditBundle:
    """Write the leaves of a part with everything that proves them; `Draft.finish` gives it its name.

    Args:
        draft: Where to.
        log_id: The log.
        part: What of it.
        trees: Where leaves and hashes are read.
        keys: The keys that signed heads.
        view: The same events for other programs, beside the evidence.
        progress: Is told how far it is.

    Raises:
        ConfigurationError: It cannot be written.
        ProviderUnavailableError: The control plane did not answer.
    """
    first, end, head = part.first, part.end, part.head
    origin = keys.origin(log_id)
    load = trees.tiles(log_id)
    subtree = subtrees(load)
    # A checkpoint can be compared where the subtrees meet.
    met = {verify.open_checkpoint(note, keys.verifiers(log_id)).size for note in part.earlier}
    stops = [end, *sorted(size for size in met if end < size < head.size), head.size]
    after = [node for start, stop in itertools.pairwise(stops) for node in cover(start, stop)]
    proof = {
        "before": [[node.level, node.index, node.hash.hex()] for node in range_of(cover(0, first), subtree)],
        "after": [[node.level, node.index, node.hash.hex()] for node in range_of(after, subtree)],
    }
    verifier_key = keys.current.verifier(origin).text()
    try:
        resumed = _write_events(draft.path / verify.EVENTS, log_id, part, trees, progress)
        _write_hashes(draft.path / verify.HASHES, first, end, load)
        names = list(verify.FILES)
        if view is not None:
            names.append(write_view(draft.path, view))
        draft.write(verify.HEAD, head.checkpoint.encode())
        draft.write(verify.EARLIER, _json(list(part.earlier)))
        draft.write(verify.PROOF, _json(proof))
        draft.write(verify.KEY, verifier_key.encode() + b"\n")
        draft.write(verify.ROTATIONS, _json(keys.handovers(log_id)))
        draft.write(verify.SCHEMA, (files("cloud.audit") / verify.SCHEMA).read_bytes())
        manifest = {
            "format": verify.FORMAT,
            "log": origin,
            "start": first,
            "end": end,
            "files": {name: _described(draft.path / name) for name in names},
        }
        draft.write(verify.MANIFEST, rfc8785.dumps(manifest) + b"\n")  # type: ignore[arg-type]
    except OSError as exc:
        raise ConfigurationError(f"{draft.directory} cannot be written: {exc.strerror}") from exc
    return AuditBundle(draft.directory, origin, first, end - first, head.size, verifier_key, resumed)


def _write_events(path: Path, log_id: str, part: Part, trees: Trees, progress: Progress) -> int:
    """Write the events that are not there yet; returns how many were."""
    with _opened(path) as out:
        resumed = _whole_lines(out)
        total = part.end - part.first
        done = resumed
        progress(done, total)
        for done, event in enumerate(trees.leaves(log_id, part.first + resumed, part.end), start=resumed + 1):
            out.write(canonical(event) + b"\n")
            if done % _FLUSH_EVERY == 0:
                out.flush()
                failpoints.reach("audit_export.written")
            progress(done, total)
    return resumed


def _whole_lines(out: BinaryIO) -> int:
    """Cut off what an interruption left of a line; returns how many lines there are. The file is at its end then."""
    out.seek(0)
    lines = at = 0
    while line := out.readline():
        if line.endswith(b"\n"):
            lines += 1
            at = out.tell()
    out.truncate(at)
    out.seek(at)
    return lines


def _write_hashes(path: Path, first: int, end: int, load: LoadTile) -> None:
    with _opened(path, os.O_TRUNC) as out:
        for number in range(first // WIDTH, -(-end // WIDTH)):
            begin = number * WIDTH
            out.write(
                load((0, number))[
                    max(first - begin, 0) * verify.HASH_BYTES : min(end - begin, WIDTH) * verify.HASH_BYTES
                ]
            )


@contextlib.contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[BinaryIO]:
    """A file of mode 0600 to read and write, durable when the block ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    with os.fdopen(descriptor, "r+b") as out:
        yield out
        out.flush()
        os.fsync(descriptor)


def _described(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": file.tell()}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
