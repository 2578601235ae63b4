"""`luminescent-cloud audit`: export a tenant's audit log as evidence, verify it, publish the keys."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloud.audit import verify as verifier
from cloud.cli.failures import ExitCode
from cloud.cli.invocation import invocation
from cloud.cli.moments import Moment
from cloud.cli.output import table
from cloud.cli.progress import progress
from cloud.kernel.errors import UnreadableFileError

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what, to what, and how it ended.")

Tenant = Annotated[
    str,
    typer.Option("--tenant", metavar="TENANT", help="Whose log; _system is the log of events without a valid tenant."),
]


class Format(StrEnum):
    """Formats of an export."""

    NDJSON = "ndjson"
    OCSF = "ocsf"
    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def export(
    ctx: typer.Context,
    tenant: Tenant,
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Where to; must be empty or missing.")],
    format_: Annotated[
        Format, typer.Option("--format", help="Other than ndjson: a view for other programs beside the evidence.")
    ] = Format.NDJSON,
    since: Moment = None,
    until: Moment = None,
) -> None:
    """Write a log's events to DIR with what proves them; audit verify checks it anywhere.

    An export that was interrupted goes on where it was when the same is asked for again. With --since or --until a few
    events of before and after can be there too.
    """
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, "exporting") as bar:
        bundle = runtime.audit.export_evidence(
            tenant, out, format=format_.value, since=since, until=until, progress=bar.told
        )
    file = bundle.directory / verifier.EVENTS
    run.output.result(
        {
            "tenant_id": tenant,
            "file": file,
            "format": format_,
            "events": bundle.events,
            "first": bundle.first,
            "size": bundle.size,
            "log": bundle.log,
            "verifier_key": bundle.verifier_key,
            "resumed_after": bundle.resumed,
        },
        table(
            ("log", "events", "leaves", "file"),
            [(tenant, str(bundle.events), f"{bundle.first}-{bundle.first + bundle.events}", str(file))],
        ),
        f"verifier key  {bundle.verifier_key}",
    )


@app.command()
def key(ctx: typer.Context, tenant: Tenant) -> None:
    """Print the key that exports of a log are verified with; keep it where the service cannot change it."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.audit.verifier_key(tenant)
    run.output.result({"tenant_id": tenant, "verifier_key": found}, found)


@app.command()
def checkpoint(ctx: typer.Context, tenant: Tenant) -> None:
    """Print the signed head of a log; who keeps it can tell later, with audit verify, whether the log was cut off."""
    run = invocation(ctx)
    with run.opened() as runtime:
        note = runtime.audit.checkpoint(tenant)
    run.output.result({"tenant_id": tenant, "checkpoint": note}, note.rstrip("\n"))


@app.command()
def accept(
    ctx: typer.Context,
    tenant: Tenant,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it was cut off; name no person.")],
) -> None:
    """Let a log go on that a restore of the database from a backup cut off; it is on record."""
    run = invocation(ctx)
    with run.opened() as runtime:
        runtime.audit.accept(tenant, reason)
    run.output.result({"tenant_id": tenant, "accepted": True}, f"the audit log of {tenant} goes on from where it is")


@app.command("rotate-key")
def rotate_key(ctx: typer.Context) -> None:
    """Sign with a new key from now on; what was signed before stays verifiable, with the former key and the new one."""
    run = invocation(ctx)
    with run.opened() as runtime:
        runtime.audit.rotate_key()
    run.output.result({"rotated": True}, "a new key signs from now on; audit key --tenant T prints each log's")


@app.command()
def archive(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is due.")] = False,
) -> None:
    """Move months that are no longer kept in the database to archives now, and delete archives kept long enough.

    The worker does the same once a day. How long what is kept is in the plan file; exports read archives too.
    """
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, "archiving") as bar:
        done = runtime.audit_archives.archive(dry_run=dry_run, progress=bar.told)
    due = [
        {
            "log": one.log_id,
            "months": [str(month) for month in one.months],
            "delete": [archive.file for archive in one.expired],
        }
        for one in done.due
    ]
    rows = [(one.log_id, ", ".join(map(str, one.months)), str(len(one.expired))) for one in done.due]
    said = (
        f"{len(done.due)} logs have something due"
        if dry_run
        else f"{done.events} events archived, {len(done.deleted)} archives deleted"
    )
    run.output.result(
        {
            "dry_run": dry_run,
            "due": due,
            "events": done.events,
            "archives": [archive.file for archive in done.archives],
            "deleted": [archive.file for archive in done.deleted],
            "failed": sorted(done.failed),
        },
        *([table(("log", "months to archive", "archives to delete"), rows)] if rows else []),
        said,
    )
    for log_id, error in done.failed.items():
        run.output.complain(f"the audit log of {log_id} is not archived: {error}")
    if done.failed:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def verify(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The exported bundle.")],
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="Verifier key of the log, from a source of your own.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="OLD", help="File with an older checkpoint that you kept."),
    ] = None,
) -> None:
    """Check an export; needs no installation. Ends with 1 if something does not hold, with 3 without --key.

    The same check is one file that needs nothing of the service: cloud/audit/verify.py.
    """
    run = invocation(ctx)
    try:
        old = checkpoint.read_text("utf-8") if checkpoint is not None else None
        result = verifier.verify_bundle(directory, key=key, checkpoint=old)
    except UnicodeDecodeError as error:
        raise UnreadableFileError("encoding", f"{checkpoint} is not UTF-8") from error
    except verifier.VerificationError as error:
        run.output.result({"holds": False, "reason": str(error)})
        run.output.complain(f"does not hold: {error}")
        raise typer.Exit(ExitCode.FAILED) from error
    last = result.first + result.events
    run.output.result(
        {
            "holds": True,
            "log": result.log,
            "first": result.first,
            "events": result.events,
            "size": result.size,
            "origin_established": result.origin_established,
            "notes": list(result.notes),
        },
        f"{result.log}: {result.events} events, leaves {result.first} to {last} of {result.size}: holds",
    )
    for note in result.notes:
        run.output.note(note)
    if not result.origin_established:
        raise typer.Exit(ExitCode.ORIGIN_NOT_ESTABLISHED)
