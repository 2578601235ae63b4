"""`luminescent-cloud embeddings`: change the embedding model of the tables, and tell how far each is."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import Invocation, invocation
from cloud.cli.locomo import read_locomo
from cloud.cli.output import moment, table
from cloud.cli.ports import Runtime
from cloud.cli.progress import Bar, progress
from cloud.cli.recall import DEPTHS, measure
from cloud.kernel.errors import ConfigurationError
from cloud.memory.embeddings import TOLERANCE, Labelled, Migrated, Progress
from cloud.memory.gate import DEPTH, Comparison, Score
from cloud.memory.placements import Placement
from src.memory.providers.local import LocalMemoryProvider

app = typer.Typer(no_args_is_help=True, help="Embedding models: changed while memories are read and written.")

Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant", metavar="TENANT", help="The table of this tenant, with all who share it; may be repeated."
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="Every table.")]


@app.command()
def status(ctx: typer.Context) -> None:
    """Show which model is read in each table, which other is kept there, and what the last recall gate found."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.embeddings.status()
    columns = ("table", "model", "other model", "state", "last gate", "since")
    rows = [(p.name, p.model, p.other_model or "-", p.state.value, _gate(p), moment(p.changed_at)) for p in found]
    shown = table(columns, rows) if rows else "No table yet: the first tenant makes one."
    run.output.result({"placements": [_document(p) for p in found]}, shown)


@app.command()
def migrate(
    ctx: typer.Context,
    to: Annotated[
        str, typer.Option("--to", metavar="MODEL", help="wordllama, wordllama-128, hashing, or a model given.")
    ],
    tenant: Tenants = None,
    everything: Everything = False,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="What recall@10 or MRR may be worse by, as a share.")
    ] = TOLERANCE,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, metavar="FILE", help="Questions with known answers too."
        ),
    ] = None,
) -> None:
    """Read memories with another embedding model, unless it would find less of them.

    Both models are filled while memories are read and written. Then each has to find memories of the table's own
    tenants again; only a model that finds as many, within the tolerance, is read from then on. The earlier one stays
    complete until `embeddings finish`. A migration that was cut off is continued by the same command.
    """
    run = invocation(ctx)
    with run.opened() as runtime:
        ended = []
        for name in _chosen(runtime, tenant, everything):
            with progress(run.output, f"Migrating {name}") as bar:
                labelled = _labelled(runtime, data, bar)
                ended.append(
                    runtime.embeddings.migrate(
                        name, to, tolerance=tolerance, labelled=labelled, progress=_phases(bar, name)
                    )
                )
    _show(run, ended, tolerance)
    if any(one.outcome == "refused" for one in ended):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def rollback(ctx: typer.Context, tenant: Tenants = None, everything: Everything = False) -> None:
    """Read memories with the earlier model again; both stay complete.

    A rollback that was cut off is finished by the same command. With --all, tables that have no earlier model, or went
    back to it before, are passed over, and named.
    """
    run = invocation(ctx)
    with run.opened() as runtime:
        found = []
        with progress(run.output, "Switching back") as bar:
            for name in bar.over(_chosen(runtime, tenant, everything)):
                try:
                    found.append(runtime.embeddings.rollback(name))
                except ConfigurationError as error:
                    if not everything:
                        raise
                    run.output.warn(str(error))
    lines = [f"{p.name} is read with {p.model} again; {p.other_model} stays complete beside it." for p in found]
    run.output.result({"placements": [_document(p) for p in found]}, *lines)


@app.command()
def finish(ctx: typer.Context, tenant: Tenants = None, everything: Everything = False) -> None:
    """Drop the vectors of the model that is not read; there is no way back afterwards."""
    run = invocation(ctx)
    with run.opened() as runtime:
        names = _chosen(runtime, tenant, everything)
        with progress(run.output, "Finishing") as bar:
            found = [runtime.embeddings.finish(name, progress=_phases(bar, name)) for name in names]
    run.output.result(
        {"placements": [_document(p) for p in found]}, *[f"{p.name} has the vectors of {p.model} alone." for p in found]
    )


def _chosen(runtime: Runtime, tenants: list[str] | None, everything: bool) -> list[str]:
    if bool(tenants) == everything:
        raise typer.BadParameter("name tenants, or say --all", param_hint="--tenant")
    return runtime.embeddings.chosen(tenants or [])


def _phases(bar: Bar, placement: str) -> Progress:
    """Shows what is done to a placement, and for how many of its tenants."""
    return lambda phase, done, total: bar.phase(f"{phase.capitalize()} {placement}, by tenant", done, total)


def _labelled(runtime: Runtime, data: Path | None, bar: Bar) -> Labelled | None:
    """Measures both models on a file of questions, by the open core's provider, which ranks alike."""
    if data is None:
        return None
    conversations = read_locomo(data)

    def score(model: str) -> Score:
        provider = LocalMemoryProvider(embedder=runtime.embeddings.embedder(model), weights=runtime.embeddings.weights)
        told = partial(bar.phase, f"Asking the questions of the file, {model}")
        found = asyncio.run(measure(provider, conversations, progress=told)).summary()
        return Score(found.questions, found.recalls[DEPTHS.index(DEPTH)], found.mrr)

    return lambda old, new: Comparison({"labelled": score(old)}, {"labelled": score(new)})


def _show(run: Invocation, ended: list[Migrated], tolerance: float) -> None:
    lines: list[RenderableType] = []
    for one in ended:
        lines.append(_said(one, tolerance))
        if one.comparison is not None and one.comparison.questions:
            lines.append(_compared(one.comparison))
    document = {
        "migrations": [
            {
                **_document(one.placement),
                "outcome": one.outcome,
                "tenants": list(one.tenants),
                "rankings": one.comparison.document() if one.comparison else None,
            }
            for one in ended
        ]
    }
    run.output.result(document, *lines)


def _said(one: Migrated, tolerance: float) -> str:
    place, others = one.placement, f"{len(one.tenants)} tenant{'s' * (len(one.tenants) != 1)}"
    match one.outcome:
        case "switched":
            return (
                f"{place.name} ({others}) is read with {place.model} now; {place.other_model} stays complete beside it "
                "until: embeddings finish"
            )
        case "refused":
            return (
                f"{place.name} ({others}) is still read with {place.model}: the other model finds less than is "
                f"tolerated ({tolerance:g}); its vectors are dropped"
            )
        case _:
            return f"{place.name} ({others}) is read with {place.model} already."


def _compared(comparison: Comparison) -> RenderableType:
    columns = ("ranking", "questions", f"recall@{DEPTH} old", "new", "MRR old", "new ")
    rows = []
    for name, old in sorted(comparison.old.items()):
        new = comparison.new[name]
        numbers = (f"{value:.3f}" for value in (old.recall, new.recall, old.mrr, new.mrr))
        rows.append((name, str(old.questions), *numbers))
    return table(columns, rows, right=columns[1:])


def _gate(placement: Placement) -> str:
    if placement.gate is None:
        return "-"
    passed = "passed" if placement.gate.get("passed") else "refused"
    return f"{passed}: {placement.gate.get('from')} to {placement.gate.get('to')}"


def _document(placement: Placement) -> dict[str, object]:
    return {
        "placement": placement.name,
        "model": placement.model,
        "column": placement.column,
        "other_model": placement.other_model,
        "state": placement.state,
        "gate": placement.gate,
        "changed_at": placement.changed_at,
    }
