"""`luminescent-cloud memory`: retrieve and search, with an API key; `cloud.cli.transfer` has import and export."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cloud.cli import transfer
from cloud.cli.invocation import ApiKey, ApiKeyFile, KeyTenant, UserId, calling, invocation
from cloud.cli.memory_shown import filters_of, shown

app = typer.Typer(no_args_is_help=True, help="Memories: import and export them, and ask.")


app.command("import")(transfer.import_)
app.command("export")(transfer.export)
app.command("verify-export")(transfer.verify_export)


@app.command()
def retrieve(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for, in words.", show_default=False)],
    user: UserId,
    limit: Annotated[int, typer.Option(help="1-1000.")] = 5,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show the memories of a person that fit a text best, best first."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.memory.retrieve(query, user, limit=limit))
    run.output.result(*shown(found))


@app.command()
def search(
    ctx: typer.Context,
    user: UserId,
    filter_: Annotated[
        str, typer.Option("--filter", metavar="JSON", help='Such as {"metadata.project": "skylark"}.')
    ] = "{}",
    query: Annotated[str | None, typer.Option(help="Rank what passes the filter by this text.")] = None,
    limit: Annotated[int, typer.Option(help="1-1000.")] = 10,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show the memories of a person that pass a filter: newest first, or ranked by --query."""
    run = invocation(ctx)
    filters = filters_of(filter_)
    if query is not None:
        filters["query"] = query
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.memory.search(user, filters, limit=limit))
    run.output.result(*shown(found))
