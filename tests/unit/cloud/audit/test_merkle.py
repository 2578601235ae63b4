"""Laws of the tree: what it computes is what the definition says, and a proof of anything else does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.audit.merkle import consistency_proof, cover, inclusion_proof, range_of, root_of
from cloud.audit.verify import (
    EMPTY_ROOT,
    LeafRange,
    VerificationError,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [f"event {number}".encode() for number in range(70)]
sizes = st.integers(1, len(LEAVES))


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], b: bool) -> list[bytes]:
    """RFC 9162 §2.1.4.1."""
    if m == len(leaves):
        return [] if b else [naive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*naive_subproof(m, leaves[:k], b), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def subtree(level: int, index: int) -> bytes:
    """A complete subtree's hash, by definition."""
    leaves = LEAVES[index << level : (index + 1) << level]
    assert len(leaves) == 1 << level, "a subtree that is not complete was asked for"
    return naive_root(leaves)


def test_the_empty_tree_has_the_root_of_the_definition() -> None:
    assert root_of(0, subtree) == LeafRange().root() == EMPTY_ROOT == naive_root([])


@pytest.mark.parametrize("size", range(1, 70))
def test_roots_are_those_of_the_definition_however_they_are_computed(size: int) -> None:
    expected = naive_root(LEAVES[:size])
    assert root_of(size, subtree) == expected
    grown = LeafRange()
    for leaf in LEAVES[:size]:
        grown.append(leaf_hash(leaf))
    assert grown.root() == expected
    assert len(grown.nodes()) == size.bit_count()


@given(sizes, st.data())
def test_inclusion_proofs_are_those_of_the_definition_and_hold(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, subtree)
    assert proof == naive_path(index, LEAVES[:size])
    verify_inclusion(leaf_hash(LEAVES[index]), index, size, proof, naive_root(LEAVES[:size]))


@given(sizes, st.data())
def test_consistency_proofs_are_those_of_the_definition_and_hold(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(old, size, subtree)
    assert proof == naive_subproof(old, LEAVES[:size], True)
    verify_consistency(old, size, proof, naive_root(LEAVES[:old]), naive_root(LEAVES[:size]))


@given(st.integers(0, 70), st.integers(0, 70))
def test_a_cover_is_aligned_complete_and_without_overlap(a: int, b: int) -> None:
    start, end = min(a, b), max(a, b)
    covered = [leaf for level, index in cover(start, end) for leaf in range(index << level, (index + 1) << level)]
    assert covered == list(range(start, end))


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 70))
def test_ranges_that_meet_join_to_the_whole_tree(a: int, b: int, c: int) -> None:
    start, end, size = sorted((a, b, c))
    whole = LeafRange()
    for node in range_of(cover(0, start), subtree):
        whole.add(node)
    for leaf in LEAVES[start:end]:
        whole.append(leaf_hash(leaf))
    for node in range_of(cover(end, size), subtree):
        whole.add(node)
    assert whole.root() == naive_root(LEAVES[:size])


def test_a_range_refuses_a_subtree_that_does_not_follow() -> None:
    with pytest.raises(VerificationError):
        LeafRange(4).add(range_of([(1, 1)], subtree)[0])


# What is wrong does not hold

Spoil = Callable[[list[bytes]], list[bytes]]
SPOILED: dict[str, Spoil] = {
    "truncated": lambda proof: proof[:-1],
    "without its beginning": lambda proof: proof[1:],
    "one hash more": lambda proof: [*proof, bytes(32)],
    "its last hash twice": lambda proof: [*proof, proof[-1]],
    "swapped": lambda proof: [*proof[:-2], proof[-1], proof[-2]] if len(set(proof)) > 1 else [bytes(32), *proof[1:]],
    "a bit flipped": lambda proof: [bytes([proof[0][0] ^ 1]) + proof[0][1:], *proof[1:]],
    "a short hash": lambda proof: [proof[0][:31], *proof[1:]],
    "empty": lambda proof: [],
}


@pytest.mark.parametrize("spoiled", SPOILED)
@given(st.integers(3, 70), st.data())
def test_a_spoiled_inclusion_proof_does_not_hold(spoiled: str, size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = SPOILED[spoiled](inclusion_proof(index, size, subtree))
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(LEAVES[index]), index, size, proof, naive_root(LEAVES[:size]))


@pytest.mark.parametrize("spoiled", SPOILED)
@given(st.integers(3, 70), st.data())
def test_a_spoiled_consistency_proof_does_not_hold(spoiled: str, size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    proof = SPOILED[spoiled](consistency_proof(old, size, subtree))
    with pytest.raises(VerificationError):
        verify_consistency(old, size, proof, naive_root(LEAVES[:old]), naive_root(LEAVES[:size]))


@given(st.integers(2, 70), st.data())
def test_a_proof_holds_for_its_own_place_size_leaf_and_root_alone(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    proof, root = inclusion_proof(index, size, subtree), naive_root(LEAVES[:size])
    leaf = leaf_hash(LEAVES[index])
    wrong = [
        (leaf_hash(LEAVES[other]), index, size, root),
        (leaf, other, size, root),
        (leaf, index, size, naive_root(LEAVES[: size - 1])),
        (leaf, size, size, root),
        (leaf, -1, size, root),
        (leaf, index, index, root),
        (root, index, size, leaf),
    ]
    for arguments in wrong:
        with pytest.raises(VerificationError):
            verify_inclusion(arguments[0], arguments[1], arguments[2], proof, arguments[3])


@given(st.integers(2, 70), st.data())
def test_roots_that_are_swapped_or_of_other_sizes_are_not_consistent(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    proof = consistency_proof(old, size, subtree)
    old_root, root = naive_root(LEAVES[:old]), naive_root(LEAVES[:size])
    for arguments in ((old, size, root, old_root), (size, old, old_root, root), (old, size, root, root)):
        with pytest.raises(VerificationError):
            verify_consistency(arguments[0], arguments[1], proof, arguments[2], arguments[3])


def test_trees_of_one_size_must_have_one_root_and_an_empty_one_begins_every_tree() -> None:
    one, other = naive_root(LEAVES[:5]), naive_root(LEAVES[1:6])
    verify_consistency(5, 5, [], one, one)
    verify_consistency(0, 5, [], EMPTY_ROOT, one)
    for arguments in ((5, 5, [], one, other), (0, 5, [], other, one), (0, 5, [one], EMPTY_ROOT, one)):
        with pytest.raises(VerificationError):
            verify_consistency(*arguments)
