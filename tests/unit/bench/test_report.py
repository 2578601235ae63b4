"""The page of the benchmarks, out of results alone."""

from __future__ import annotations

from tests.bench.__main__ import told_command
from tests.bench.report import page
from tests.unit.bench.documents import TITLES, cell_of, document


def test_the_page_shows_every_bar_contender_and_operation() -> None:
    written = page(document())
    for title in TITLES.values():
        assert title in written
    for heading in ("## Bars", "### store", "### retrieve, cold", "## At scale", "## Throughput", "## Growth"):
        assert heading in written
    assert "| store | 4.0 (4.0–4.0) | 4.0 (4.0–4.0) | 4.0 (4.0–4.0) | 4.0 (4.0–4.0) |" in written
    assert "missed" not in written.split("## Beside", 1)[0].replace("is\nmissed", "")


def test_the_same_results_give_the_same_page() -> None:
    assert page(document()) == page(document())


def test_a_missed_bar_cannot_be_overlooked() -> None:
    assert "| at most 3 ms | 9.00 ms | **missed** |" in page(document(ours_ms=9.0))


def test_failed_calls_and_dead_processes_stand_beside_the_times() -> None:
    told = document()
    cells = told["side_by_side"]["cells"]["store/1"]
    ended = cell_of(8.0) | {"ended": "its process ended with -11"}
    told["side_by_side"]["cells"]["store/1"] = cells | {"mem0": cell_of(8.0, failed=3), "pixeltable": ended}
    written = page(told)
    assert "6 failed (OperationalError)" in written
    assert "its process ended with -11" in written


def test_what_was_not_measured_is_said_to_be() -> None:
    told = document()
    del told["growth"]
    written = page(told)
    assert "Not measured in this run." in written
    assert "| not measured |" in written


def test_how_the_numbers_are_made_and_by_what_is_on_the_page() -> None:
    written = page(document())
    for fact in ("0123456789ab", "2 cores", "psycopg 3.3", "`python -m tests.bench`", "2026-01-01T00:00:00Z", "fsync"):
        assert fact in written


def test_points_of_growth_name_their_commits_in_the_order_of_time() -> None:
    assert "from 2026-01-02T00:00:01Z on, at `f42400000000`, `271000000000`." in page(document())


def test_the_command_that_is_told_names_no_directory_of_this_machine() -> None:
    told = told_command(["growth", "--results", "/home/somebody", "--points", "total:10"])
    assert told == "python -m tests.bench growth --points total:10"
    assert told_command(["--fresh"]) == "python -m tests.bench --fresh"


def test_small_numbers_are_not_mistaken_for_a_measurement() -> None:
    assert "These results are of small numbers" in page(document())
    told = document()
    told["plan"]["each"] = 1_000
    assert "These results are of small numbers" not in page(told)
