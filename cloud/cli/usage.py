"""`luminescent-cloud usage`: what a tenant uses, as the local operator."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cloud.cli.invocation import invocation
from cloud.cli.moments import Moment
from cloud.cli.output import moment, table

app = typer.Typer(no_args_is_help=True, help="Usage: what a tenant has in stock, and what was metered.")


@app.callback()
def _group() -> None:
    # A group of one command would otherwise become that command, and `usage show` would not be understood.
    return


@app.command()
def show(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Whose usage.")],
    since: Moment = None,
    until: Moment = None,
) -> None:
    """Show a tenant's stock and limits now, and its events of a period: this month, if none is named."""
    run = invocation(ctx)
    with run.opened() as runtime:
        summary = runtime.usage.get_usage_summary(tenant, since, until)
    rows = [(name.replace("_", " "), _shown(value)) for name, value in summary.items()]
    run.output.result({"tenant_id": tenant, **summary}, table((tenant, ""), rows))


def _shown(value: object) -> str:
    match value:
        case None:
            return "unlimited"
        case datetime():
            return moment(value)
        case dict():
            return f"{value['used']} of {_shown(value['limit'])}"
        case int():
            return f"{value:,}"
    return str(value)
