"""`make bench`: this project beside the alternatives, on the same machine, data and embedding function.

    python -m tests.bench                 everything but growth; goes on where it was ended; then the bars
    python -m tests.bench --quick         a little of everything, to check the suite itself; its figures mean nothing
    python -m tests.bench --bars          judge the results that are there
    python -m tests.bench growth          curves of growth, point by point
    python -m tests.bench report          docs/benchmarks.md and its pictures, from the results alone

Runs in `.venv-bench`. Exits 1 if a bar is missed, and at once if a peer is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.bars import Judgement, judged
from tests.bench.plan import FULL, QUICK
from tests.bench.report import ms, page
from tests.bench.results import FILE
from tests.bench.side import ROOT

RESULTS = ROOT / "bench-results"
PAGE = ROOT / "docs" / "benchmarks.md"


def gathered(directory: Path) -> dict[str, Any]:
    """The results of the run, and of every point of growth beside them.

    Raises:
        SystemExit: There are none.
    """
    file = directory / FILE
    if not file.exists():
        raise SystemExit(f"no results in {directory}: run `make bench` first")
    document: dict[str, Any] = json.loads(file.read_text())
    points = sorted((directory / "growth").glob("*.json"))
    return document | {"growth": {point.stem: json.loads(point.read_text()) for point in points}}


def tell(judgements: Sequence[Judgement]) -> bool:
    """Print each bar with what was measured; whether all are good."""
    for each in judgements:
        measured = f"{ms(each.value)} {each.bar.unit}" if each.value is not None else ""
        limit = f"{each.bar.side} {each.bar.limit:g} {each.bar.unit}"
        print(f"{each.verdict:13} {each.bar.what:78} {limit:28} {measured}")
    return all(each.good for each in judgements)


def write_page(directory: Path, target: Path) -> None:
    """The page, its pictures and the JSON they are made of."""
    from tests.bench.curves import draw

    document = gathered(directory)
    beside = target.with_suffix("")
    draw(document, beside)
    (beside / FILE).write_text(json.dumps(document, indent=1) + "\n")
    target.write_text(page(document))
    print(f"written: {target} and {beside}")


def told_command(arguments: Sequence[str]) -> str:
    """The command that repeats it; where the results were put is of no interest to others."""
    told = list(arguments)
    if "--results" in told:
        at = told.index("--results")
        del told[at : at + 2]
    return " ".join(["python -m tests.bench", *told])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, judge, or write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("run", "growth", "report"), default="run")
    parser.add_argument("--quick", action="store_true", help="small numbers")
    parser.add_argument("--bars", action="store_true", help="measure nothing, judge what is there")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier run measured")
    parser.add_argument("--results", type=Path, help="directory of the results")
    parser.add_argument("--points", nargs="+", help="points of growth, such as total:1000,10000 tenants:1,100")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write; its pictures go beside it")
    given = parser.parse_args(arguments)
    directory = given.results or (RESULTS.with_name("bench-results-quick") if given.quick else RESULTS)
    plan = QUICK if given.quick else FULL
    command = told_command(sys.argv[1:] if arguments is None else arguments)
    if given.what == "report":
        write_page(directory, given.page)
        return 0
    if given.fresh and not given.bars:
        shutil.rmtree(directory / "growth" if given.what == "growth" else directory, ignore_errors=True)
    if given.what == "growth":
        from tests.bench.growth import POINTS, QUICK_POINTS, grow

        grow(directory, plan, given.points or list(QUICK_POINTS if given.quick else POINTS), command)
        return 0
    if not given.bars:
        from tests.bench.results import Results
        from tests.bench.suite import run

        run(Results(directory, asdict(plan), command), plan)
    good = tell(judged(gathered(directory)))
    # Small numbers judge nothing.
    return 0 if good or given.quick else 1


if __name__ == "__main__":
    sys.exit(main())
