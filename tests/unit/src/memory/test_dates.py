"""Months and years in a question."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from src.memory.dates import Period, period


@pytest.mark.parametrize(
    ("question", "months", "years"),
    [
        ("What did Ada do in May 2023?", {5}, {2023}),
        ("What happened on 7 May?", {5}, set()),
        ("What happened on May 7th, 2023?", {5}, {2023}),
        ("Who came on 2023-05-07 or in 2022-11?", {5, 11}, {2022, 2023}),
        ("Which trip was first, December or Sept?", {12, 9}, set()),
        ("What was planned for 2024?", set(), {2024}),
        ("May I ask what she may like?", set(), set()),
        ("Does April march?", set(), set()),
        ("Since march?", {3}, set()),
        ("Is it 12023 or 20231 or 1850?", set(), set()),
        ("Is it 2023-13?", set(), {2023}),
        ("", set(), set()),
    ],
)
def test_what_a_question_names(question: str, months: set[int], years: set[int]) -> None:
    found = period(question)
    assert (set(found.months), set(found.years)) == (months, years)
    assert bool(found) == bool(months or years)


def test_moments_of_a_period() -> None:
    moments = [
        "0001-01-01",
        "1969-12-31T23:59:59",
        "1970-01-01",
        "2023-05-31T23:59:59.999999",
        "2024-05-01",
        "9999-12-31",
    ]
    created_us = np.array([np.datetime64(datetime.fromisoformat(moment), "us").astype(np.int64) for moment in moments])

    def held(months: set[int], years: set[int]) -> list[int]:
        return np.flatnonzero(Period(frozenset(months), frozenset(years)).holds(created_us)).tolist()

    assert held({5}, set()) == [3, 4]
    assert held({5}, {2023}) == [3]
    assert held(set(), {1969, 9999}) == [1, 5]
    assert held({1}, set()) == [0, 2]
    assert held({12}, {1970}) == []
