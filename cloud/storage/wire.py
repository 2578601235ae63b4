"""Parameters of server functions as the wire has them, in PostgreSQL's binary format.

The driver finds out anew at each call what every parameter is and how lists of it are written, which takes longer than
to write them. A server function says it once.

Source: PostgreSQL 16, `src/backend/utils/adt/*.c`, the `_recv` function of each type.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_ARRAY: Final = struct.Struct("!iiIii")
_EMPTY: Final = struct.Struct("!iiI")
_LENGTH: Final = struct.Struct("!i")
_NULL: Final = _LENGTH.pack(-1)
_UUID_BYTES: Final = 16
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of parameters.

    Attributes:
        oid: Its number in the server's catalogue.
        write: Its binary form; raises `TypeError`, `ValueError`, `AttributeError` or `struct.error` for a value of
            another type.
    """

    oid: int
    write: Callable[[Any], bytes]


def _uuid(value: str) -> bytes:
    written = bytes.fromhex(value.replace("-", ""))
    if len(written) != _UUID_BYTES:
        raise ValueError("not a UUID")
    return written


def _instant(value: datetime) -> bytes:
    return struct.pack("!q", (value - _EPOCH) // _US)


def _json(value: object) -> bytes:
    return b"\x01" + _ENCODER.encode(value).encode()


TEXT: Final = Kind(25, str.encode)
UUID: Final = Kind(2950, _uuid)
BIGINT: Final = Kind(20, struct.Struct("!q").pack)
INTEGER: Final = Kind(23, struct.Struct("!i").pack)
DOUBLE: Final = Kind(701, struct.Struct("!d").pack)
BOOLEAN: Final = Kind(16, struct.Struct("!?").pack)
INSTANT: Final = Kind(1184, _instant)
BYTES: Final = Kind(17, bytes)
JSON: Final = Kind(3802, _json)

_ARRAY_OIDS: Final = {
    TEXT: 1009,
    UUID: 2951,
    BIGINT: 1016,
    INTEGER: 1007,
    DOUBLE: 1022,
    BOOLEAN: 1000,
    INSTANT: 1185,
    BYTES: 1001,
}


def array(kind: Kind) -> Kind:
    """Lists of a kind, one-dimensional; an item may be `None`."""
    write, item_oid = kind.write, kind.oid

    def written(items: Sequence[Any]) -> bytes:
        if not items:
            return _EMPTY.pack(0, 0, item_oid)
        has_null = False
        parts = [b""]
        for item in items:
            if item is None:
                has_null = True
                parts.append(_NULL)
            else:
                binary = write(item)
                parts += (_LENGTH.pack(len(binary)), binary)
        parts[0] = _ARRAY.pack(1, has_null, item_oid, len(items), 1)
        return b"".join(parts)

    return Kind(_ARRAY_OIDS[kind], written)


class ServerFunction:
    """A function of the server that answers with one value of type `jsonb` or `text`.

    Args:
        name: Its name.
        parameters: Its parameters and their kinds, in order.
    """

    __slots__ = ("name", "oids", "parameters", "prepared", "statement", "_writers")

    def __init__(self, name: str, **parameters: Kind) -> None:
        self.name: Final = name
        self.parameters: Final = tuple(parameters)
        self.oids: Final = tuple(kind.oid for kind in parameters.values())
        places = ", ".join(f"${place}" for place in range(1, len(parameters) + 1))
        self.statement: Final = f"SELECT {name}({places})".encode()
        self.prepared: Final = f"{name}_{len(parameters)}".encode()
        self._writers: Final = tuple((name, kind.write) for name, kind in parameters.items())

    def __repr__(self) -> str:
        return f"ServerFunction({self.name})"

    def arguments(self, values: Mapping[str, object]) -> list[bytes | None]:
        """Its arguments as the wire has them.

        Raises:
            KeyError: One is missing.
            TypeError, ValueError, AttributeError, struct.error: One is of another type; nothing was sent.
        """
        return [None if (value := values[name]) is None else write(value) for name, write in self._writers]
