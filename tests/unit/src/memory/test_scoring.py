"""Scores: against plain formulas, and the same whatever the order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from src.memory.scoring import (
    BM25_B,
    BM25_K1,
    best,
    cosines,
    inverse_distances,
    inverse_document_frequencies,
    length_norms,
    mean_direction,
    moments,
    recencies,
    standardized,
    term_weights,
)

scores = nps.arrays(np.float64, st.integers(0, 40), elements=st.sampled_from([-1.5, 0.0, 0.1, 0.3, 7.0]))


@pytest.mark.parametrize("dimensions", [3, 256, 1024, 2000])
def test_cosines_are_exact_in_any_order(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    # Large odd components of one sign: their sums are the first that floats would round.
    rows = random.integers(100, 128, (9000, dimensions)).astype(np.int8)
    rows[0] = 0
    rows[1], query = 127, np.full(dimensions, 127, np.int8)
    center = random.integers(-127, 128, dimensions).astype(np.int8)
    center[:] = np.where(random.random(dimensions) < 0.5, -127, center)
    squares = np.square(rows, dtype=np.int64).sum(axis=1)
    inverses = inverse_distances(rows, squares, center)
    found = cosines(rows, inverses, query, center)
    order = random.permutation(len(rows))
    assert np.array_equal(cosines(rows[order], inverses[order], query, center), found[order])
    assert found[0] == 0
    assert found[1] == pytest.approx(1, rel=1e-15)
    wide, asked = rows.astype(np.int64) - center, query.astype(np.int64) - center
    for row in (2, 4095, 4096, 8999):
        square = int(np.dot(wide[row], wide[row]))
        assert inverses[row] == 1 / math.sqrt(square)
        dot = int(np.dot(wide[row], asked))
        # Three roundings of 2**-53 each, and none in the sums.
        assert found[row] == pytest.approx(dot / math.sqrt(square * int(np.dot(asked, asked))), rel=1e-15)
    assert not cosines(rows, inverses, np.zeros(dimensions, np.int8), center).any()
    assert cosines(rows, inverses, center, center).tolist() == [0.0] * len(rows)


@pytest.mark.parametrize("dimensions", [64, 256, 1536])
def test_no_product_is_so_large_that_threads_are_started_for_it(
    dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers would wait for each other's: OpenBLAS shares a product of more than 460,800 numbers."""
    sizes: list[int] = []
    real = np.dot

    def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        sizes.append(first.size)
        return real(first, second)

    monkeypatch.setattr(np, "dot", dot)
    rows = np.ones((10_000, dimensions), np.int8)
    inverse_distances(rows, np.full(10_000, dimensions), np.ones(dimensions, np.int8))
    assert max(sizes) < 460_800
    assert sum(sizes) == rows.size + dimensions


def test_rows_without_a_direction_do_not_count_in_the_mean() -> None:
    rows = np.array([[0, 0], [100, -3], [50, -4]], np.int8)
    assert mean_direction(rows, np.array([0, 10_009, 2_516])).tolist() == [75, -4]
    assert mean_direction(rows[:1], np.array([0])).tolist() == [0, 0]


def test_the_newest_counts_whole_and_one_30_days_older_half() -> None:
    day_us = 24 * 3600 * 1_000_000
    assert recencies(np.array([0, 30 * day_us, 60 * day_us])).tolist() == [1 / 3, 1 / 2, 1]


@given(scores, st.randoms(use_true_random=False))
def test_moments_are_those_of_the_scores_in_any_order(values: np.ndarray, random) -> None:
    mean, deviation = moments(values)
    if values.size:
        assert mean == pytest.approx(values.mean(), abs=1e-5)
        assert deviation == pytest.approx(values.std(), abs=1e-5)
    order = list(range(values.size))
    random.shuffle(order)
    assert moments(values[order]) == (mean, deviation)


@pytest.mark.parametrize("count", [2, 1_000, 50_000, 1_000_000])
def test_moments_of_many_scores_are_exact_sums_too(count: int) -> None:
    random = np.random.default_rng(count)
    values = random.normal(3, 0.1, count)
    mean, deviation = moments(values)
    assert (mean, deviation) == (pytest.approx(values.mean(), rel=1e-4), pytest.approx(values.std(), rel=1e-3))
    for _ in range(5):
        assert moments(random.permutation(values)) == (mean, deviation)


@given(scores, st.integers(1, 5))
def test_zeros_count_as_if_they_were_there(values: np.ndarray, zeros: int) -> None:
    if values.size:
        assert moments(values, zeros) == pytest.approx(moments(np.append(values, np.zeros(zeros))), abs=1e-9)
    else:
        assert moments(values, zeros) == (0.0, 0.0)


def test_scores_that_do_not_differ_count_nothing() -> None:
    found, mean = standardized(np.full(9, 0.3), 2.0)
    assert (found.tolist(), mean) == ([0.0] * 9, 0.0)


@given(scores)
def test_a_mixture_weighs_what_was_brought_to_the_same_spread(values: np.ndarray) -> None:
    other = np.arange(values.size, dtype=np.float64)
    one, mean = standardized(values, 0.5)
    two, other_mean = standardized(other, 2.0)
    found = one + two - (mean + other_mean)
    expected = np.zeros(values.size)
    for weight, part in ((0.5, values), (2.0, other)):
        if len(set(part.tolist())) > 1:
            expected += weight * (part - part.mean()) / part.std()
    assert found == pytest.approx(expected, abs=1e-4)


@given(scores, st.integers(1, 45), st.data())
def test_best_is_what_sorting_everything_gives(values: np.ndarray, limit: int, data: st.DataObject) -> None:
    created = data.draw(nps.arrays(np.int64, values.size, elements=st.integers(0, 2)))
    ids = data.draw(st.permutations([f"id{n:02}" for n in range(values.size)]))
    expected = sorted(range(values.size), key=lambda at: (-values[at], -created[at], ids[at]))[:limit]
    assert best(values, created, lambda at: ids[at], limit) == expected


def test_bm25_parts_are_those_of_the_formula() -> None:
    expected = [math.log(1 + 10.5 / 0.5), math.log(1 + 7.5 / 3.5), math.log(1 + 0.5 / 10.5)]
    assert inverse_document_frequencies([0, 3, 10], 10).tolist() == pytest.approx(expected)
    weight = term_weights(np.array([2.0]), length_norms(np.array([6], np.uint32), 4.0))
    assert weight.tolist() == pytest.approx([2 * (BM25_K1 + 1) / (2 + BM25_K1 * (1 - BM25_B + BM25_B * 6 / 4))])
