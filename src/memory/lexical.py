"""Matches of a query's terms: BM25 in which a memory also counts what its neighbours say, and labels that are named.

A term counts where it occurs, and less in the memories beside; of several places the one that gives most counts. So
a memory between two that each hold half of the question gathers both, and no term counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.memory.arena import label_hash, term_hash
from src.memory.neighbours import Links, shares
from src.memory.scoring import Scores, inverse_document_frequencies, term_weights


@dataclass(frozen=True, slots=True)
class Postings:
    """What is known of the terms of n memories.

    Attributes:
        hashes: (p,) of a term or of a label's.
        owners: (p,) row of the memory it belongs to.
        occurrences: (p,) how often it occurs there.
        position_of: (r,) position of the memory in each row, from 0 to n - 1; -1 for one that does not count.
        lengths: (n,) number of terms of each memory.
        mean_length: Their mean.
    """

    hashes: NDArray[np.int64]
    owners: NDArray[np.uint32]
    occurrences: NDArray[np.uint16]
    position_of: NDArray[np.intp]
    lengths: NDArray[np.uint32]
    mean_length: float


@dataclass(frozen=True, slots=True)
class Matches:
    """How well n memories match.

    Attributes:
        scores: (n,) BM25 with neighbours.
        named: (n,) whether the query names the memory's label.
    """

    scores: Scores
    named: NDArray[np.bool_]


def matches(postings: Postings, wanted: Sequence[tuple[str, ...]], links: Links, lent: float) -> Matches:
    """How well each memory matches `wanted`; no sum depends on the order that memories or postings are held in.

    Args:
        postings: Of the memories.
        wanted: Terms to look for, each in one form or several.
        links: Neighbours of the memories.
        lent: How much a term counts in the memory beside, 0 to 1.
    """
    count = postings.lengths.size
    scores, named = np.zeros(count), np.zeros(count, np.bool_)
    group_of = {term_hash(term): group for group, forms in enumerate(wanted) for term in forms}
    # A label's terms are looked for in the same pass, as one more group that stands for all of them.
    group_of |= {label_hash(term): len(wanted) for forms in wanted for term in forms}
    looked_for = np.array(sorted(group_of), np.int64)
    if not looked_for.size:
        return Matches(scores, named)
    groups = np.array([group_of[number] for number in looked_for.tolist()], np.intp)
    found = np.flatnonzero(np.isin(postings.hashes, looked_for))
    position = postings.position_of[postings.owners[found]]
    found, position = found[position >= 0], position[position >= 0]
    group = groups[np.searchsorted(looked_for, postings.hashes[found])]
    in_label = group == len(wanted)
    named[position[in_label]] = True
    found, position, group = found[~in_label], position[~in_label], group[~in_label]
    if not found.size:
        return Matches(scores, named)
    weights = term_weights(
        postings.occurrences[found].astype(np.float64),
        postings.lengths[position].astype(np.float64),
        postings.mean_length,
    )
    places, weights = _strongest(position * len(wanted) + group, weights)
    rarity = inverse_document_frequencies(np.bincount(places % len(wanted), minlength=len(wanted)), count)
    places, weights = _with_neighbours(places, weights * rarity[places % len(wanted)], len(wanted), links, lent)
    # Places stand by memory and then in the order of the query, so a memory's sum is the same wherever it is held.
    sums = np.bincount(places // len(wanted), weights=weights, minlength=count)
    return Matches(sums.astype(np.float64, copy=False), named)


def _with_neighbours(
    places: NDArray[np.intp], weights: Scores, groups: int, links: Links, lent: float
) -> tuple[NDArray[np.intp], Scores]:
    if not lent or not links.size:
        return places, weights
    position, group = places // groups, places % groups
    all_places, all_weights = [places], [weights]
    for beside, share in zip(links[:, position], shares(lent), strict=True):
        exists = beside >= 0
        all_places.append(beside[exists] * groups + group[exists])
        all_weights.append(weights[exists] * share)
    return _strongest(np.concatenate(all_places), np.concatenate(all_weights))


def _strongest(places: NDArray[np.intp], weights: Scores) -> tuple[NDArray[np.intp], Scores]:
    """Distinct places in order, each with the largest of its weights."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    firsts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[firsts], np.maximum.reduceat(weights[order], firsts)
