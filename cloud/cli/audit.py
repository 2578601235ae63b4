"""`luminescent-cloud audit`: export a tenant's audit log, as the local operator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.invocation import invocation
from cloud.cli.moments import Moment
from cloud.cli.output import table

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what, to what, and how it ended.")


class Format(StrEnum):
    """Formats of an export."""

    NDJSON = "ndjson"


@app.callback()
def _group() -> None:
    # A group of one command would otherwise become that command, and `audit export` would not be understood.
    return


@app.command()
def export(
    ctx: typer.Context,
    tenant: Annotated[
        str, typer.Option(metavar="TENANT", help="Whose log; _system is the log of events without a valid tenant.")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Where to; made if missing.")],
    format_: Annotated[Format, typer.Option("--format", help="One canonical JSON object per line.")] = Format.NDJSON,
    since: Moment = None,
    until: Moment = None,
) -> None:
    """Write a log's events to events.ndjson in DIR; an earlier export there is never overwritten."""
    run = invocation(ctx)
    with run.opened() as runtime:
        path = runtime.audit.export(tenant, out, format=format_.value, since=since, until=until)
    with path.open("rb") as file:
        events = sum(1 for _ in file)
    run.output.result(
        {"tenant_id": tenant, "file": path, "format": format_, "events": events},
        table(("log", "events", "file"), [(tenant, str(events), str(path))]),
    )
