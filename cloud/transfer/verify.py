"""Checks an export against its manifest: whole, and unchanged since it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cloud.kernel.errors import UnreadableFileError
from cloud.transfer.jsonl import MAX_LINE_BYTES
from cloud.transfer.model import Format, Limits, Manifest
from cloud.transfer.records import Hasher, manifest_path, read_manifest
from cloud.transfer.sources import Source, open_source

_TOLD_EACH: Final = 1_000

Progress = Callable[[int], None]


def verify_export(
    path: Path, *, manifest: Path | None = None, limits: Limits | None = None, progress: Progress = lambda _: None
) -> Manifest:
    """What the manifest of an export says, after the file was found to agree with it.

    Args:
        path: The export.
        manifest: Its manifest; the file beside it if left out.
        limits: Bounds on what a compressed file may become.
        progress: Is told how many bytes of the file are done.

    Raises:
        UnreadableFileError: The file or its manifest cannot be read, or they do not agree; the message says how.
    """
    said = read_manifest(manifest or manifest_path(path))
    with open_source(path, Format.JSONL, limits or Limits()) as source:
        check(source, said, progress)
    return said


def check(source: Source, manifest: Manifest, progress: Progress = lambda _: None) -> None:
    """The file agrees with the manifest.

    Raises:
        UnreadableFileError: It does not, or cannot be read.
    """
    if source.format is not Format.JSONL:
        raise UnreadableFileError("manifest", "the manifest is of JSON Lines, and the file is something else")
    found = Hasher()
    for line in source.lines(MAX_LINE_BYTES):
        found.add(line)
        if found.lines % _TOLD_EACH == 0:
            progress(source.done_bytes())
    differs = [
        f"{name} {theirs} instead of {ours}"
        for name, ours, theirs in (
            ("memories", manifest.memories, found.lines),
            ("bytes", manifest.size_bytes, found.size_bytes),
        )
        if ours != theirs
    ]
    if not differs and found.sha256 != manifest.sha256:
        differs = ["the same size and another SHA-256"]
    if not differs and found.content_hash != manifest.content_hash:
        differs = ["another content hash"]
    if differs:
        raise UnreadableFileError(
            "manifest",
            f"the file is not what its manifest says ({', '.join(differs)}): it was cut off or changed since it was"
            " written",
        )
