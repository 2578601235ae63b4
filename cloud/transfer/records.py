"""A memory as a line of an export, the hashes over it, and the manifest; `docs/import-export.md` defines all three.

A line is `{"id":"…",` and the canonical text of the other members without its first brace. The canonical text has the
members sorted by code point, no blanks, and nothing escaped but what JSON demands: equal memories have equal texts.

The content hash is the sum of the SHA-256 of every canonical text, modulo 2^256. It says whether two exports hold the
same memories, in whatever order and under whatever ids. It proves nothing against somebody who may also change the
manifest; neither does the other hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from cloud.kernel.errors import UnreadableFileError
from cloud.transfer.model import Manifest
from src.memory.schemas import Memory, as_utc

FORMAT_NAME: Final = "luminescent-memories"
FORMAT_VERSION: Final = 1
MANIFEST_SUFFIX: Final = ".manifest.json"
_MANIFEST_BYTES: Final = 2**16
_ID_CHARACTERS: Final = 36
_BEFORE_ID: Final = b'{"id":"'
_AFTER_ID: Final = b'",'
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical(memory: Memory) -> bytes:
    """All that a memory says but its id and when it was last read, as one text."""
    return _encode(
        {
            "user_id": memory.user_id,
            "content": memory.content,
            "memory_type": memory.memory_type.value,
            "confidence": memory.confidence,
            "source": memory.source,
            "raw_source": memory.raw_source,
            "extraction_version": memory.extraction_version,
            "created_at": as_utc(memory.created_at).isoformat(),
            "expires_at": as_utc(memory.expires_at).isoformat() if memory.expires_at else None,
            "metadata": memory.metadata,
            "provenance": memory.provenance,
        }
    ).encode("utf-8")


def line_of(memory: Memory) -> bytes:
    """The line of a memory that has an id, with its line break."""
    assert memory.id is not None
    return _BEFORE_ID + memory.id.encode("ascii") + _AFTER_ID + canonical(memory)[1:] + b"\n"


class Hasher:
    """The hashes of an export, line by line.

    Attributes:
        lines: Lines so far.
        size_bytes: Bytes so far.
    """

    def __init__(self) -> None:
        self._text = hashlib.sha256()
        self._sum = 0
        self.lines = 0
        self.size_bytes = 0

    def add(self, line: bytes) -> None:
        """Take up a line as `line_of` writes it; of any other line the content hash is of no use."""
        self._text.update(line)
        self.lines += 1
        self.size_bytes += len(line)
        start = len(_BEFORE_ID) + _ID_CHARACTERS + len(_AFTER_ID)
        digest = hashlib.sha256(b"{")
        digest.update(line[start:].rstrip(b"\n"))
        self._sum += int.from_bytes(digest.digest(), "big")

    @property
    def sha256(self) -> str:
        """Of all bytes."""
        return self._text.hexdigest()

    @property
    def content_hash(self) -> str:
        """Of what the lines say."""
        return format(self._sum % 2**256, "064x")


def manifest_path(path: Path) -> Path:
    """Where the manifest of an export stands."""
    return path.with_name(path.name + MANIFEST_SUFFIX)


def manifest_text(manifest: Manifest) -> bytes:
    """The manifest as its file holds it."""
    document = {"format": FORMAT_NAME, "version": FORMAT_VERSION, **asdict(manifest)}
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file at `path`.

    Raises:
        UnreadableFileError: It cannot be read, or is no manifest of a version that is known.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MANIFEST_BYTES))
    except OSError as exc:
        raise UnreadableFileError("manifest", f"the manifest {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError):
        raise UnreadableFileError("manifest", f"the manifest {path} is no JSON document") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise UnreadableFileError("manifest", f"{path} is no manifest of an export of memories")
    if document.get("version") != FORMAT_VERSION:
        raise UnreadableFileError(
            "manifest", f"{path} is of a version that this program does not know: use a newer one"
        )
    return _manifest(document, path)


def _manifest(document: Mapping[str, object], path: Path) -> Manifest:
    types = {"int": int, "str": str, "bool": bool}
    values: dict[str, object] = {}
    for field in fields(Manifest):
        value = document.get(field.name)
        if type(value) is not types[str(field.type)]:
            raise UnreadableFileError("manifest", f"the manifest {path} lacks '{field.name}', or it is of another type")
        values[field.name] = value
    return Manifest(**values)  # type: ignore[arg-type]
