"""Writes a log as evidence: a directory that `cloud.audit.verify` checks without the service.

`docs/audit-format.md` describes the files. A bundle is written into a directory beside its place and renamed when it
is complete and durable, so half a bundle is never found under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, Protocol

import rfc8785

from cloud.audit import verify
from cloud.audit.canonical import canonical
from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import cover, range_of
from cloud.audit.tiles import LoadTile, subtrees
from cloud.kernel.errors import ConfigurationError

Progress = Callable[[int, int], None]
"""Is told how many events are written, of how many."""


@dataclass(frozen=True, slots=True)
class Head:
    """A log's tree as it stands: how many leaves, and the checkpoint signed for them."""

    size: int
    checkpoint: str


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
    """

    directory: Path
    log: str
    first: int
    events: int
    size: int
    verifier_key: str


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


def write_bundle(
    directory: Path,
    log_id: str,
    head: Head,
    span: tuple[int, int],
    trees: Trees,
    keys: AuditKeys,
    *,
    earlier: Sequence[str] = (),
    progress: Progress = lambda _done, _of: None,
) -> AuditBundle:
    """Write the leaves of `span` with everything that proves them.

    Args:
        directory: Where to; must not exist, or be empty.
        log_id: The log.
        head: Its head.
        span: First leaf, and the one after the last.
        trees: Where leaves and hashes are read.
        keys: The keys that signed heads.
        earlier: Checkpoints of the log that were kept outside the database.
        progress: Is told how far it is.

    Raises:
        ConfigurationError: The directory is not empty or cannot be written.
        ProviderUnavailableError: The control plane did not answer.
    """
    first, end = span
    origin = keys.origin(log_id)
    subtree = subtrees(trees.tiles(log_id))
    proof = {
        "before": [[node.level, node.index, node.hash.hex()] for node in range_of(cover(0, first), subtree)],
        "after": [[node.level, node.index, node.hash.hex()] for node in range_of(cover(end, head.size), subtree)],
    }
    verifier_key = keys.current.verifier(origin).text()
    with _draft_of(directory) as draft:
        with _created(draft / verify.EVENTS) as out:
            for done, event in enumerate(trees.leaves(log_id, first, end), start=1):
                out.write(canonical(event) + b"\n")
                progress(done, end - first)
        _write(draft / verify.HEAD, head.checkpoint.encode())
        _write(draft / verify.EARLIER, _json(list(earlier)))
        _write(draft / verify.PROOF, _json(proof))
        _write(draft / verify.KEY, verifier_key.encode() + b"\n")
        _write(draft / verify.ROTATIONS, _json(keys.handovers(log_id)))
        _write(draft / verify.SCHEMA, (files("cloud.audit") / verify.SCHEMA).read_bytes())
        manifest = {
            "format": verify.FORMAT,
            "log": origin,
            "start": first,
            "end": end,
            "files": {name: _described(draft / name) for name in verify.FILES},
        }
        _write(draft / verify.MANIFEST, rfc8785.dumps(manifest) + b"\n")  # type: ignore[arg-type]
    return AuditBundle(directory, origin, first, end - first, head.size, verifier_key)


@contextmanager
def _draft_of(directory: Path) -> Iterator[Path]:
    """A new directory that takes the place of `directory` if the block ends well, and is gone if it does not."""
    try:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigurationError(f"{directory} is not empty; export into an empty directory")
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            yield draft
            _sync(draft)
            draft.rename(directory)
            _sync(directory.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as exc:
        raise ConfigurationError(f"{directory} cannot be written: {exc.strerror}") from exc


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        yield out
        out.flush()
        os.fsync(descriptor)


def _write(path: Path, data: bytes) -> None:
    with _created(path) as out:
        out.write(data)


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
