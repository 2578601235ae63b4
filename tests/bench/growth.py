"""How the operations fare as there is more: in all, in one person, and in tenants. One file of JSON per point.

A point has a home of its own, so a run that was ended goes on with the points that are missing:

    python -m tests.bench growth --points total:1000,10000,100000,1000000 subject:100,10000,50000 tenants:1,100,10000
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.figures import cell
from tests.bench.plan import Plan
from tests.bench.results import Results
from tests.bench.suite import sides

POINTS = ("total:1000,10000,100000,1000000", "subject:100,10000,50000", "tenants:1,100,10000")
QUICK_POINTS = ("total:60,120", "subject:60,120", "tenants:1,4")
TENANT_HOLDS = 20
"""Memories of each tenant, all of one person, where it is tenants that become more."""
_OPERATIONS = ("retrieve", "search", "search_text", "retrieve_cold")


def parsed(points: list[str]) -> list[tuple[str, int]]:
    """Kind and number of each point, smallest first within a kind.

    Raises:
        ValueError: One is not of the form `kind:number,number`.
    """
    found = []
    for point in points:
        kind, _, numbers = point.partition(":")
        if kind not in ("total", "subject", "tenants"):
            raise ValueError(f"no such growth: {kind}")
        found += [(kind, int(number)) for number in sorted(numbers.split(","), key=int)]
    return found


def shape(kind: str, number: int, each: int) -> tuple[int, int]:
    """How many people with how many memories each a point has."""
    match kind:
        case "total":
            return max(1, number // each), min(each, number)
        case "subject":
            return 1, number
        case _:
            return number, TENANT_HOLDS


def grow(directory: Path, plan: Plan, points: list[str], command: str) -> dict[str, dict[str, Any]]:
    """Every point that has no file yet; what all of them say."""
    made = {}
    for kind, number in parsed(points):
        file = directory / "growth" / f"{kind}-{number}.json"
        if not file.exists():
            results = Results(directory / "growth" / f"{kind}-{number}.part", {"point": [kind, number]}, command)
            point = _point(results, plan, kind, number)
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(point, indent=1) + "\n")
            fresh.replace(file)
        made[file.stem] = json.loads(file.read_text())
        print(f"{file.stem}: {_short(made[file.stem])}", flush=True)
    return made


def _point(results: Results, plan: Plan, kind: str, number: int) -> dict[str, Any]:
    people, each = shape(kind, number, plan.each)
    rounds = 2 * plan.rounds
    with sides(
        ("ours",), results, replace(plan, each=each), people=people, section="growth", tenant_each=kind == "tenants"
    ) as (side,):
        given = {"callers": 1, "seconds": plan.seconds, "most": plan.most}
        turns: dict[str, list[Any]] = {"store": [], "delete": []}
        for _ in range(rounds):
            for operation in turns:
                turns[operation].append(side.round(operation, **given))
        for operation in _OPERATIONS:
            turns[operation] = [side.round(operation, **given) for _ in range(rounds)]
        sizes = side.do("sizes")
    document = results.document
    return {
        "kind": kind,
        "number": number,
        "people": people,
        "each": each,
        "cells": {operation: cell(rounds) for operation, rounds in turns.items()},
        "sizes": sizes,
        "loaded": document["growth"]["loaded"]["ours"],
        **{name: document[name] for name in ("commit", "machine", "begun", "ended", "versions", "command")},
    }


def _short(point: dict[str, Any]) -> str:
    return "  ".join(f"{operation} {told['p95']:.2f}" for operation, told in point["cells"].items()) + "  (p95, ms)"
