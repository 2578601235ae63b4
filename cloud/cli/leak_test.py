"""`luminescent-cloud leak-test`: canaries through every path of reading, as the local operator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import invocation
from cloud.cli.output import table
from cloud.cli.progress import progress
from cloud.leaktest import service
from cloud.leaktest.cast import MOST_PEOPLE, MOST_TENANTS
from cloud.leaktest.report import Check, Report

_SIZE = service.Size()


def leak_test(
    ctx: typer.Context,
    tenants: Annotated[
        int, typer.Option(min=2, max=MOST_TENANTS, help="Tenants it makes, with names easily mistaken for each other.")
    ] = _SIZE.tenants,
    people: Annotated[int, typer.Option(min=2, max=MOST_PEOPLE, help="People in each of them.")] = _SIZE.people,
    rounds: Annotated[
        int, typer.Option(min=1, max=service.MOST_ROUNDS, help="Rounds of many callers at once.")
    ] = _SIZE.rounds,
    seed: Annotated[
        int | None, typer.Option(help="Repeats the order of another run's attempts; its report says which.")
    ] = None,
) -> None:
    """Look for leaks between tenants and people, in this installation, while it is used.

    Tenants of its own are made, filled with canaries, attacked in every way of reading there is, and removed again.
    It ends with 0 if nothing was seen by anybody who should not have, and with 1 naming the path that leaked. Timing
    is out of scope.
    """
    run = invocation(ctx)
    with run.opened(with_worker=True) as runtime, progress(run.output, "Starting") as bar:
        report = runtime.leak_test.run(service.Size(tenants, people, rounds), seed=seed, progress=bar.phase)
    run.output.result(_document(report), *_for_people(report))
    for fault in report.leftovers:
        run.output.warn(f"not removed: {fault}; the next leak test tries again")
    if not report.tight:
        raise typer.Exit(ExitCode.FAILED)


def _document(report: Report) -> dict[str, object]:
    return {
        "tight": report.tight,
        "attempts": report.total,
        "seed": report.seed,
        "took_s": round(report.took_s, 3),
        "tenants": list(report.tenants),
        "paths": {
            path: {check.value: report.attempts[path, check] for check in Check if (path, check) in report.attempts}
            for path in report.paths
        },
        "leaks": [asdict(leak) for leak in report.leaks],
        "leftovers": list(report.leftovers),
    }


def _for_people(report: Report) -> list[RenderableType]:
    checks = [check for check in Check if any(check is tried for _, tried in report.attempts)]
    rows = [
        (path, *(str(report.attempts.get((path, check), "")) for check in checks), str(leaks or ""))
        for path in report.paths
        for leaks in (sum(leak.times for leak in report.leaks if leak.path == path),)
    ]
    columns = ("path", *(check.value for check in checks), "leaks")
    said: list[RenderableType] = [table(columns, rows, right=columns[1:])]
    if report.leaks:
        found = [(k.path, k.check.value, k.how, str(k.times), k.example) for k in report.leaks]
        said += ["\nThese leaked:\n", table(("path", "check", "how", "times", "such as"), found, right=("times",))]
    else:
        said.append(f"\n{report.total:,} attempts in {report.took_s:.1f} s, nothing leaked. Timing was not looked at.")
    said.append(f"Repeat the order of its attempts with --seed {report.seed}.")
    return said
