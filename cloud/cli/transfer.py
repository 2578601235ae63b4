"""`luminescent-cloud memory import`, `export` and `verify-export`: memories from files and to files."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from cloud.cli.failures import ExitCode, exit_code
from cloud.cli.invocation import ApiKey, ApiKeyFile, Invocation, KeyTenant, calling, invocation
from cloud.cli.memory_shown import filters_of
from cloud.cli.output import describe, printable
from cloud.cli.ports import Runtime
from cloud.cli.progress import progress
from cloud.kernel.errors import ProviderUnavailableError
from cloud.transfer.model import Format, ImportReport, Limits, Position
from cloud.transfer.person import MEMORIES
from cloud.transfer.reports import shown_position
from cloud.transfer.verify import verify_export as verified

_SHOWN_FAULTS: Final = 20
_WAIT_S: Final = 120.0
_ENTRIES: Final = {
    Format.JSONL: "lines",
    Format.MEM0: "elements",
    Format.CHATGPT: "messages",
    Format.PERSON: "memories",
}
_GIB: Final = 2**30


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, readable=True, metavar="FILE")],
    file_format: Annotated[
        str, typer.Option("--format", metavar="auto|jsonl|mem0|chatgpt|person", help="What the file is.")
    ] = "auto",
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="The person of entries that name nobody.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="REPORT.jsonl", help="Write every fault to this file as it is met."),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE.manifest.json",
            help="Check the file first; by default by the manifest beside it, if there is one.",
        ),
    ] = None,
    max_gib: Annotated[
        int, typer.Option("--max-gib", min=1, help="What a compressed file may hold, in GiB.")
    ] = Limits().max_bytes // _GIB,
    as_user: Annotated[
        str | None,
        typer.Option("--as-user", metavar="USER", help="Of a person's export: whose the memories become."),
    ] = None,
    include_removed: Annotated[
        bool,
        typer.Option(
            "--include-removed", help="Of a person's export: deleted and replaced memories too, as ordinary ones."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="Wait until the memories are in Pixeltable; they can be found before that.")
    ] = True,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Store the memories of a file; needs the role service or tenant_admin, or member for one's own.

    The file is JSON Lines with the fields of a memory, what mem0's API or library gives out, ChatGPT's export, whole or
    its conversations.json, or a person's export (gdpr export), its directory or its ZIP once decrypted;
    docs/import-export.md has each in full.

    What is no memory is reported with its place in the file, and the others are stored. Importing the same file again,
    also after a crash, goes on where it was and stores nothing twice; a file that was changed is another file. A person
    who was erased in between comes back with the file.
    """
    run = invocation(ctx)
    limits = Limits(max_bytes=max_gib * _GIB)
    with calling(ctx, api_key, api_key_file, tenant), run.opened(with_worker=wait) as runtime:

        async def work() -> ImportReport:
            size_bytes = _size(file)
            with progress(run.output, "Importing, in bytes") as bar:
                made = await runtime.transfer.import_file(
                    file,
                    format=file_format,
                    user_id=user,
                    report=report,
                    manifest=manifest,
                    limits=limits,
                    as_user=as_user,
                    include_removed=include_removed,
                    progress=lambda done: bar.told(done, size_bytes),
                )
            if wait and made.stored:
                with progress(run.output, "Moving them into Pixeltable"):
                    drained = await _drained(runtime)
                if not drained:
                    run.output.warn("stored, but not yet all in Pixeltable: the next worker goes on with it")
            return made

        made = asyncio.run(work())
    _tell(run, made, report)
    if made.stopped is not None:
        raise typer.Exit(exit_code(made.stopped))
    if made.failed:
        raise typer.Exit(ExitCode.FAILED)


