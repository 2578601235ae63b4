"""`luminescent-cloud db`: the schema of the control plane, and a look at both databases, as the local operator."""

from __future__ import annotations

import typer

from cloud.cli.findings import show
from cloud.cli.invocation import invocation
from cloud.storage.migrate import Revision, RevisionState

app = typer.Typer(no_args_is_help=True, help="The databases: their schema, and whether they are as they must be.")


@app.command()
def upgrade(ctx: typer.Context) -> None:
    """Bring the control plane to this version's schema, as its owner; repeating it changes nothing."""
    run = invocation(ctx)
    found = run.program.upkeep.upgrade(run.settings())
    document = {"from": found.found, "to": found.wanted, "changed": found.state is not RevisionState.CURRENT}
    if found.state is RevisionState.CURRENT:
        run.output.result(document, f"The control plane is at revision {found.wanted} already.")
    else:
        before = found.found or "nothing"
        run.output.result(document, f"The control plane was brought from {before} to revision {found.wanted}.")


@app.command()
def current(ctx: typer.Context) -> None:
    """Show the revision of the control plane's schema, and the one that this version needs."""
    run = invocation(ctx)
    found = run.program.upkeep.revision(run.settings())
    document = {"revision": found.found, "wanted": found.wanted, "state": found.state}
    run.output.result(document, f"{found.found or 'no revision'}: {_compared(found)}")


@app.command()
def check(ctx: typer.Context) -> None:
    """Look whether the databases are as they must be; ends with 1 if something must be mended."""
    run = invocation(ctx)
    show(run, run.program.upkeep.check_databases(run.settings()))


def _compared(found: Revision) -> str:
    match found.state:
        case RevisionState.CURRENT:
            return "this version's"
        case RevisionState.NEWER:
            return f"this version does not know it, and needs {found.wanted}; install the version that made it"
        case RevisionState.EMPTY | RevisionState.OLDER:
            return f"this version needs {found.wanted}; luminescent-cloud db upgrade brings it there"
