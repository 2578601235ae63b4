"""The judgement of a run by the bars."""

from __future__ import annotations

import dataclasses

import pytest

from tests.bench.bars import Bar, Judgement, all_bars, judged
from tests.unit.bench.documents import cell_of, document


def test_every_bar_finds_its_value_in_a_whole_run() -> None:
    assert [(each.bar.what, each.verdict) for each in judged(document()) if each.verdict != "holds"] == []


def test_without_results_nothing_holds() -> None:
    assert {each.verdict for each in judged({})} == {"not measured"}
    assert [each.bar.what for each in judged({}) if each.good] == ["hot retrieve at 1,000,000 by that at 10,000: p95"]


@pytest.mark.parametrize(("value", "verdict"), [(3.0, "holds"), (3.01, "missed"), (None, "not measured")])
def test_the_limit_itself_holds(value: float | None, verdict: str) -> None:
    bar = Bar("store", 3.0, "ms", "at most", lambda _: value)
    assert Judgement(bar, bar.value({})).verdict == verdict


def test_as_fast_as_a_peer_is_not_faster() -> None:
    bar = Bar("store", 1.0, "×", "below", lambda _: 1.0)
    assert Judgement(bar, 1.0).verdict == "missed"
    assert Judgement(dataclasses.replace(bar, side="at least"), 1.0).verdict == "holds"


def test_a_slow_store_misses_all_of_its_bars() -> None:
    missed = {each.bar.what for each in judged(document(ours_ms=9.0)) if each.verdict == "missed"}
    assert "store, one caller, at scale: p95" in missed
    assert "store, one caller: p95 by that of the fastest persistent peer" in missed
    assert "store by a bare committed INSERT, p50 of interleaved rounds" in missed


def test_the_fastest_peer_is_the_one_to_beat() -> None:
    told = document()
    told["side_by_side"]["cells"]["store/1"] = told["side_by_side"]["cells"]["store/1"] | {"mem0": cell_of(1.0)}
    verdicts = {each.bar.what: each.verdict for each in judged(told)}
    assert verdicts["store, one caller: p95 by that of the fastest persistent peer"] == "missed"


def test_without_one_of_the_peers_nobody_was_beaten() -> None:
    told = document()
    cells = told["side_by_side"]["cells"]["delete/1"]
    told["side_by_side"]["cells"]["delete/1"] = {name: cells[name] for name in cells if name != "langgraph"}
    verdicts = {each.bar.what: each.verdict for each in judged(told)}
    assert verdicts["delete, one caller: p95 by that of the fastest persistent peer"] == "not measured"


def test_a_backlog_that_grows_is_not_bounded() -> None:
    told = document()
    told["throughput"]["stores"]["backlog"] = [0, 2_000, 4_000, 6_000, 8_000, 10_000]
    assert "backlog at the end of these stores by that of the middle" in {
        each.bar.what for each in judged(told) if each.verdict == "missed"
    }


def test_no_bar_is_told_twice() -> None:
    names = [bar.what for bar in all_bars()]
    assert len(names) == len(set(names))
