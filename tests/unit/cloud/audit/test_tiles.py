"""Laws of the tiles: however leaves arrive, roots and proofs are those of the whole, and old entries stay."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.audit.merkle import consistency_proof, inclusion_proof, root_of
from cloud.audit.tiles import WIDTH, Place, appended, overlaid, subtrees
from cloud.audit.verify import LeafRange, verify_consistency, verify_inclusion

LEAVES = [hashlib.sha256(str(number).encode()).digest() for number in range(70_000)]


class Store:
    """Tiles as a table keeps them, with how many were read."""

    def __init__(self) -> None:
        self.tiles: dict[Place, bytes] = {}
        self.size = 0
        self.reads = 0

    def load(self, place: Place) -> bytes:
        self.reads += 1
        return self.tiles.get(place, b"")

    def add(self, leaves: list[bytes]) -> dict[Place, bytes]:
        changed = appended(self.size, leaves, self.load)
        for place, hashes in changed.items():
            assert hashes.startswith(self.tiles.get(place, b"")), "an entry changed"
        self.tiles.update(changed)
        self.size += len(leaves)
        return changed


def root(leaves: list[bytes]) -> bytes:
    whole = LeafRange()
    for leaf in leaves:
        whole.append(leaf)
    return whole.root()


@given(st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_any_batches_give_the_root_of_the_whole(batches: list[int]) -> None:
    store = Store()
    for batch in batches:
        store.add(LEAVES[store.size : store.size + batch])
        assert root_of(store.size, subtrees(store.load)) == root(LEAVES[: store.size])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000])
def test_proofs_at_the_edges_of_tiles_hold(size: int) -> None:
    store = Store()
    store.add(LEAVES[:size])
    subtree, head = subtrees(store.load), root(LEAVES[:size])
    for index in {0, size // 2, size - 1, min(size - 1, 255), min(size - 1, 256)}:
        verify_inclusion(LEAVES[index], index, size, inclusion_proof(index, size, subtree), head)
    for old in {1, max(1, size // 2), size, min(size, 256), min(size, 257)}:
        verify_consistency(old, size, consistency_proof(old, size, subtree), root(LEAVES[:old]), head)


def test_appending_writes_and_proving_reads_a_few_tiles_of_many() -> None:
    store = Store()
    store.add(LEAVES[:69_999])
    store.reads = 0
    assert len(store.add(LEAVES[69_999:])) == 1
    assert store.reads <= 2
    store.reads = 0
    inclusion_proof(12_345, store.size, subtrees(store.load))
    assert store.reads <= 40


def test_what_will_be_written_can_be_asked_for_before() -> None:
    store = Store()
    store.add(LEAVES[:300])
    changed = appended(300, LEAVES[300:600], store.load)
    assert root_of(600, subtrees(overlaid(store.load, changed))) == root(LEAVES[:600])
    assert store.size == 300


def test_a_tile_that_lacks_entries_is_noticed() -> None:
    store = Store()
    store.add(LEAVES[:300])
    store.tiles[(0, 1)] = store.tiles[(0, 1)][:-32]
    with pytest.raises(ValueError, match="tile 0/1"):
        store.add(LEAVES[300:301])
    with pytest.raises(ValueError, match="does not hold"):
        root_of(300, subtrees(store.load))
    assert WIDTH == 256
