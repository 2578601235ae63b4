"""The Merkle tree of a log: hashes, ranges of leaves, and proofs; pure.

Rules:

- A leaf's hash and a node's hash begin with different bytes, so neither can pass for the other (RFC 9162 §2.1.1).
- A range of leaves is the row of the largest complete subtrees that cover it, left to right, each of them aligned:
  it begins at a multiple of its size. Ranges that meet can be joined, and the range of all leaves gives the root.
- A proof is a list of hashes in the order in which RFC 9162 gives them. Whoever verifies one never trusts its length.

Nothing here reads a clock, a file or a database.

Source: RFC 9162 §2.1; RFC 6962 §2.1 defines the same tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Subtree = Callable[[int, int], bytes]
"""Hash of the complete subtree of `2**level` leaves that begins at leaf `index * 2**level`: called (level, index)."""


class InvalidProofError(ValueError):
    """A proof does not prove what it is said to prove; the message says which check failed."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 ‖ leaf), 32 bytes.

    Source: RFC 9162 §2.1.1.
    """
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes.

    Source: RFC 9162 §2.1.1.
    """
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: `2**level` leaves from `index * 2**level` on, and its hash."""

    level: int
    index: int
    hash: bytes

    @property
    def start(self) -> int:
        """Its first leaf."""
        return self.index << self.level

    @property
    def end(self) -> int:
        """The leaf after its last."""
        return (self.index + 1) << self.level


class LeafRange:
    """The leaves from `start` to `end`, as hashes of subtrees; memory and time per leaf are O(log n).

    Args:
        start: The first leaf.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.end = start
        self._nodes: list[Node] = []

    def append(self, leaf: bytes) -> None:
        """Add the next leaf by its hash."""
        self.add(Node(0, self.end, leaf))

    def add(self, node: Node) -> None:
        """Add the subtree that begins where this range ends.

        Raises:
            InvalidProofError: It begins elsewhere.
        """
        if node.start != self.end:
            raise InvalidProofError(f"a subtree begins at leaf {node.start}, not at leaf {self.end}")
        self.end = node.end
        self._nodes.append(node)
        while len(self._nodes) > 1:
            left, right = self._nodes[-2:]
            if left.level != right.level or left.index % 2:
                break
            self._nodes[-2:] = [Node(left.level + 1, left.index // 2, node_hash(left.hash, right.hash))]

    def nodes(self) -> tuple[Node, ...]:
        """Its subtrees, left to right."""
        return tuple(self._nodes)

    def root(self) -> bytes:
        """The root of a tree of the leaves 0 to `end`.

        Raises:
            InvalidProofError: The range does not begin at leaf 0.
        """
        if self.start:
            raise InvalidProofError("only a range from leaf 0 on has a root")
        if not self._nodes:
            return EMPTY_ROOT
        hashes = [node.hash for node in self._nodes]
        root = hashes.pop()
        while hashes:
            root = node_hash(hashes.pop(), root)
        return root


def cover(start: int, end: int) -> list[tuple[int, int]]:
    """The (level, index) of the subtrees that cover the leaves from `start` to `end`, left to right."""
    found = []
    while start < end:
        level = (start & -start).bit_length() - 1 if start else (end - 1).bit_length()
        while start + (1 << level) > end:
            level -= 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def range_of(nodes: Iterable[tuple[int, int]], subtree: Subtree) -> list[Node]:
    """These subtrees with their hashes."""
    return [Node(level, index, subtree(level, index)) for level, index in nodes]


def root_of(size: int, subtree: Subtree) -> bytes:
    """The root of a tree of `size` leaves."""
    whole = LeafRange()
    for node in range_of(cover(0, size), subtree):
        whole.add(node)
    return whole.root()


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root of a tree of `size` leaves.

    Raises:
        ValueError: There is no such leaf.

    Source: RFC 9162 §2.1.3.1.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return _path(index, 0, size, subtree)


def consistency_proof(old_size: int, size: int, subtree: Subtree) -> list[bytes]:
    """The hashes that show that a tree of `size` leaves begins with the one of `old_size`.

    Raises:
        ValueError: The old tree is empty or larger.

    Source: RFC 9162 §2.1.4.1.
    """
    if not 0 < old_size <= size:
        raise ValueError(f"there is no consistency proof from {old_size} to {size} leaves")
    return _subproof(old_size, 0, size, True, subtree)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return if the leaf with this hash is leaf `index` of the tree with this size and root.

    Raises:
        InvalidProofError: It is not, or the proof is malformed.

    Source: RFC 9162 §2.1.3.2.
    """
    _require_hashes([leaf, root, *proof])
    if not 0 <= index < size:
        raise InvalidProofError(f"a tree of {size} leaves has no leaf {index}")
    fn, sn, computed = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            raise InvalidProofError("the inclusion proof is too long")
        if fn % 2 or fn == sn:
            computed = node_hash(step, computed)
            while not fn % 2 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise InvalidProofError("the inclusion proof is too short")
    if computed != root:
        raise InvalidProofError("the inclusion proof leads to another root")


def verify_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Return if the tree of `size` leaves begins with the tree of `old_size`; an empty one begins every tree.

    Raises:
        InvalidProofError: It does not, or the proof is malformed.

    Source: RFC 9162 §2.1.4.2.
    """
    _require_hashes([old_root, root, *proof])
    if not 0 <= old_size <= size:
        raise InvalidProofError(f"a tree of {size} leaves does not begin with one of {old_size}")
    if old_size in (0, size):
        if proof:
            raise InvalidProofError("the consistency proof is too long")
        if old_root != (root if old_size else EMPTY_ROOT):
            raise InvalidProofError("trees of one size have different roots")
        return
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise InvalidProofError("the consistency proof is too short")
    fn, sn = old_size - 1, size - 1
    while fn % 2:
        fn, sn = fn >> 1, sn >> 1
    old_computed = computed = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise InvalidProofError("the consistency proof is too long")
        if fn % 2 or fn == sn:
            old_computed, computed = node_hash(step, old_computed), node_hash(step, computed)
            while not fn % 2 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise InvalidProofError("the consistency proof is too short")
    if old_computed != old_root:
        raise InvalidProofError("the consistency proof leads to another old root")
    if computed != root:
        raise InvalidProofError("the consistency proof leads to another root")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _root_between(start: int, end: int, subtree: Subtree) -> bytes:
    hashes = [subtree(level, index) for level, index in cover(start, end)]
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


def _path(index: int, start: int, end: int, subtree: Subtree) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(index, start, middle, subtree), _root_between(middle, end, subtree)]
    return [*_path(index, middle, end, subtree), _root_between(start, middle, subtree)]


def _subproof(old_end: int, start: int, end: int, complete: bool, subtree: Subtree) -> list[bytes]:
    if old_end == end:
        return [] if complete else [_root_between(start, end, subtree)]
    middle = start + _split(end - start)
    if old_end <= middle:
        return [*_subproof(old_end, start, middle, complete, subtree), _root_between(middle, end, subtree)]
    return [*_subproof(old_end, middle, end, False, subtree), _root_between(start, middle, subtree)]


def _require_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise InvalidProofError(f"a hash has {HASH_BYTES} bytes")
