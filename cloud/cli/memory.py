"""`luminescent-cloud memory`: retrieve and search, with an API key; `cloud.cli.transfer` has import and export."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from cloud.cli import transfer
from cloud.cli.invocation import ApiKey, ApiKeyFile, KeyTenant, UserId, calling, invocation
from cloud.cli.output import moment, printable
from src.memory.schemas import Memory

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
    run.output.result(*_memories(found))


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
    filters = transfer.parse_filter(filter_)
    if query is not None:
        filters["query"] = query
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.memory.search(user, filters, limit=limit))
    run.output.result(*_memories(found))


def _memories(found: list[Memory]) -> tuple[dict[str, object], RenderableType]:
    document: dict[str, object] = {"memories": [memory.model_dump(mode="json") for memory in found]}
    if not found:
        return document, "Nothing found."
    shown = Text()
    for place, memory in enumerate(found, start=1):
        shown.append(f"{place:>3}  ", style="bold").append(printable(memory.content).replace("\n", "\n     "))
        facts = (memory.memory_type.value, f"{memory.confidence:.2f}", moment(memory.created_at), memory.source)
        shown.append(f"\n     {' · '.join(map(printable, facts))} · {memory.id}\n", style="dim")
    shown.rstrip()
    return document, shown
