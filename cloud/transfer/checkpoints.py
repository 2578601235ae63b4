"""`CheckpointStore` in a directory of the home: a file an import, there from its first chunk to its end.

A file's name is the import's id and its content are numbers: nothing about a person. One that is lost or damaged
costs time and nothing else, because each batch also carries its idempotency key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import private_directory, write_private
from cloud.transfer.model import Position
from cloud.transfer.ports import Checkpoint

_SCHEMA: Final = 1
_COUNTS: Final = ("entries", "stored", "repeated", "failed")
_MORE: Final = ("skipped",)
"""Counts of some formats."""


class FileCheckpoints:
    """Checkpoints of an installation.

    Args:
        directory: Its own directory; made if missing.

    Raises:
        ConfigurationError: The directory is not private.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = private_directory(directory)

    def load(self, import_id: str) -> Checkpoint | None:
        try:
            document = json.loads(self._path(import_id).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return None
        match document:
            case {
                "schema": int(schema),
                "position": [int(number), int(part)],
                "counts": dict(counts),
                "report_bytes": int(report_bytes),
            } if schema == _SCHEMA and all(type(counts.get(name)) is int for name in _COUNTS):
                kept = {name: counts[name] for name in (*_COUNTS, *_MORE) if type(counts.get(name)) is int}
                return Checkpoint(Position(number, part), kept, report_bytes)
        return None

    def save(self, import_id: str, checkpoint: Checkpoint) -> None:
        document = {
            "schema": _SCHEMA,
            "position": [checkpoint.position.number, checkpoint.position.part],
            "counts": dict(checkpoint.counts),
            "report_bytes": checkpoint.report_bytes,
        }
        try:
            write_private(self._path(import_id), json.dumps(document).encode("ascii"))
        except OSError as exc:
            raise ConfigurationError(f"the import's checkpoint cannot be written: {exc.strerror}") from exc

    def remove(self, import_id: str) -> None:
        self._path(import_id).unlink(missing_ok=True)

    def _path(self, import_id: str) -> Path:
        return self._directory / f"{import_id}.json"
