"""`luminescent-cloud memory store|update|supersede|delete|undelete|purge`: changes to memories."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from cloud.cli.invocation import ApiKey, ApiKeyFile, Invocation, KeyTenant, UserId, calling, invocation
from cloud.cli.memory_asking import MemoryId
from cloud.cli.output import table
from cloud.cli.progress import progress
from cloud.kernel.errors import MemoryNotFoundError
from src.memory.lifecycle import StoredMemoryId
from src.memory.schemas import Memory, MemoryType
from src.memory.validation import json_changes

Content = Annotated[str, typer.Argument(help="What to remember.", show_default=False)]
Type = Annotated[MemoryType, typer.Option("--type", help="What kind of statement it makes.")]
Source = Annotated[str, typer.Option(help="Where it comes from.")]
Confidence = Annotated[float, typer.Option(help="0-1.")]
Metadata = Annotated[str, typer.Option(metavar="JSON", help="An object of your own.")]
Key = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="TEXT", help="Repeating the command stores nothing twice.")
]


def store(
    ctx: typer.Context,
    content: Content,
    user: UserId,
    type_: Type = MemoryType.FACT,
    source: Source = "command line",
    confidence: Confidence = 1.0,
    metadata: Metadata = "{}",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Tell which memories it repeats.")] = False,
    idempotency_key: Key = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Store one memory of a person."""
    run = invocation(ctx)
    memory = _memory(user, content, type_, source, confidence, metadata)
    context = {**_context(idempotency_key), "report_duplicates": duplicates}
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        stored = asyncio.run(runtime.memory.store(memory, context))
    _stored(run, stored)


def update(
    ctx: typer.Context,
    memory: MemoryId,
    changes: Annotated[str, typer.Option("--set", metavar="JSON", help='Such as {"content": "Lives in Lisbon"}.')],
    revision: Annotated[
        int | None, typer.Option(help="Only if it still has this revision; `memory history` shows which.")
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Give fields of a memory new values; the old ones are not kept."""
    run = invocation(ctx)
    values = json_changes(_object(changes, "--set"))
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        new = asyncio.run(runtime.memory.update(memory, values, expected_revision=revision))
    run.output.result({"memory_id": memory, "revision": new}, f"Revision {new}.")


def supersede(
    ctx: typer.Context,
    memory: MemoryId,
    content: Content,
    user: UserId,
    type_: Type = MemoryType.FACT,
    source: Source = "command line",
    confidence: Confidence = 1.0,
    metadata: Metadata = "{}",
    idempotency_key: Key = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Store a memory that takes the place of another one of the same person."""
    run = invocation(ctx)
    new = _memory(user, content, type_, source, confidence, metadata)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        stored = asyncio.run(runtime.memory.supersede(memory, new, _context(idempotency_key)))
    run.output.result({"memory_id": stored, "superseded": memory}, f"Stored as {stored}, in the place of {memory}.")


def delete(
    ctx: typer.Context,
    memory: MemoryId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Delete one memory; `memory undelete` brings it back within the retention time."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        done = asyncio.run(runtime.memory.delete(memory))
    if not done:
        raise MemoryNotFoundError
    run.output.result({"memory_id": memory, "deleted": True}, f"Deleted. memory undelete {memory} brings it back.")


def undelete(
    ctx: typer.Context,
    memory: MemoryId,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Bring a deleted memory back, and count it again."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        done = asyncio.run(runtime.memory.undelete(memory))
    if not done:
        raise MemoryNotFoundError
    run.output.result({"memory_id": memory, "undeleted": True}, "It is back.")


def purge(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant's.")] = None,
) -> None:
    """Remove for good what was deleted, expired or superseded longer ago than it is kept, as the local operator.

    Workers do this by themselves once an hour.
    """
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, "Purging") as bar:
        purged = runtime.memory_purge.purge(tenant, progress=bar.told)
    rows = [(tenant_id, f"{count:,}") for tenant_id, count in purged.by_tenant.items()]
    for_people = (table(("tenant", "purged"), rows, right={"purged"}),) if rows else ("Nothing was kept long enough.",)
    run.output.result({"purged": purged.total, "tenants": purged.by_tenant}, *for_people)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (store, update, supersede, delete, undelete, purge):
        app.command()(command)


def _memory(user: str, content: str, type_: MemoryType, source: str, confidence: float, metadata: str) -> Memory:
    # Without validation: the provider checks everything, and names the field.
    return Memory.model_construct(
        user_id=user,
        content=content,
        memory_type=type_,
        source=source,
        confidence=confidence,
        metadata=_object(metadata, "--metadata"),
    )


def _object(text: str, option: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter("is not JSON", param_hint=option) from exc
    if not isinstance(value, dict):
        raise typer.BadParameter("is not a JSON object", param_hint=option)
    return value


def _context(idempotency_key: str | None) -> dict[str, object]:
    return {} if idempotency_key is None else {"idempotency_key": idempotency_key}


def _stored(run: Invocation, memory_id: str) -> None:
    document: dict[str, object] = {"memory_id": str(memory_id)}
    if not isinstance(memory_id, StoredMemoryId):
        run.output.result(document, f"Stored as {memory_id}.")
        return
    found = memory_id.duplicates
    document["duplicates"] = (
        [{"memory_id": d.memory_id, "exact": d.exact, "similarity": round(d.similarity, 4)} for d in found]
        if found is not None
        else None
    )
    rows = [(d.memory_id, "exact" if d.exact else "near", f"{d.similarity:.2f}") for d in found or ()]
    repeated = table(("it repeats", "how", "similarity"), rows) if rows else "It repeats nothing."
    run.output.result(document, f"Stored as {memory_id}.", repeated if found is not None else "Duplicates: unknown.")
