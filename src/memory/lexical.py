"""Matches of a query's terms: BM25 in which a memory also counts what its neighbours say, and labels that are named.

A term counts where it occurs, and less in the memories beside; of several places the one that gives most counts. So
a memory between two that each hold half of the question gathers both, and no term counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.memory.arena import LABEL, Columns, label_hash, term_hash
from src.memory.neighbours import Links, shares
from src.memory.scoring import Scores, inverse_document_frequencies, length_norms, term_weights

_FEW_FORMS = 32  # Up to here it takes less to look through all postings for each of them.
_COMPARED_AT_ONCE = 2**21  # A byte for each.


@dataclass(frozen=True, slots=True)
class Postings:
    """What is known of the terms of n memories.

    Attributes:
        hashes: (p,) of a term or of a label's.
        owners: (p,) row of the memory it belongs to.
        occurrences: (p,) how often it occurs there.
        position_of: (r,) position of the memory in each row, from 0 to n - 1; n for one that does not count.
        norms: (n,) how much each memory's length weakens its terms.
        labels: (l,) hashes of the labels' terms alone.
        labelled: (l,) position of the memory that each belongs to, or n.
    """

    hashes: NDArray[np.int64]
    owners: NDArray[np.uint32]
    occurrences: NDArray[np.uint16]
    position_of: NDArray[np.intp]
    norms: Scores
    labels: NDArray[np.int64]
    labelled: NDArray[np.intp]

    @classmethod
    def of(cls, columns: Columns, postings: int, live: NDArray[np.bool_]) -> Postings:
        """Of the rows that live, of which there is one at least, among the first `postings` of the columns."""
        lengths = columns.term_counts[: live.size][live]
        position_of = np.where(live, np.cumsum(live) - 1, lengths.size)
        hashes, owners = columns.term_hashes[:postings], columns.owners[:postings]
        of_labels = np.flatnonzero(columns.occurrences[:postings] == LABEL)
        return cls(
            hashes=hashes,
            owners=owners,
            occurrences=columns.occurrences[:postings],
            position_of=position_of,
            norms=length_norms(lengths, int(lengths.sum()) / lengths.size),
            labels=hashes[of_labels],
            labelled=position_of[owners[of_labels]],
        )


@dataclass(frozen=True, slots=True)
class Matches:
    """Which of the memories match, and how well: k of n.

    Attributes:
        positions: (k,) of those that hold a term or are lent one, ascending.
        scores: (k,) BM25 with neighbours, of those.
        named: Positions of those whose label the query names, in any order and perhaps repeated.
    """

    positions: NDArray[np.intp]
    scores: Scores
    named: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Weights:
    """How much terms count in memories: a number for each pair of them that counts at all."""

    position: NDArray[np.intp]
    term: NDArray[np.intp]
    weight: Scores

    def strongest(self, terms: int) -> _Weights:
        """The greatest weight of each pair, in the order of positions and of the `terms` terms."""
        pair = self.position * terms + self.term
        order = np.argsort(pair, kind="stable")
        ordered = pair[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        first = order[starts]
        return _Weights(self.position[first], self.term[first], np.maximum.reduceat(self.weight[order], starts))


def matches(postings: Postings, wanted: Sequence[tuple[str, ...]], links: Links, lent: float) -> Matches:
    """How well each memory matches `wanted`; no sum depends on the order that memories or postings are held in.

    There are few matches among many memories, so arrays are short and the interpreter is kept (see `scoring`).

    Args:
        postings: Of the memories.
        wanted: Terms to look for, each in one form or several.
        links: Neighbours of the memories.
        lent: How much a term counts in the memory beside, 0 to 1.
    """
    named = _named(postings, wanted)
    weights = _weights(postings, wanted)
    if not weights.position.size:
        return Matches(weights.position, weights.weight, named)
    if any(len(forms) > 1 for forms in wanted):
        # Of several forms in one memory the strongest counts.
        weights = weights.strongest(len(wanted))
    frequencies = np.bincount(weights.term, minlength=len(wanted)).tolist()
    rarities = inverse_document_frequencies(frequencies, postings.norms.size)
    weights = _Weights(weights.position, weights.term, weights.weight * rarities[weights.term])
    if lent and links.size:
        weights = _with_neighbours(weights, links, lent).strongest(len(wanted))
    # For each memory its terms follow each other here as in the query, whatever else stands in between.
    scores: Scores = np.bincount(weights.position, weights.weight, postings.norms.size).astype(np.float64, copy=False)
    positions = np.flatnonzero(scores)
    return Matches(positions, scores[positions], named)


def _weights(postings: Postings, wanted: Sequence[tuple[str, ...]]) -> _Weights:
    """Of every form in every memory that counts."""
    found, term = _found(postings, wanted)
    position = postings.position_of[postings.owners[found]]
    if postings.norms.size < postings.position_of.size:
        counts = position < postings.norms.size
        found, term, position = found[counts], term[counts], position[counts]
    weight = term_weights(postings.occurrences[found].astype(np.float64), postings.norms[position])
    return _Weights(position, term, weight)


def _found(postings: Postings, wanted: Sequence[tuple[str, ...]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where terms occur, and which of `wanted` each of them is."""
    hashes = np.array([term_hash(form) for forms in wanted for form in forms], np.int64)
    term_of = np.array([term for term, forms in enumerate(wanted) for _ in forms], np.intp)
    form, found = _equal(hashes, postings.hashes)
    return found, term_of[form]


def _named(postings: Postings, wanted: Sequence[tuple[str, ...]]) -> NDArray[np.intp]:
    if not postings.labels.size:
        return postings.labelled
    looked_for = np.array([label_hash(form) for forms in wanted for form in forms], np.int64)
    _, found = _equal(looked_for, postings.labels)
    positions = postings.labelled[found]
    return positions[positions < postings.norms.size]


def _equal(few: NDArray[np.int64], many: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the few, all distinct, are equal to which of the many: places in both."""
    if few.size > _FEW_FORMS:
        # A whole page as a query: one look at each of the many.
        order = np.argsort(few)
        found = np.flatnonzero(np.isin(many, few))
        return order[np.searchsorted(few, many[found], sorter=order)], found
    at_once = max(1, _COMPARED_AT_ONCE // max(1, many.size))
    pairs = [
        np.flatnonzero(many == few[first : first + at_once, np.newaxis]) + first * many.size
        for first in range(0, few.size, at_once)
    ]
    return np.divmod(np.concatenate((*pairs, np.zeros(0, np.intp))), max(1, many.size))


def _with_neighbours(weights: _Weights, links: Links, lent: float) -> _Weights:
    """With what the memories beside are lent."""
    position, term, weight = [weights.position], [weights.term], [weights.weight]
    for row, share in enumerate(shares(lent)):
        # Who has it before them comes after it, and the other way round: the rows of `links` are pairs.
        beside = links[row ^ 1, weights.position]
        there = np.flatnonzero(beside >= 0)
        position.append(beside[there])
        term.append(weights.term[there])
        weight.append(weights.weight[there] * share)
    return _Weights(np.concatenate(position), np.concatenate(term), np.concatenate(weight))
