"""Single events of a log with what proves them: for whoever shows one to somebody who has no export of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud.audit.canonical import canonical
from cloud.audit.heads import Head
from cloud.audit.merkle import inclusion_proof
from cloud.audit.tiles import LoadTile, subtrees


@dataclass(frozen=True, slots=True)
class Leaf:
    """An event and its place in its log's tree."""

    index: int
    event: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf, and the hashes that lead from it to the root of a checkpoint.

    Attributes:
        index: Its place.
        event: The event; its canonical JSON is what the leaf is the hash of.
        proof: The hashes, 32 bytes each (RFC 9162 §2.1.3.1).
    """

    index: int
    event: Mapping[str, object]
    proof: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Proven:
    """Leaves of one log, all proven against one head.

    Attributes:
        checkpoint: The head, signed.
        leaves: The leaves, in the order in which they were asked for.
    """

    checkpoint: str
    leaves: tuple[ProvenLeaf, ...]


def proven(leaves: Sequence[Leaf], head: Head, load: LoadTile) -> Proven:
    """These leaves, proven against `head`.

    Raises:
        ValueError: The tree is smaller, or its tiles are not those of such a tree.
    """
    subtree = subtrees(load)
    return Proven(
        head.checkpoint,
        tuple(
            # As its leaf has it: integers that not every reader keeps exactly stand as text.
            ProvenLeaf(leaf.index, json.loads(canonical(leaf.event)), inclusion_proof(leaf.index, head.size, subtree))
            for leaf in leaves
        ),
    )
