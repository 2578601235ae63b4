"""The envelope: what is personal in a memory, as the bytes that get sealed.

The layout is a JSON array (RFC 8259) that begins with its version, without spaces and with sorted member names, in
UTF-8: equal envelopes have equal bytes. There is no compression: the length of a sealed value is visible, and a
compressed length tells about its content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final, NoReturn

from pydantic import JsonValue

from cloud.kernel.errors import InvalidMemoryError, SealBrokenError

ENVELOPE_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """The personal part of a memory; nothing of it shows in a `repr`."""

    user_id: str = field(repr=False)
    content: str = field(repr=False)
    source: str = field(repr=False)
    raw_source: str | None = field(repr=False, default=None)
    extraction_version: int = 1
    metadata: dict[str, JsonValue] = field(repr=False, default_factory=dict)
    provenance: JsonValue = field(repr=False, default=None)


def encode_envelope(envelope: Envelope) -> bytes:
    """The bytes to seal: `decode_envelope` gives back an equal envelope.

    Raises:
        InvalidMemoryError: Metadata or provenance hold what JSON cannot carry, such as NaN or a loop.
    """
    fields = [
        ENVELOPE_FORMAT,
        envelope.user_id,
        envelope.content,
        envelope.source,
        envelope.raw_source,
        envelope.extraction_version,
        envelope.metadata,
        envelope.provenance,
    ]
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        # Without its cause: the text of that error may quote the value.
        raise InvalidMemoryError(
            field="metadata or provenance", reason="holds a value that JSON cannot carry"
        ) from None
    # surrogatepass: half of a surrogate pair is a poor text and still the caller's.
    return text.encode("utf-8", "surrogatepass")


def decode_envelope(encoded: bytes) -> Envelope:
    """The envelope that was encoded, or `SealBrokenError`; no other error, whatever the bytes are.

    Raises:
        SealBrokenError: The bytes are not an envelope of a known version.
    """
    try:
        fields = _DECODER.decode(encoded.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        # Without its cause: the text of that error may quote the envelope.
        raise SealBrokenError("an envelope is not readable JSON") from None
    # Not by a pattern, which takes much longer: a person who is loaded has thousands.
    if type(fields) is not list or tuple(map(type, fields[:-1])) not in _TYPES or fields[0] != ENVELOPE_FORMAT:
        raise SealBrokenError("an envelope is not of a known version")
    return Envelope(*fields[1:])


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_TYPES: Final = frozenset(
    # The version, then the fields in order; provenance may be anything.
    (int, str, str, str, raw_source, int, dict)
    for raw_source in (str, type(None))
)
# Made once: `loads` makes one at each call that names a constant's parser.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
