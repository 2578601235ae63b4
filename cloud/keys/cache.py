"""Keys in use, in this process's memory: bounded, and droppable one by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from cloud.kernel import telemetry, telemetry_names
from cloud.keys.model import SubjectKey, TenantKey

_HIT: Final = {telemetry_names.RESULT: "hit"}
_MISS: Final = {telemetry_names.RESULT: "miss"}

K = TypeVar("K", SubjectKey, TenantKey)


@dataclass(frozen=True, slots=True)
class CachedKey(Generic[K]):
    """An unwrapped key and the slot it came from.

    The key counts only while the slot still has the same bytes: reading them takes 1 µs, so a key that another
    process destroyed is never used again, without any message between processes.

    Attributes:
        owner_id: Subject id or tenant id.
        key: The key.
        slot: Number of its slot.
        image: The bytes of the slot when it was unwrapped.
        tag: The subject's link tag; empty for a tenant.
    """

    owner_id: str
    key: K
    slot: int
    image: bytes = field(repr=False)
    tag: bytes = field(repr=False, default=b"")


class KeyCache(Generic[K]):
    """At most `capacity` keys; the one unused for longest leaves first. Safe for threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, CachedKey[K]] = OrderedDict()
        self._owner_by_tag: dict[bytes, str] = {}

    def get(self, owner_id: str) -> CachedKey[K] | None:
        """The entry of a subject or tenant."""
        with self._lock:
            entry = self._entries.get(owner_id)
            if entry is not None:
                self._entries.move_to_end(owner_id)
        telemetry.instruments().key_reads.add(1, _MISS if entry is None else _HIT)
        return entry

    def get_by_tag(self, tag: bytes) -> CachedKey[K] | None:
        """The entry of the subject with this link tag."""
        with self._lock:
            owner_id = self._owner_by_tag.get(tag)
            if owner_id is not None:
                self._entries.move_to_end(owner_id)
            entry = self._entries[owner_id] if owner_id is not None else None
        telemetry.instruments().key_reads.add(1, _MISS if entry is None else _HIT)
        return entry

    def put(self, entry: CachedKey[K]) -> None:
        """Keeps `entry` in place of an older one of the same owner."""
        with self._lock:
            self._remove(entry.owner_id)
            self._entries[entry.owner_id] = entry
            if entry.tag:
                self._owner_by_tag[entry.tag] = entry.owner_id
            while len(self._entries) > self._capacity:
                self._remove(next(iter(self._entries)))

    def drop(self, owner_id: str) -> None:
        """Forgets one entry, if it is there."""
        with self._lock:
            self._remove(owner_id)

    def drop_tenant(self, tenant_id: str) -> None:
        """Forgets every key that belongs to a tenant."""
        with self._lock:
            for owner_id in [k for k, entry in self._entries.items() if entry.key.tenant_id == tenant_id]:
                self._remove(owner_id)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._owner_by_tag.clear()

    def _remove(self, owner_id: str) -> None:
        entry = self._entries.pop(owner_id, None)
        # A person who came back has the same tag and a new subject: leave the newer link alone.
        if entry is not None and self._owner_by_tag.get(entry.tag) == owner_id:
            del self._owner_by_tag[entry.tag]
