"""Files as bounded streams: what a compressed file may become has limits, and what breaks has one error.

A ZIP archive is only read from: nothing is unpacked, so no name in it can lead anywhere. Of its members those are
read that are conversations, plain files, not encrypted, and stored or deflated: the other methods unpack without a
bound on what they keep in memory.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from cloud.kernel.errors import UnreadableFileError
from cloud.transfer.model import Limits

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GZIP_MAGIC: Final = b"\x1f\x8b"
ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")
_BUFFER_BYTES: Final = 2**18
_CONVERSATIONS: Final = re.compile(r"(?:.*/)?conversations(?:-(\d{1,9}))?\.json", re.DOTALL)
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_MAX_MEMBERS: Final = 100_000


@contextmanager
def translated() -> Iterator[None]:
    """What goes wrong with a file in the block is an `UnreadableFileError`.

    Raises:
        UnreadableFileError: Reading failed, or the compressed data are damaged or end early.
    """
    try:
        yield
    except EOFError as exc:
        raise UnreadableFileError("compression", "the file ends within compressed data: it is not whole") from exc
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile) as exc:
        raise UnreadableFileError("compression", "the compressed data are damaged") from exc
    except OSError as exc:
        raise UnreadableFileError("io", f"the file cannot be read: {exc.strerror or type(exc).__name__}") from exc


class Bounds:
    """Counts what comes out of one compressed file, all its members together, and stops what is too much.

    Args:
        limits: The bounds.
        compressed_bytes: Size of the file.
    """

    def __init__(self, limits: Limits, compressed_bytes: int) -> None:
        self._limits = limits
        self._allowed = min(limits.max_bytes, max(limits.free_bytes, limits.max_ratio * compressed_bytes))
        self._passed = 0

    def took(self, count: int) -> None:
        """Count bytes that came out.

        Raises:
            UnreadableFileError: They are too many.
        """
        self._passed += count
        if self._passed > self._allowed:
            raise UnreadableFileError(
                "too_large",
                f"the compressed file holds more than {self._allowed:,} bytes, the most that are read of a file of its"
                f" size ({self._limits.max_ratio} times the size, {self._limits.max_bytes:,} at most): unpack it and"
                " look at it first",
            )


class _Bounded(io.RawIOBase):
    """A stream of unpacked bytes that are counted."""

    def __init__(self, inner: gzip.GzipFile | zipfile.ZipExtFile, bounds: Bounds) -> None:
        self._inner = inner
        self._bounds = bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        # Not `read`: where the file is damaged, what stands before the damage must come first.
        data = self._inner.read1(len(view))
        self._bounds.took(len(data))
        view[: len(data)] = data
        return len(data)


def text_stream(raw: io.BufferedReader, limits: Limits, size_bytes: int) -> io.BufferedReader:
    """The text of a file, unpacked if it is compressed with gzip; `raw` is at its beginning."""
    if not raw.peek(2).startswith(GZIP_MAGIC):
        return raw
    unpacked = gzip.GzipFile(fileobj=raw, mode="rb")
    return io.BufferedReader(_Bounded(unpacked, Bounds(limits, size_bytes)), _BUFFER_BYTES)


def conversation_files(raw: BinaryIO, limits: Limits, size_bytes: int) -> Iterator[Callable[[int], bytes]]:
    """The conversations of ChatGPT's archive, a file at a time, each to be read before the next.

    Raises:
        UnreadableFileError: It is no whole archive, holds no conversations, or holds more than it may.
    """
    with _readable():
        archive = zipfile.ZipFile(raw)
    bounds = Bounds(limits, size_bytes)
    for member in _conversations(archive):
        with _readable():
            opened = archive.open(member)
        with opened as file:
            yield io.BufferedReader(_Bounded(file, bounds), _BUFFER_BYTES).read1  # type: ignore[arg-type]


def member_text(raw: BinaryIO, name: str, limits: Limits, size_bytes: int) -> io.BufferedReader | None:
    """The text of the archive's member of this name, which stands at its top; `None` if there is none.

    Raises:
        UnreadableFileError: It is no whole archive, or the member cannot be read.
    """
    with _readable():
        archive = zipfile.ZipFile(raw)
        member = next((one for one in archive.infolist() if one.filename == name), None)
    if member is None:
        return None
    _check(member)
    with _readable():
        opened = archive.open(member)
    bounded: io.RawIOBase = _Bounded(opened, Bounds(limits, size_bytes))  # type: ignore[arg-type]
    return io.BufferedReader(bounded, _BUFFER_BYTES)


@contextmanager
def _readable() -> Iterator[None]:
    """What `zipfile` raises over the structure of an archive that it does not understand."""
    try:
        yield
    except (RuntimeError, ValueError, struct.error) as exc:
        raise UnreadableFileError("compression", "the file is no readable ZIP archive") from exc


def _conversations(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    if len(archive.infolist()) > _MAX_MEMBERS:
        raise UnreadableFileError("too_large", f"the archive has more than {_MAX_MEMBERS:,} members")
    found: list[tuple[int, str, zipfile.ZipInfo]] = []
    for member in archive.infolist():
        named = _CONVERSATIONS.fullmatch(member.filename)
        if named is None or member.filename.startswith("__MACOSX/"):
            continue
        _check(member)
        found.append((int(named[1] or 0), member.filename, member))
    if not found:
        raise UnreadableFileError("format", "the archive holds no conversations.json: it is no export of ChatGPT")
    return [member for _, _, member in sorted(found, key=lambda one: one[:2])]


def _check(member: zipfile.ZipInfo) -> None:
    mode = member.external_attr >> 16
    if ".." in re.split(r"[/\\]", member.filename) or member.filename.startswith("/"):
        raise UnreadableFileError("format", "the archive has a member that leads out of it")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UnreadableFileError("format", "what is read of the archive is no plain file")
    if member.flag_bits & _ENCRYPTED:
        raise UnreadableFileError("format", "the archive is encrypted: unpack it first")
    if member.compress_type not in _METHODS:
        raise UnreadableFileError("compression", "the archive is compressed with a method that is not read: repack it")
