"""Makes roots and proofs of a log's Merkle tree from its subtrees; pure. `cloud.audit.verify` verifies them.

A range of leaves is the row of the largest complete subtrees that cover it, left to right, each of them aligned: it
begins at a multiple of its size.

Source: RFC 9162 §2.1; RFC 6962 §2.1 defines the same tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cloud.audit.verify import LeafRange, Node, node_hash

Subtree = Callable[[int, int], bytes]
"""Hash of the complete subtree of `2**level` leaves that begins at leaf `index * 2**level`: called (level, index)."""


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
