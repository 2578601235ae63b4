"""Identifiers: time-ordered UUIDv7 (RFC 9562 §5.7) for what is stored, random ones for people."""

from __future__ import annotations

import re
import uuid

from src.memory.ids import new_memory_id, parse_memory_id

__all__ = [
    "SYSTEM_LOG",
    "is_tenant_id",
    "new_event_id",
    "new_memory_id",
    "new_request_id",
    "new_subject_id",
    "parse_memory_id",
]

_TENANT_ID = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
SYSTEM_LOG = "_system"
"""Name of the log of events without a valid tenant; no tenant id can begin with an underscore."""


new_event_id = new_memory_id
new_request_id = new_memory_id


def new_subject_id() -> str:
    """A new random UUIDv4: it says nothing about the person or about when it was made."""
    return str(uuid.uuid4())


def is_tenant_id(value: object) -> bool:
    """Whether `value` can name a tenant: 1–63 of `a-z 0-9 _ -`, beginning and ending with a letter or digit."""
    return isinstance(value, str) and _TENANT_ID.fullmatch(value) is not None
