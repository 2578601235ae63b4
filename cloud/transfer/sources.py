"""Opens a file to import: finds out what it is, and gives its entries."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, assert_never

from cloud.kernel.errors import ConfigurationError, UnreadableFileError
from cloud.transfer import chatgpt, jsonl, mem0, person
from cloud.transfer.elements import elements
from cloud.transfer.json_text import json_object
from cloud.transfer.model import EVERYTHING_AS_IT_IS, Entry, EntryError, Format, Limits, PersonChoice
from cloud.transfer.streams import ZIP_MAGIC, conversation_files, member_text, text_stream, translated

_LOOKED_AT_BYTES: Final = 2**16
_FIRST_NAME: Final = re.compile(rb'\s*\{\s*"([^"\\]{0,64})"')
_PAGE: Final = frozenset({b"results", b"memories", b"count", b"next", b"previous", b"relations"})
_AGE: Final = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
_OTHER_ENCODINGS: Final = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"),
                           (b"\xfe\xff", "UTF-16"))  # fmt: skip


class Source:
    """An open file, read from its beginning each time.

    Attributes:
        format: What it is.
        size_bytes: Its size.
    """

    def __init__(self, file: io.BufferedReader, limits: Limits, choice: PersonChoice = EVERYTHING_AS_IT_IS) -> None:
        self._file = file
        self._choice = choice
        self._zipped = False
        self._limits = limits
        self._found = os.fstat(file.fileno())
        self.size_bytes = self._found.st_size
        self.format = Format.JSONL

    def recognize(self, wanted: Format | None) -> None:
        """Find out what it is, unless `wanted` says it.

        Raises:
            UnreadableFileError: It is nothing that is known, or no UTF-8.
        """
        with translated():
            head = self._file.peek(4)[:4]
            self._file.seek(0)
            self._zipped = head.startswith(ZIP_MAGIC)
            if self._zipped:
                self.format = self._recognized_archive(wanted)
                return
            start = self._text().read(_LOOKED_AT_BYTES)
        for mark, name in _OTHER_ENCODINGS:
            if start.startswith(mark):
                raise UnreadableFileError("encoding", f"the file is {name}: save it as UTF-8")
        if start.startswith(_AGE):
            raise UnreadableFileError(
                "encryption", "the file is encrypted with age: decrypt it first (age -d -i KEYFILE)"
            )
        if b"\0" in start[:8]:
            raise UnreadableFileError("encoding", "the file is no UTF-8 text")
        self.format = wanted or self._recognized(start)

    def digest(self) -> str:
        """SHA-256 of the file as it is, as hex digits."""
        with translated():
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").hexdigest()

    def entries(self, user_id: str | None) -> Iterator[Entry]:
        """Every entry, in order, always the same ones.

        Args:
            user_id: Whose memories those are that name nobody.

        Raises:
            ConfigurationError: As `require_person`.
            UnreadableFileError: The file cannot be read on, or has changed since it was opened.
        """
        with translated():
            yield from self._entries(user_id)
        self.check_unchanged()

    def lines(self, max_bytes: int) -> Iterator[bytes]:
        """The lines of the text, unpacked, with their breaks; one that is longer than `max_bytes` comes in pieces.

        Raises:
            UnreadableFileError: The file cannot be read on.
        """
        with translated():
            text = self._text()
            while line := text.readline(max_bytes):
                yield line

    def require_person(self, user_id: str | None) -> None:
        """Somebody is named where the format names nobody, and nothing is chosen that the format does not have.

        Raises:
            ConfigurationError: Nobody is, or something is.
        """
        if self.format is not Format.PERSON and self._choice != EVERYTHING_AS_IT_IS:
            raise ConfigurationError("--as-user and --include-removed are for a person's export alone")
        if self.format is Format.CHATGPT and user_id is None:
            raise ConfigurationError("ChatGPT's export names no user id: say whose it is with --user")

    def done_bytes(self) -> int:
        """How far in the file the reading is."""
        return min(self._file.tell(), self.size_bytes)

    def check_unchanged(self) -> None:
        """The file is still the one that was opened.

        Raises:
            UnreadableFileError: Somebody has written to it since.
        """
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns):
            raise UnreadableFileError("changed", "the file changed while it was read: import it once it is finished")

    def _entries(self, user_id: str | None) -> Iterator[Entry]:
        match self.format:
            case Format.JSONL:
                yield from jsonl.entries(self._text(), user_id)
            case Format.MEM0:
                yield from mem0.entries(self._text().read1, user_id)
            case Format.CHATGPT:
                self.require_person(user_id)
                assert user_id is not None
                self._file.seek(0)
                if self._file.peek(4).startswith(ZIP_MAGIC):
                    self._file.seek(0)
                    files = conversation_files(self._file, self._limits, self.size_bytes)
                else:
                    files = iter((self._text().read1,))
                yield from chatgpt.entries(files, user_id)
            case Format.PERSON:
                yield from person.entries(self._text(), user_id, self._choice)
            case _:
                assert_never(self.format)

    def _text(self) -> io.BufferedReader:
        self._file.seek(0)
        if self._zipped:
            text = member_text(self._file, person.MEMORIES, self._limits, self.size_bytes)
            assert text is not None
            return text
        return text_stream(self._file, self._limits, self.size_bytes)

    def _recognized_archive(self, wanted: Format | None) -> Format:
        self._file.seek(0)
        if wanted is Format.CHATGPT:
            return wanted
        if wanted not in (None, Format.PERSON):
            raise UnreadableFileError(
                "format", "the file is a ZIP archive, which only the exports of ChatGPT and of a person may be"
            )
        try:
            found = member_text(self._file, person.MEMORIES, self._limits, self.size_bytes) is not None
        except (UnreadableFileError, zipfile.BadZipFile):
            if wanted is not None:
                raise
            found = False
        if not found and wanted is None:
            return Format.CHATGPT
        if not found:
            raise UnreadableFileError("format", f"the archive holds no {person.MEMORIES}: it is no person's export")
        schema = member_text(self._file, person.SCHEMA, self._limits, self.size_bytes)
        if schema is not None:
            person.check_schema(schema.read(person.SCHEMA_BYTES))
        return Format.PERSON

    def _recognized(self, start: bytes) -> Format:
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text.startswith(b"["):
            return self._recognized_list()
        first = _FIRST_NAME.match(text)
        if first is not None and first[1] in _PAGE:
            return Format.MEM0
        if first is not None and first[1] == person.FIRST_NAME:
            return Format.PERSON
        # Anything else is read line by line: an empty file holds nothing, and every line of a text is a fault.
        return Format.JSONL

    def _recognized_list(self) -> Format:
        unknown = UnreadableFileError(
            "format", "the file is a list of what is neither mem0's nor ChatGPT's; if it is one, name it with --format"
        )
        with translated():
            for data, _ in elements(self._text().read1, max_bytes=chatgpt.MAX_CONVERSATION_BYTES):
                try:
                    first = json_object(data or b"")
                except EntryError:
                    raise unknown from None
                if "mapping" in first:
                    return Format.CHATGPT
                if "memory" in first:
                    return Format.MEM0
                raise unknown
        return Format.MEM0


@contextmanager
def open_source(
    path: Path, wanted: Format | None, limits: Limits, choice: PersonChoice = EVERYTHING_AS_IT_IS
) -> Iterator[Source]:
    """The file at `path`, open and recognized; of a directory that is a person's export, its memories.

    Raises:
        ConfigurationError: It is no plain file, and no such directory.
        UnreadableFileError: It cannot be opened, or is nothing that is known.
    """
    if path.is_dir():
        path, wanted = _memories_in(path, wanted), Format.PERSON
    try:
        # A pipe would wait for its writer, and a device may have effects.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise UnreadableFileError("io", f"{path} cannot be opened: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigurationError(f"{path} is no plain file; an import reads its file more than once")
    with os.fdopen(descriptor, "rb") as file:
        source = Source(file, limits, choice)
        source.recognize(wanted)
        yield source


def _memories_in(directory: Path, wanted: Format | None) -> Path:
    """The memories of the person's export that a directory is.

    Raises:
        ConfigurationError: It is none.
        UnreadableFileError: It is of a version that is not known.
    """
    memories, schema = directory / person.MEMORIES, directory / person.SCHEMA
    if wanted not in (None, Format.PERSON) or not memories.is_file():
        raise ConfigurationError(f"{directory} is a directory, and no export of a person: name the file to import")
    if schema.is_file():
        try:
            with schema.open("rb") as file:
                person.check_schema(file.read(person.SCHEMA_BYTES))
        except OSError as exc:
            raise UnreadableFileError("io", f"{schema} cannot be read: {exc.strerror}") from exc
    return memories
