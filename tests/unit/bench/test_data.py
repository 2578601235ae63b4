"""What everybody is measured with, and where results are kept."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import pytest

from tests.bench.data import items, queries
from tests.bench.growth import parsed, shape
from tests.bench.results import FILE, Results


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert list(itertools.islice(items("a"), 50)) == list(itertools.islice(items("a"), 50))
    assert list(itertools.islice(queries("a"), 5)) == list(itertools.islice(queries("a"), 5))
    assert next(items("a")) != next(items("b"))
    assert next(items("a", seed=1)) != next(items("a", seed=2))


def test_a_sentence_has_about_a_hundred_characters() -> None:
    lengths = [len(item.text) for item in itertools.islice(items("lengths"), 500)]
    assert 90 <= statistics.mean(lengths) <= 125
    assert max(lengths) < 180


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    first = Results(tmp_path, {"people": 1}, "run")
    first.record({"p95": 1.0}, "cells", "store")
    again = Results(tmp_path, {"people": 1}, "run")
    assert again.has("cells", "store")
    assert not again.has("cells", "delete")


def test_figures_of_another_plan_are_not_mixed_in(tmp_path: Path) -> None:
    Results(tmp_path, {"people": 1}, "run")
    with pytest.raises(SystemExit, match="another plan"):
        Results(tmp_path, {"people": 2}, "run")


def test_figures_of_other_code_are_not_mixed_in(tmp_path: Path) -> None:
    Results(tmp_path, {"people": 1}, "run")
    file = tmp_path / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "of-another-day"}))
    with pytest.raises(SystemExit, match="another commit"):
        Results(tmp_path, {"people": 1}, "run")


def test_points_of_growth() -> None:
    assert parsed(["tenants:100,1", "total:1000"]) == [("tenants", 1), ("tenants", 100), ("total", 1_000)]
    assert shape("total", 1_000_000, 1_000) == (1_000, 1_000)
    assert shape("total", 100, 1_000) == (1, 100)
    assert shape("subject", 50_000, 1_000) == (1, 50_000)
    assert shape("tenants", 10_000, 1_000) == (10_000, 20)
    with pytest.raises(ValueError, match="no such growth"):
        parsed(["people:3"])
