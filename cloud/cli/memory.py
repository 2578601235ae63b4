"""`luminescent-cloud memory`: import a file, retrieve and search, with an API key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cloud.cli.failures import ExitCode, exit_code
from cloud.cli.importing import ImportReport, import_file
from cloud.cli.invocation import ApiKey, ApiKeyFile, Invocation, KeyTenant, UserId, calling, invocation
from cloud.cli.memory_shown import filters_of, shown
from cloud.cli.output import describe, printable
from cloud.cli.ports import Runtime
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ProviderUnavailableError

app = typer.Typer(no_args_is_help=True, help="Memories: import a file of them, and ask.")

_SHOWN_FAULTS: Final = 20
_WAIT_S: Final = 120.0


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.jsonl")],
    wait: Annotated[
        bool, typer.Option(help="Wait until the memories are in Pixeltable; they can be found before that.")
    ] = True,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Store the memories of a file, one JSON object a line; needs the role service or tenant_admin.

    A line has the fields of a memory: user_id, content, memory_type, source and, if wanted, confidence, created_at,
    expires_at, raw_source, metadata, provenance. An id is ignored.

    Lines that are no memory are reported with their numbers, and the others are stored. Importing the same file again
    stores nothing twice; a file that was changed is another file. A person who was erased in between comes back with
    the lines of the file.
    """
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened(with_worker=wait) as runtime:
        report = asyncio.run(_import(run, runtime, file, wait=wait))
    _report(run, report)
    if report.stopped is not None:
        raise typer.Exit(exit_code(report.stopped))
    if report.failed:
        raise typer.Exit(ExitCode.FAILED)


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


async def _import(run: Invocation, runtime: Runtime, file: Path, *, wait: bool) -> ImportReport:
    with _progress(run, file) as advance:
        report = await import_file(runtime.memory, file, now=system_clock, progress=advance)
    if wait and report.stored:
        try:
            await runtime.drain(timeout_s=_WAIT_S)
        except ProviderUnavailableError:
            run.output.warn("stored, but not yet all in Pixeltable: the next worker goes on with it")
    return report


@contextlib.contextmanager
def _progress(run: Invocation, file: Path) -> Iterator[Callable[[int], None]]:
    messages = run.output.messages()
    if not messages.is_terminal or run.output.as_json:
        yield lambda _: None
        return
    columns = (TextColumn("importing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True) as bar:
        task = bar.add_task("import", total=file.stat().st_size)
        yield lambda done_bytes: bar.update(task, completed=done_bytes)


def _report(run: Invocation, report: ImportReport) -> None:
    document: dict[str, object] = {
        "lines": report.lines,
        "stored": report.stored,
        "repeated": report.repeated,
        "failed": report.failed,
        "faults": [{"line": fault.line, "reason": fault.reason} for fault in report.faults],
    }
    if report.stopped is not None:
        document["error"] = {**describe(report.stopped), "line": report.stopped_at}
    known = f", {report.repeated:,} were stored before" if report.repeated else ""
    run.output.result(document, f"{report.stored:,} of {report.lines:,} lines stored{known}.")
    if report.failed:
        run.output.complain(f"{report.failed:,} lines are no memories and were not stored:")
        for fault in report.faults[:_SHOWN_FAULTS]:
            run.output.note(f"  line {fault.line}: {printable(fault.reason)}")
        if report.failed > _SHOWN_FAULTS:
            run.output.note(f"  … and {report.failed - _SHOWN_FAULTS:,} more; --json lists the first 1,000")
    if report.stopped is not None:
        run.output.complain(
            f"stopped at the batch that begins with line {report.stopped_at}: {report.stopped}",
            "what was stored stays; importing the same file again goes on from there",
        )
