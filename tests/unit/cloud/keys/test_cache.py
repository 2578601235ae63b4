"""The cache is bounded and forgets what it is told to forget."""

from __future__ import annotations

from cloud.keys.cache import CachedKey, KeyCache
from cloud.keys.model import SubjectKey


def entry(owner_id: str, tag: bytes = b"", tenant_id: str = "acme") -> CachedKey[SubjectKey]:
    return CachedKey(owner_id, SubjectKey(tenant_id, owner_id, bytes(32)), 1, b"image", tag)


def test_the_least_recently_used_leaves_first_with_its_tag() -> None:
    cache: KeyCache[SubjectKey] = KeyCache(2)
    cache.put(entry("a", b"A"))
    cache.put(entry("b", b"B"))
    assert cache.get_by_tag(b"A") is not None
    cache.put(entry("c", b"C"))
    assert cache.get("b") is None
    assert cache.get_by_tag(b"B") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None


def test_a_dropped_entry_takes_its_tag_along() -> None:
    cache: KeyCache[SubjectKey] = KeyCache(2)
    cache.put(entry("a", b"A"))
    cache.drop("a")
    cache.drop("a")
    assert cache.get_by_tag(b"A") is None


def test_dropping_the_former_subject_leaves_the_persons_new_one() -> None:
    cache: KeyCache[SubjectKey] = KeyCache(3)
    cache.put(entry("old", b"tag"))
    cache.put(entry("new", b"tag"))
    cache.drop("old")
    found = cache.get_by_tag(b"tag")
    assert found is not None
    assert found.owner_id == "new"


def test_a_tenant_is_dropped_alone() -> None:
    cache: KeyCache[SubjectKey] = KeyCache(9)
    cache.put(entry("a", b"A"))
    cache.put(entry("b", b"B", tenant_id="acme2"))
    cache.drop_tenant("acme")
    assert cache.get("a") is None
    assert cache.get("b") is not None
    cache.clear()
    assert cache.get_by_tag(b"B") is None


def test_neither_key_nor_slot_shows() -> None:
    assert "image" not in repr(entry("a"))
    assert "\\x00" not in repr(entry("a", b"\0"))
