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
    inverse_document_frequencies,
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
    squares = np.square(rows, dtype=np.int64).sum(axis=1)
    found = cosines(rows, squares, query)
    order = random.permutation(len(rows))
    assert np.array_equal(cosines(rows[order], squares[order], query), found[order])
    assert found[0] == 0
    assert found[1] == 1
    for row in (2, 4095, 4096, 8999):
        dot = int(np.dot(rows[row].astype(np.int64), query.astype(np.int64)))
        assert found[row] == dot / math.sqrt(int(squares[row]) * 127 * 127 * dimensions)
    assert not cosines(rows, squares, np.zeros(dimensions, np.int8)).any()


@given(scores, st.randoms(use_true_random=False))
def test_standardized_has_mean_0_deviation_1_and_no_order(values: np.ndarray, random) -> None:
    found = standardized(values)
    if len(set(values.tolist())) < 2:
        assert not found.any()
    else:
        assert found.mean() == pytest.approx(0, abs=1e-9)
        assert found.std() == pytest.approx(1)
    order = list(range(values.size))
    random.shuffle(order)
    assert np.array_equal(standardized(values[order]), found[order])


@given(scores, st.integers(1, 45), st.data())
def test_best_is_what_sorting_everything_gives(values: np.ndarray, limit: int, data: st.DataObject) -> None:
    created = data.draw(nps.arrays(np.int64, values.size, elements=st.integers(0, 2)))
    ids = data.draw(st.permutations([f"id{n:02}" for n in range(values.size)]))
    expected = sorted(range(values.size), key=lambda at: (-values[at], -created[at], ids[at]))[:limit]
    assert best(values, created, lambda at: ids[at], limit) == expected


def test_bm25_parts_are_those_of_the_formula() -> None:
    expected = [math.log(1 + 10.5 / 0.5), math.log(1 + 7.5 / 3.5), math.log(1 + 0.5 / 10.5)]
    assert inverse_document_frequencies(np.array([0, 3, 10]), 10).tolist() == pytest.approx(expected)
    weight = term_weights(np.array([2.0]), np.array([6.0]), 4.0)
    assert weight.tolist() == pytest.approx([2 * (BM25_K1 + 1) / (2 + BM25_K1 * (1 - BM25_B + BM25_B * 6 / 4))])
