"""The measurements of `make bench`: everybody side by side, this project at scale, its throughput."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from cloud.storage.embedded import EmbeddedPostgres
from tests.bench.contender import OPERATIONS, Place
from tests.bench.contenders import NAMES, contender_class
from tests.bench.databases import check_durability, make_databases
from tests.bench.figures import Round, cell
from tests.bench.plan import Plan
from tests.bench.results import Results
from tests.bench.side import ROOT, ChildEndedError, Side
from tests.support.homes import temporary_home

_BLOCKS = (("store", "delete"), ("retrieve",), ("search",), ("search_text",), ("retrieve_cold",))
"""What is measured in one go: what is stored is deleted in the same turn, so that everybody stays as large."""


def run(results: Results, plan: Plan) -> None:
    """Everything that is not done yet."""
    # Importing is what shows that a peer is there: before anything is measured.
    for name in NAMES:
        results.record(contender_class(name).title, "titles", name)
    side_by_side(results, plan)
    scale(results, plan)
    throughput(results, plan)


def side_by_side(results: Results, plan: Plan) -> None:
    """Every contender on the same data, in turns."""
    blocks = [(callers, block) for callers in plan.callers for block in _BLOCKS]
    open_blocks = [each for each in blocks if not results.has("side_by_side", "cells", _key(each[1][-1], each[0]))]
    if not open_blocks and results.has("side_by_side", "sizes"):
        return
    with sides(NAMES, results, plan, people=plan.people, section="side_by_side") as field:
        for callers, block in open_blocks:
            for operation, cells in _measured(field, block, callers, plan).items():
                results.record(cells, "side_by_side", "cells", _key(operation, callers))
                _tell(operation, callers, cells)
        sizes = {side.name: side.do("sizes") for side in field if not side.ended}
        results.record(sizes, "side_by_side", "sizes")


def scale(results: Results, plan: Plan) -> None:
    """This project with many more people, beside the physical limits, one caller."""
    if results.has("scale", "sizes"):
        return
    with sides(("ours", "limits"), results, plan, people=plan.scale_people, section="scale") as field:
        for block in _BLOCKS:
            for operation, cells in _measured(field, block, 1, plan, rounds=2 * plan.rounds).items():
                results.record(cells, "scale", "cells", _key(operation, 1))
                _tell(operation, 1, cells)
        results.record({side.name: side.do("sizes") for side in field}, "scale", "sizes")


def throughput(results: Results, plan: Plan) -> None:
    """This project under load that lasts; each part is written when it is done."""
    if results.has("throughput", "done"):
        return
    with temporary_home() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.throughput", str(home), json.dumps(asdict(plan))],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        for line in process.stdout:
            part, told = json.loads(line)
            results.record(told, "throughput", part)
            print(f"{part}: {told}", flush=True)
        if process.wait() != 0:
            raise SystemExit(f"the throughput part ended with {process.returncode}")


@contextmanager
def sides(
    names: Sequence[str], results: Results, plan: Plan, *, people: int, section: str, tenant_each: bool = False
) -> Iterator[list[Side]]:
    """Processes of these contenders, loaded, on one PostgreSQL that is durable."""
    callers = max(plan.callers)
    with ExitStack() as stack:
        home, work = stack.enter_context(temporary_home()), stack.enter_context(temporary_home())
        server = stack.enter_context(EmbeddedPostgres.open(home))
        urls = make_databases(server, home, [f"bench_{name}" for name in names])
        field = []
        for name in names:
            url = urls[f"bench_{name}"]
            results.record(check_durability(url), "durability", name)
            directory = work / name
            directory.mkdir(mode=0o700)
            server_pid = server.pid()
            assert server_pid is not None
            place = Place(directory, home, url, callers, server_pid, tenant_each)
            side = stack.enter_context(Side(name, place, results.log(name)))
            results.record(side.about["versions"], "versions", name)
            _say(f"{section}: {name} takes {people} × {plan.each} memories")
            loaded = side.do("load", people=people, each=plan.each, asked=plan.people)
            results.record(loaded | {"empty_memory_bytes": side.about["memory_bytes"]}, section, "loaded", name)
            field.append(side)
        yield field


def _measured(
    field: list[Side], block: tuple[str, ...], callers: int, plan: Plan, rounds: int | None = None
) -> dict[str, dict[str, Any]]:
    """Cells by operation and contender. Everybody has a turn in each round; every second round goes backwards."""
    rounds = rounds or plan.rounds
    done: dict[str, dict[str, list[Round]]] = {operation: {} for operation in block}
    for number in range(rounds):
        for side in field if number % 2 else reversed(field):
            for operation in block:
                if side.ended or operation not in contender_class(side.name).operations:
                    continue
                try:
                    one = side.round(operation, callers=callers, seconds=plan.seconds, most=plan.most)
                except ChildEndedError as error:
                    # With one caller, and for us, that ends the run. A peer that dies under load has shown its limit.
                    if callers == 1 or side.name in ("ours", "limits"):
                        raise
                    side.ended = f"its process ended with {error.code} at {operation}, {callers} callers"
                    _say(f"{side.name}: {side.ended}")
                    continue
                done[operation].setdefault(side.name, []).append(one)
    cells: dict[str, dict[str, Any]] = {
        operation: {name: cell(turns) for name, turns in by_name.items()} for operation, by_name in done.items()
    }
    for side in field:
        for operation in block:
            if side.ended:
                cells[operation].setdefault(side.name, cell([]))["ended"] = side.ended
    return cells


def _key(operation: str, callers: int) -> str:
    return f"{operation}/{callers}"


def _tell(operation: str, callers: int, cells: dict[str, Any]) -> None:
    for name, told in cells.items():
        failed = f", {told['failed']} failed" if told["failed"] else ""
        times = "  ".join(f"{share} {told[share]:9.3f}" for share in ("p50", "p95", "p99") if share in told)
        print(
            f"{operation:14} {callers:3} callers  {name:11} {times} ms  from {told['calls']} calls{failed}", flush=True
        )


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


assert {operation for block in _BLOCKS for operation in block} == set(OPERATIONS)
