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
_TERMS_AT_ONCE = 64  # A number for each of them in each memory is held.


@dataclass(frozen=True, slots=True)
class Postings:
    """What is known of the terms of n memories.

    Attributes:
        hashes: (p,) of a term or of a label's.
        owners: (p,) row of the memory it belongs to.
        occurrences: (p,) how often it occurs there.
        position_of: (r,) position of the memory in each row, from 0 to n - 1; n for one that does not count.
        norms: (n + 1,) how much each memory's length weakens its terms; the last is for those that do not count.
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
            norms=np.append(length_norms(lengths, int(lengths.sum()) / lengths.size), 1.0),
            labels=hashes[of_labels],
            labelled=position_of[owners[of_labels]],
        )


@dataclass(frozen=True, slots=True)
class Matches:
    """How well n memories match.

    Attributes:
        scores: (n,) BM25 with neighbours.
        named: (n,) whether the query names the memory's label; `None` if no memory has one.
    """

    scores: Scores
    named: NDArray[np.bool_] | None


def matches(postings: Postings, wanted: Sequence[tuple[str, ...]], links: Links, lent: float) -> Matches:
    """How well each memory matches `wanted`; no sum depends on the order that memories or postings are held in.

    Args:
        postings: Of the memories.
        wanted: Terms to look for, each in one form or several.
        links: Neighbours of the memories.
        lent: How much a term counts in the memory beside, 0 to 1.
    """
    count = postings.norms.size - 1
    named = _named(postings, wanted) if postings.labels.size else None
    scores = np.zeros(count)
    found, term = _found(postings, wanted)
    for first in range(0, len(wanted), _TERMS_AT_ONCE) if found.size else ():
        terms = wanted[first : first + _TERMS_AT_ONCE]
        mine = (term >= first) & (term < first + len(terms)) if len(terms) < len(wanted) else slice(None)
        weights = _weights(postings, found[mine], term[mine] - first, len(terms))
        frequencies = [int(np.count_nonzero(of_term)) for of_term in weights]
        weights *= inverse_document_frequencies(frequencies, count)[:, np.newaxis]
        # Row by row, as the query has the terms: how a memory's sum is rounded does not depend on its place.
        scores += _with_neighbours(weights, links, lent).sum(axis=0)[:count]
    return Matches(scores, named)


def _found(postings: Postings, wanted: Sequence[tuple[str, ...]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where terms occur, and which of `wanted` each of them is."""
    hashes = np.array([term_hash(form) for forms in wanted for form in forms], np.int64)
    term_of = np.array([term for term, forms in enumerate(wanted) for _ in forms], np.intp)
    if hashes.size <= _FEW_FORMS:
        places = [np.flatnonzero(postings.hashes == number) for number in hashes]
        found = np.concatenate((*places, np.zeros(0, np.intp)))
        return found, np.repeat(term_of, [place.size for place in places])
    # A whole page as a query: one look at each posting for all of its terms.
    order = np.argsort(hashes)
    found = np.flatnonzero(np.isin(postings.hashes, hashes))
    return found, term_of[order[np.searchsorted(hashes[order], postings.hashes[found])]]


def _weights(postings: Postings, found: NDArray[np.intp], term: NDArray[np.intp], terms: int) -> Scores:
    """(terms, n + 1) how much each term counts in each memory and, last, in nobody."""
    position = postings.position_of[postings.owners[found]]
    weights = np.zeros((terms, postings.norms.size))
    # Of several forms in one memory the strongest counts.
    np.maximum.at(
        weights.reshape(-1),
        term * postings.norms.size + position,
        term_weights(postings.occurrences[found].astype(np.float64), postings.norms[position]),
    )
    weights[:, -1] = 0.0
    return weights


def _named(postings: Postings, wanted: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    looked_for = np.array([label_hash(form) for forms in wanted for form in forms], np.int64)
    named = np.zeros(postings.norms.size, np.bool_)
    named[postings.labelled[np.isin(postings.labels, looked_for)]] = True
    return named[:-1]


def _with_neighbours(weights: Scores, links: Links, lent: float) -> Scores:
    if not lent or not links.size:
        return weights
    strongest = weights.copy()
    for beside, share in zip(links, shares(lent), strict=True):
        # Nobody is at -1, the last place, which is empty.
        np.maximum(strongest[:, :-1], weights[:, beside] * share, out=strongest[:, :-1])
    return strongest
