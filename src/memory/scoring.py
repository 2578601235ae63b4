"""Scores of candidates and how they are put together: pure functions over arrays.

Every score is a float64 array with one number per candidate. All of them give the same numbers for the same contents in
whatever order the contents are held.

At an array of more than 500 numbers NumPy gives the interpreter up for each step, and another thread of a busy service
takes it: ranking 1,000 memories in eight threads took three times as long as in one. So there are few such steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

# Saturation and length norm as usual for short passages (Source: Robertson and Zaragoza 2009, §3.2).
BM25_K1 = 0.9
BM25_B = 0.4

_EXACT_IN_FLOAT32 = 520  # So many products of int8 with numbers up to 254 sum to at most 2**24, exact in float32.
_EXACT_BITS = 53  # Whole numbers up to 2**53 are exact in float64.
_RECENT_US = 30 * 24 * 3600 * 1_000_000
# Above 460,000 numbers OpenBLAS shares a product among threads of its own, which wait for each other without sleeping:
# with eight readers at once on two busy cores, 8,000 rows took 75 ms of each and take 1.
_NUMBERS_AT_ONCE = 2**18


@dataclass(frozen=True, slots=True)
class RankingWeights:
    """How much each score counts; all ≥ 0. Unless said otherwise, in standard deviations of the mixed scores' parts.

    Attributes:
        lexical: Weight of the standardized BM25.
        dense: Weight of the standardized cosine.
        neighbours: Share of its scores that a memory lends to the next one of its session, 0 to 1.
        names: What a memory gets on top whose label (`Ada: …`) the question names.
        dates: What a memory gets on top that was made in a month or year which the question names.
        recency: What the newest memory gets on top; one that is 30 days older gets half of it.
        confidence: What a memory of confidence 1 gets on top; others in proportion.
    """

    lexical: float = 0.6
    dense: float = 0.4
    neighbours: float = 0.6
    names: float = 0.6
    dates: float = 1.0
    recency: float = 0.0
    confidence: float = 0.0


def inverse_document_frequencies(frequencies: Sequence[int], documents: int) -> Scores:
    """How telling each term is: positive, the larger the rarer.

    Args:
        frequencies: For each of t terms, how many documents hold it, 0 to `documents`.
        documents: Number of documents.

    Returns:
        (t,) float64.
    """
    # Not numpy's logarithm: its last bit may depend on the place in the array.
    return np.array([math.log1p((documents - n + 0.5) / (n + 0.5)) for n in frequencies], np.float64)


def length_norms(lengths: NDArray[np.uint32], mean_length: float) -> Scores:
    """How much documents of these lengths weaken their terms: more, the longer they are.

    Args:
        lengths: (n,) terms in each document.
        mean_length: Mean number of terms of all documents; 0 if none has any.

    Returns:
        (n,) float64 > 0.
    """
    norms: Scores = BM25_K1 * (1.0 - BM25_B + BM25_B * lengths.astype(np.float64) / max(mean_length, 1e-9))
    return norms


def term_weights(counts: Scores, norms: Scores) -> Scores:
    """How much a term's occurrences count: 0 to `BM25_K1` + 1.

    Args:
        counts: (p,) occurrences of a term in a document, ≥ 1.
        norms: (p,) that document's norm, as `length_norms` has it.

    Returns:
        (p,) float64.
    """
    return counts * (BM25_K1 + 1.0) / (counts + norms)


def mean_direction(rows: NDArray[np.int8], squared_lengths: NDArray[np.int64]) -> NDArray[np.int8]:
    """What the rows have in common: their mean, rounded; rows of zeros do not count.

    Args:
        rows: (n, d) int8.
        squared_lengths: (n,) squared length of each row.

    Returns:
        (d,) int8; zeros if no row counts.
    """
    count = int(np.count_nonzero(squared_lengths))
    sums = rows.sum(axis=0, dtype=np.int64)
    rounded: NDArray[np.int8] = np.rint(sums / max(count, 1)).astype(np.int8)
    return rounded


def inverse_distances(rows: NDArray[np.int8], squared_lengths: NDArray[np.int64], center: NDArray[np.int8]) -> Scores:
    """One by each row's distance from `center`; 0 for the center, and for a row of zeros, which has no direction.

    Args:
        rows: (n, d) int8.
        squared_lengths: (n,) squared length of each row.
        center: (d,) int8.

    Returns:
        (n,) float64.
    """
    wide = center.astype(np.int64)
    squares = squared_lengths - 2 * _dots(rows, wide).astype(np.int64) + int(np.dot(wide, wide))
    return inverse_roots(np.where(squared_lengths > 0, squares, 0))


def inverse_roots(squares: NDArray[np.int64]) -> Scores:
    """One by the root of each number ≥ 0; 0 for none."""
    roots = np.sqrt(squares)
    return np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0)


def cosines(rows: NDArray[np.int8], inverses: Scores, query: NDArray[np.int8], center: NDArray[np.int8]) -> Scores:
    """Cosine of each row with the query, both seen from `center`, in whatever order the rows are.

    Mean vectors of texts point much the same way. What tells them apart is how they differ from the mean of them all.

    Args:
        rows: (n, d) int8.
        inverses: (n,) of each row's distance from `center`, as `inverse_distances` has it.
        query: (d,) int8.
        center: (d,) int8.

    Returns:
        (n,) float64 from -1 to 1 but for rounding; 0 where a row or the query is all zeros or is the center.
    """
    direction = np.subtract(query, center, dtype=np.int64)
    square = int(np.add.reduce(direction * direction))
    if not square or not query.any():
        return np.zeros(len(rows))
    dots = _dots(rows, direction, less=int(np.add.reduce(center * direction)))
    # Whole numbers up to here.
    dots *= inverses
    dots /= math.sqrt(square)
    return dots


def _dots(rows: NDArray[np.int8], direction: NDArray[np.int64], less: int = 0) -> Scores:
    # int8 has no fast product; as floats the sums of whole numbers stay exact.
    wide: type[np.float32 | np.float64] = np.float32 if direction.size <= _EXACT_IN_FLOAT32 else np.float64
    wide_direction = direction.astype(wide)
    dots: Scores = np.empty(len(rows))
    rows_at_once = max(1, _NUMBERS_AT_ONCE // direction.size)
    for start in range(0, len(rows), rows_at_once):
        end = start + rows_at_once
        product = np.dot(rows[start:end].astype(wide), wide_direction)
        np.subtract(product, less, out=dots[start:end], dtype=np.float64)
    return dots


def recencies(created_us: NDArray[np.int64]) -> Scores:
    """How new each memory is beside the newest: 1 for that, then 1/2, 1/3, 1/4 … at 30, 60, 90 … days.

    Args:
        created_us: (n,) time of creation in microseconds, n ≥ 1.

    Returns:
        (n,) float64.
    """
    ages: Scores = (created_us.max() - created_us) / _RECENT_US
    return 1.0 / (1.0 + ages)


def standardized(scores: Scores, weight: float, zeros: int = 0) -> tuple[Scores, float]:
    """Scores in standard deviations, times `weight`, and what to take from each so that their mean is 0.

    Scores that do not differ count nothing.

    Args:
        scores: (n,) float64.
        weight: How much they count.
        zeros: So many scores more are 0.

    Returns:
        (n,) float64, and their mean with the zeros.
    """
    mean, deviation = moments(scores, zeros)
    if not deviation:
        return np.zeros(scores.size), 0.0
    return scores * (weight / deviation), mean * (weight / deviation)


def moments(scores: Scores, zeros: int = 0) -> tuple[float, float]:
    """Mean and standard deviation, in steps of a millionth of the spread or less: the same in whatever order.

    Args:
        scores: (n,) float64.
        zeros: So many scores more are 0.
    """
    if not scores.size:
        return 0.0, 0.0
    lowest, highest = float(np.minimum.reduce(scores)), float(np.maximum.reduce(scores))
    if zeros:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    spread = highest - lowest
    if not spread:
        return lowest, 0.0
    count = scores.size + zeros
    # Whole numbers, so small that their squares add up exactly: rounding in a sum would depend on the order, and equal
    # contents must give equal scores.
    steps = 2.0 ** ((_EXACT_BITS - count.bit_length()) // 2)
    whole = (scores - lowest) / spread
    whole *= steps
    np.rint(whole, out=whole)
    zero = round(-lowest / spread * steps)
    total = int(np.add.reduce(whole)) + zeros * zero
    squares = int(np.dot(whole, whole)) + zeros * zero * zero
    unit = spread / (count * steps)
    return lowest + total * unit, math.sqrt(count * squares - total * total) * unit


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
    if scores.size > limit:
        threshold = np.partition(scores, scores.size - limit)[scores.size - limit]
        positions = np.flatnonzero(scores >= threshold)
    else:
        positions = np.arange(scores.size)
    if positions.size > limit:
        # Without those that come after the last one in any case, so that ids decide within its tie and no others are
        # looked at.
        order = positions[np.lexsort((-created_us[positions], -scores[positions]))]
        last = order[limit - 1]
        tied = (scores[order] == scores[last]) & (created_us[order] == created_us[last])
        positions = order[: int(np.flatnonzero(tied)[-1]) + 1]
    keys = zip((-scores[positions]).tolist(), (-created_us[positions]).tolist(), positions.tolist(), strict=True)
    ranked = sorted(keys, key=lambda key: (key[0], key[1], id_of(key[2])))
    return [at for _, _, at in ranked[:limit]]