def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE.jsonl[.gz]", help="Where to; must not exist.")],
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="The person; everybody of the tenant if left out.")
    ] = None,
    filter_: Annotated[
        str, typer.Option("--filter", metavar="JSON", help='Such as {"memory_type": "decision"}.')
    ] = "{}",
    include_invalid: Annotated[
        bool, typer.Option("--include-invalid", help="Expired memories too; they cannot be imported again.")
    ] = False,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Write memories to a new file, with a manifest beside it; everybody's need the role tenant_admin.

    A memory a line, mode 0600, compressed if the name ends in .gz. The file gets its name once it is whole.
    """
    run = invocation(ctx)
    filters = filters_of(filter_)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:

        async def work() -> dict[str, object]:
            with progress(run.output, "Exporting") as bar:
                made = await runtime.transfer.export(
                    out, user_id=user, filters=filters, include_invalid=include_invalid, progress=bar.told
                )
            return {"file": made.file, "manifest_file": made.manifest_file, **asdict(made.manifest)}

        document = asyncio.run(work())
    run.output.result(
        document,
        f"{document['memories']:,} memories of {document['people']:,} people written to {out}."
        " It is personal data in the clear.",
        f"content hash {document['content_hash']}",
    )


def verify_export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.jsonl[.gz]")],
    manifest: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its manifest; by default FILE.manifest.json beside it."),
    ] = None,
) -> None:
    """Check that an export is whole and as it was written; opens no installation and needs no key."""
    run = invocation(ctx)
    size_bytes = file.stat().st_size
    with progress(run.output, "Checking, in bytes") as bar:
        found = verified(file, manifest=manifest, progress=lambda done: bar.told(done, size_bytes))
    run.output.result(
        {"file": file, **asdict(found)},
        f"{file} is whole: {found.memories:,} memories of {found.people:,} people, exported {found.exported_at}.",
    )


def _size(file: Path) -> int:
    """How many bytes are read; of a person's export, its memories'."""
    memories = file / MEMORIES
    return (memories if memories.is_file() else file).stat().st_size


async def _drained(runtime: Runtime) -> bool:
    try:
        await runtime.drain(timeout_s=_WAIT_S)
    except ProviderUnavailableError:
        return False
    return True


def _tell(run: Invocation, made: ImportReport, report: Path | None) -> None:
    run.output.result(_document(made), _summary(made))
    if made.failed:
        run.output.complain(f"{made.failed:,} {_ENTRIES[made.format]} are no memories and were not stored:")
        for fault in made.faults[:_SHOWN_FAULTS]:
            run.output.note(f"  {_place(made.format, fault.position)}: {printable(fault.reason)}")
        if made.failed > _SHOWN_FAULTS:
            where = f"all of them are in {report}" if report else "--report FILE writes all of them to a file"
            run.output.note(f"  … and {made.failed - min(_SHOWN_FAULTS, len(made.faults)):,} more; {where}")
    if made.stopped is not None:
        at = f" at the batch that begins with {_place(made.format, made.stopped_at)}" if made.stopped_at else ""
        run.output.complain(
            f"stopped{at}: {made.stopped}",
            "what was stored stays; importing the same file again goes on from there",
        )


def _document(made: ImportReport) -> dict[str, object]:
    document: dict[str, object] = {
        "format": made.format,
        "import_id": made.import_id,
        **made.counts(),
        "resumed_after": shown_position(made.resumed_after) if made.resumed_after else None,
        "faults": [{**shown_position(fault.position), "reason": fault.reason} for fault in made.faults],
    }
    if made.stopped is not None:
        at = shown_position(made.stopped_at) if made.stopped_at else {}
        document["error"] = {**describe(made.stopped), **at}
    return document


def _summary(made: ImportReport) -> str:
    known = f", {made.repeated:,} were stored before" if made.repeated else ""
    went_on = f" It went on after {_place(made.format, made.resumed_after)}." if made.resumed_after else ""
    skipped = f", {made.skipped:,} skipped that were not in use (--include-removed)" if made.skipped else ""
    return f"{made.stored:,} of {made.entries:,} {_ENTRIES[made.format]} stored{known}{skipped}.{went_on}"


def _place(file_format: Format, position: Position) -> str:
    match file_format:
        case Format.JSONL | Format.PERSON:
            return f"line {position}"
        case Format.MEM0:
            return f"element {position}"
        case Format.CHATGPT:
            part = f", message {position.part}" if position.part else ""
            return f"conversation {position.number}{part}"
