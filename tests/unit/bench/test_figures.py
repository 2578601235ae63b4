"""Percentiles, cells and ratios."""

from __future__ import annotations

import pytest

from tests.bench.figures import Round, cell, percentile, ratio
from tests.unit.bench.documents import cell_of


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.01) == 7


def test_of_no_values_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_cell_pools_the_calls_of_its_rounds() -> None:
    rounds = [Round([1.0, 2.0], 0, 1.0, {"own": 8.0}), Round([3.0, 10.0], 1, 1.0, {"own": 12.0}, errors=["Busy"])]
    told = cell(rounds)
    assert (told["calls"], told["failed"], told["errors"]) == (4, 1, ["Busy"])
    assert (told["p50"], told["p95"], told["per_s"]) == (2.0, 10.0, 2.0)
    # Failed calls cost processor time as well.
    assert told["cpu_ms_per_call"] == {"own": 4.0}


def test_a_cell_without_a_call_that_succeeded_has_no_times() -> None:
    told = cell([Round([], 3, 1.0, {"own": 1.0}, errors=["Busy"])])
    assert told["failed"] == 3
    assert "p95" not in told


def test_ratios_are_made_round_by_round() -> None:
    """One slow moment of the machine is in one round of both, and so in no ratio."""
    slow = cell([Round([4.0], 0, 1, {}), Round([40.0], 0, 1, {}), Round([4.4], 0, 1, {})])
    fast = cell([Round([2.0], 0, 1, {}), Round([20.0], 0, 1, {}), Round([2.0], 0, 1, {})])
    found = ratio(slow, fast, "p95")
    assert found is not None
    assert found.document() == {"middle": 2.0, "least": 2.0, "most": 2.2}


def test_what_was_not_measured_has_no_ratio() -> None:
    assert ratio({}, cell_of(1.0), "p95") is None
