"""Scores of candidates and how they are put together: pure functions over arrays.

Every score is a float64 array with one number per candidate, so a further feature is one more array to standardize
and add. All of them give the same numbers for the same contents in whatever order the contents are held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

# Saturation and length norm as usual for short passages (Source: Robertson and Zaragoza 2009, §3.2).
BM25_K1 = 0.9
BM25_B = 0.4

_EXACT_IN_FLOAT32 = 1024  # 1,024 products of two int8 sum to at most 2**24, exact in float32 in any order.
_ROWS_AT_ONCE = 4096  # Bounds the widened copy to 4 MB at 256 dimensions.


@dataclass(frozen=True, slots=True)
class RankingWeights:
    """How much each standardized score counts.

    Attributes:
        lexical: Weight of BM25, ≥ 0.
        dense: Weight of the cosine, ≥ 0.
    """

    lexical: float = 0.5
    dense: float = 0.5


def inverse_document_frequencies(frequencies: NDArray[np.int64], documents: int) -> Scores:
    """How telling each term is: positive, the larger the rarer.

    Args:
        frequencies: (t,) number of documents that hold the term, 0 to `documents`.
        documents: Number of documents.

    Returns:
        (t,) float64.
    """
    # Not numpy's logarithm: its last bit may depend on the place in the array.
    return np.array([math.log1p((documents - n + 0.5) / (n + 0.5)) for n in frequencies.tolist()], np.float64)


def term_weights(counts: Scores, lengths: Scores, mean_length: float) -> Scores:
    """How much a term's occurrences count in documents of these lengths: 0 to `BM25_K1` + 1.

    Args:
        counts: (p,) occurrences of a term in a document, ≥ 1.
        lengths: (p,) terms in that document, ≥ 1.
        mean_length: Mean number of terms of all documents, > 0.

    Returns:
        (p,) float64.
    """
    norm = BM25_K1 * (1.0 - BM25_B + BM25_B * lengths / mean_length)
    return counts * (BM25_K1 + 1.0) / (counts + norm)


def cosines(rows: NDArray[np.int8], squared_lengths: NDArray[np.int64], query: NDArray[np.int8]) -> Scores:
    """Cosine of each row with the query; exact up to one division, whatever the order of the rows.

    Args:
        rows: (n, d) int8.
        squared_lengths: (n,) squared length of each row.
        query: (d,) int8.

    Returns:
        (n,) float64 from -1 to 1; 0 where a row or the query is all zeros.
    """
    # int8 has no fast product; as floats the sums of whole numbers stay exact.
    wide: type[np.float32 | np.float64] = np.float32 if query.size <= _EXACT_IN_FLOAT32 else np.float64
    wide_query = query.astype(wide)
    dots: Scores = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        dots[start:end] = np.dot(rows[start:end].astype(wide), wide_query)
    squares = squared_lengths * int(np.square(query, dtype=np.int64).sum())
    return np.divide(dots, np.sqrt(squares), out=np.zeros_like(dots), where=squares > 0)


def standardized(scores: Scores) -> Scores:
    """The scores with mean 0 and standard deviation 1; all zero if they do not differ.

    Args:
        scores: (n,) float64.

    Returns:
        (n,) float64.
    """
    # Sorted first: rounding in a sum depends on the order, and equal contents must give equal scores.
    ordered = np.sort(scores)
    if not ordered.size or ordered[0] == ordered[-1]:
        return np.zeros_like(scores)
    mean = float(ordered.mean())
    deviation = math.sqrt(float(np.square(ordered - mean).mean()))
    return (scores - mean) / deviation


def best(scores: Scores, created_us: NDArray[np.int64], id_of: Callable[[int], str], limit: int) -> list[int]:
    """Positions of the `limit` best scores, best first; ties newest first, then by id.

    Args:
        scores: (n,) float64.
        created_us: (n,) time of creation, any unit.
        id_of: The id at a position; ids are distinct.
        limit: ≥ 1.

    Returns:
        At most `limit` positions.
    """
    positions = np.arange(scores.size)
    if scores.size > limit:
        threshold = np.partition(scores, scores.size - limit)[scores.size - limit]
        positions = np.flatnonzero(scores >= threshold)
    order = positions[np.lexsort((-created_us[positions], -scores[positions]))]
    if order.size > limit:
        # Cut after the last one that ties in both, so that ids decide within the tie and nothing else is compared.
        last = order[limit - 1]
        tied = (scores[order] == scores[last]) & (created_us[order] == created_us[last])
        order = order[: int(np.flatnonzero(tied)[-1]) + 1]
    ranked = sorted(order.tolist(), key=lambda at: (-scores[at], -created_us[at], id_of(at)))
    return ranked[:limit]
