"""Memory ids: time-ordered UUIDv7 (RFC 9562 §5.7) in canonical text form."""

from __future__ import annotations

import os
import threading
import time
import uuid


class _Uuid7Source:
    """Monotonic within a process: `rand_a` counts the ids of one millisecond (RFC 9562 §6.2, method 1)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._counter = 0

    def next(self) -> int:
        random = int.from_bytes(os.urandom(10), "big")
        with self._lock:
            now_ms = max(time.time_ns() // 1_000_000, self._last_ms)
            if now_ms > self._last_ms:
                self._counter = random >> 64 & 0x3FF
            else:
                self._counter += 1
                if self._counter > 0xFFF:
                    now_ms, self._counter = now_ms + 1, 0
            self._last_ms = now_ms
            counter = self._counter
        tail = random & 0x3FFF_FFFF_FFFF_FFFF
        return (now_ms << 80) | (0x7 << 76) | (counter << 64) | (0b10 << 62) | tail


_source = _Uuid7Source()


def new_memory_id() -> str:
    """A new UUIDv7 in canonical text form, later than every id this process made before."""
    # Not by way of `uuid.UUID`, which takes as long as all the rest.
    digits = f"{_source.next():032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_memory_id(text: object) -> str | None:
    """Canonical form of a memory id, or `None` for anything that no memory can have."""
    if not isinstance(text, str) or len(text) != 36:
        return None
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return text if str(parsed) == text else None
