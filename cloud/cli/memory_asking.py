"""`luminescent-cloud memory list|count|get|history`: what a person's memories are and were, with an API key."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from cloud.cli.invocation import ApiKey, ApiKeyFile, KeyTenant, UserId, calling, invocation
from cloud.cli.memory_shown import filters_of, shown
from cloud.cli.output import moment, table
from cloud.cli.ports import Runtime
from cloud.kernel.errors import MemoryNotFoundError
from src.memory.lifecycle import MemoryPage

MemoryId = Annotated[str, typer.Argument(metavar="MEMORY", help="The memory's id.", show_default=False)]
Filter = Annotated[str, typer.Option("--filter", metavar="JSON", help='Such as {"metadata.project": "skylark"}.')]

_PAGE: Final = 1000


def list_(
    ctx: typer.Context,
    user: UserId,
    filter_: Filter = "{}",
    limit: Annotated[int, typer.Option(help="How many to a page, 1-1000.")] = 100,
    cursor: Annotated[str | None, typer.Option(help="Where the page begins: next_cursor of the one before.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All pages at once.")] = False,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Go through the memories of a person, newest first, a page at a time."""
    run = invocation(ctx)
    filters = filters_of(filter_)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        page = asyncio.run(_pages(runtime, user, filters, limit, cursor, every=every))
    document, for_people = shown(page.memories)
    run.output.result({**document, "next_cursor": page.next_cursor}, for_people)
    if page.next_cursor is not None and not run.output.as_json:
        run.output.note(f"There is more: --cursor {page.next_cursor}")


def count(
    ctx: typer.Context,
    user: UserId,
    filter_: Filter = "{}",
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Count the memories of a person that pass a filter."""
    run = invocation(ctx)
    filters = filters_of(filter_)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        counted = asyncio.run(runtime.memory.count(user, filters))
    run.output.result({"count": counted}, f"{counted:,}")


def get(
    ctx: typer.Context,
    memory: MemoryId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show one memory."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(runtime.memory.get_by_id(memory))
    if found is None:
        raise MemoryNotFoundError
    _, for_people = shown((found,))
    run.output.result({"memory": found.model_dump(mode="json")}, for_people)


def history(
    ctx: typer.Context,
    memory: MemoryId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show who changed a memory when; what it said before is not kept."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        lines = asyncio.run(runtime.memory.history(memory))
    if not lines:
        raise MemoryNotFoundError
    rows = [
        (str(line.revision), line.kind.value, moment(line.at), line.actor or "-", line.successor or "-")
        for line in lines
    ]
    run.output.result(
        {
            "memory_id": memory,
            "changes": [
                {
                    "revision": line.revision,
                    "kind": line.kind,
                    "at": line.at,
                    "actor": line.actor,
                    "successor": line.successor,
                }
                for line in lines
            ],
        },
        table(("revision", "change", "at", "by", "successor"), rows, right={"revision"}),
    )


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("list")(list_)
    for command in (count, get, history):
        app.command()(command)


async def _pages(
    runtime: Runtime, user: str, filters: dict[str, object], limit: int, cursor: str | None, *, every: bool
) -> MemoryPage:
    page = await runtime.memory.list(user, filters=filters, limit=_PAGE if every else limit, cursor=cursor)
    memories = [*page.memories]
    while every and page.next_cursor is not None:
        page = await runtime.memory.list(user, filters=filters, limit=_PAGE, cursor=page.next_cursor)
        memories += page.memories
    return MemoryPage(tuple(memories), page.next_cursor)
