"""The bytes of an event that its leaf is the hash of.

Source: RFC 8785 (JSON Canonicalization Scheme); RFC 7493 §2.2 (integers that every reader understands alike).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import rfc8785

_MAX_INTEGER: Final = 2**53 - 1


def canonical(event: Mapping[str, object]) -> bytes:
    """The event as canonical JSON; equal events have equal bytes, whatever database or program wrote them.

    Integers beyond 2^53 - 1 stand as text: not every reader keeps them exactly.
    """
    return rfc8785.dumps(_portable(event))  # type: ignore[arg-type]


def _portable(value: object) -> object:
    match value:
        case bool():
            return value
        case int() if abs(value) > _MAX_INTEGER:
            return str(value)
        case Mapping():
            return {str(key): _portable(item) for key, item in value.items()}
        case list() | tuple():
            return [_portable(item) for item in value]
        case _:
            return value
