"""Fingerprints: byte patterns of what is kept of a person, taken before an erasure, to be looked for after it.

They are of two sorts. Fragments of sealed bytes, wrapped keys and random ids tell nobody anything, but an id still
points to a person who is not erased yet. Fragments of plaintext are personal data, in several spellings, and can be
left out.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from cloud.gdpr.matching import PATTERN_BYTES_MAX, PATTERN_BYTES_MIN
from cloud.kernel.errors import ConfigurationError

FORMAT: Final = "luminescent-fingerprints-1"
_FRAGMENT_BYTES: Final = 24
_VARIETY_MIN: Final = 6
"""Different bytes that a pattern must have: what has fewer, such as a row of spaces, is nobody's in particular."""
_NOTICE: Final = (
    "Sensitive: patterns of what is kept of one person. Keep it apart from the installation, and delete it once the "
    "search after the erasure is done."
)


class Trace(StrEnum):
    """What a pattern is a piece of."""

    ENVELOPE = "envelope"
    VECTOR = "vector"
    WRAPPED_KEY = "wrapped_key"
    LINK = "link"
    MEMORY_ID = "memory_id"
    SUBJECT_ID = "subject_id"
    PLAINTEXT = "plaintext"


IDS: Final = frozenset({Trace.MEMORY_ID, Trace.SUBJECT_ID})
"""Random ids, which stay in what the data map keeps: with key and link destroyed they point to nobody."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A pattern.

    Attributes:
        trace: What it is a piece of.
        spelling: How it is written there.
        item: Which of the person's things of that sort, counted from 0; nothing else says which.
        pattern: The bytes.
    """

    trace: Trace
    spelling: str
    item: int
    pattern: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FingerprintSet:
    """What was taken of one person.

    Attributes:
        tenant_id: The tenant.
        taken_at: When (UTC).
        fingerprints: All of them.
        too_short: Values whose pieces would be too short to be told from chance.
    """

    tenant_id: str
    taken_at: datetime
    fingerprints: tuple[Fingerprint, ...]
    too_short: int = 0

    def without_plaintext(self) -> FingerprintSet:
        """The same without pieces of plaintext."""
        kept = tuple(one for one in self.fingerprints if one.trace is not Trace.PLAINTEXT)
        return FingerprintSet(self.tenant_id, self.taken_at, kept)

    def joined(self, other: FingerprintSet) -> FingerprintSet:
        """Both, of the same person: what an update has replaced is in the earlier one alone."""
        last = 1 + max((one.item for one in self.fingerprints), default=0)
        moved = (Fingerprint(one.trace, one.spelling, one.item + last, one.pattern) for one in other.fingerprints)
        return FingerprintSet(
            self.tenant_id, other.taken_at, (*self.fingerprints, *moved), self.too_short + other.too_short
        )


def of_sealed(trace: Trace, item: int, sealed: bytes) -> Iterator[Fingerprint]:
    """Pieces of a sealed value, as the bytes themselves and as base64 and hexadecimal text of the whole."""
    encoded = base64.b64encode(sealed)
    # Not the very first: it names the format and is everybody's.
    last = len(sealed) - _FRAGMENT_BYTES
    for at in sorted({min(1, last), last // 2, last}):
        fragment = sealed[max(at, 0) : at + _FRAGMENT_BYTES]
        # Of what is sealed every fragment is; a sealer that does not encrypt shows rows of zeros.
        if at < 0 or len(set(fragment)) < _VARIETY_MIN:
            continue
        yield Fingerprint(trace, "bytes", item, fragment)
        # A whole number of groups further, so that it is text of these very bytes.
        begin = -(-at // 3) * 4
        yield Fingerprint(trace, "base64", item, encoded[begin : begin + _FRAGMENT_BYTES])
        yield Fingerprint(trace, "hex", item, fragment.hex().encode())


def of_id(trace: Trace, item: int, value: str) -> Iterator[Fingerprint]:
    """An id as text, as 16 bytes, and as hexadecimal and base64 text of those."""
    raw = uuid.UUID(value).bytes
    yield Fingerprint(trace, "text", item, value.encode())
    yield Fingerprint(trace, "bytes", item, raw)
    yield Fingerprint(trace, "hex", item, raw.hex().encode())
    yield Fingerprint(trace, "base64", item, base64.b64encode(raw).rstrip(b"="))


def of_text(item: int, text: str) -> list[Fingerprint]:
    """Pieces of a plaintext in every spelling; empty if it is too short or too uniform."""
    found = []
    encoded = text.encode("utf-8", "surrogatepass")
    for at in sorted({0, max(0, len(encoded) // 2 - _FRAGMENT_BYTES // 2), max(0, len(encoded) - _FRAGMENT_BYTES)}):
        found += list(_of_fragment(item, encoded[at : at + _FRAGMENT_BYTES]))
    for at in sorted({0, max(0, len(text) // 2 - 8)}):
        piece = text[at : at + 16]
        for spelling in ("utf-16-le", "utf-16-be"):
            found += _if_telling(spelling, item, piece.encode(spelling, "surrogatepass"))
        escaped = json.dumps(piece)[1:-1].encode()
        if escaped != piece.encode("utf-8", "surrogatepass"):
            found += _if_telling("json", item, escaped[:PATTERN_BYTES_MAX])
    return found


def _of_fragment(item: int, fragment: bytes) -> Iterator[Fingerprint]:
    yield from _if_telling("utf-8", item, fragment)
    yield from _if_telling("hex", item, fragment.hex().encode())
    for lead in range(3):
        # The characters that depend on these bytes alone, whatever stands before and after them.
        text = base64.b64encode(b"\0" * lead + fragment)
        begin = -(-lead * 8 // 6)
        end = (lead + len(fragment)) * 8 // 6
        yield from _if_telling(f"base64+{lead}", item, text[begin:end])


def _if_telling(spelling: str, item: int, pattern: bytes) -> list[Fingerprint]:
    telling = len(pattern) >= PATTERN_BYTES_MIN and len(set(pattern)) >= _VARIETY_MIN
    return [Fingerprint(Trace.PLAINTEXT, spelling, item, pattern)] if telling else []


def write(taken: FingerprintSet, path: Path) -> None:
    """Keep them in a new file of mode 0600.

    Raises:
        ConfigurationError: It exists already, or cannot be written.
    """
    document = {
        "format": FORMAT,
        "notice": _NOTICE,
        "tenant_id": taken.tenant_id,
        "taken_at": taken.taken_at.isoformat(),
        "too_short": taken.too_short,
        "fingerprints": [
            [one.trace.value, one.spelling, one.item, base64.b64encode(one.pattern).decode()]
            for one in taken.fingerprints
        ],
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}; name a new file") from exc


def read(path: Path) -> FingerprintSet:
    """What `write` kept.

    Raises:
        ConfigurationError: It cannot be read, or is no file of fingerprints.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise KeyError(FORMAT)
        found = tuple(
            Fingerprint(Trace(trace), str(spelling), int(item), base64.b64decode(pattern, validate=True))
            for trace, spelling, item, pattern in document["fingerprints"]
        )
        taken = FingerprintSet(
            str(document["tenant_id"]), datetime.fromisoformat(document["taken_at"]), found, int(document["too_short"])
        )
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError):
        # From None: the text of the error could quote a pattern.
        raise ConfigurationError(f"{path} is no file of fingerprints: gdpr scan take writes one") from None
    if any(not PATTERN_BYTES_MIN <= len(one.pattern) <= PATTERN_BYTES_MAX for one in taken.fingerprints):
        raise ConfigurationError(f"{path} holds a pattern that cannot be looked for: gdpr scan take writes one")
    return taken


def distinct(fingerprints: Iterable[Fingerprint]) -> list[Fingerprint]:
    """Each pattern once, the first that has it."""
    known: dict[bytes, Fingerprint] = {}
    for one in fingerprints:
        known.setdefault(one.pattern, one)
    return list(known.values())
