"""`luminescent-cloud gdpr scan`: what an erasure has left in the files, looked for with fingerprints of before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import ApiKey, ApiKeyFile, KeyTenant, UserId, calling, invocation, tenant_of_caller
from cloud.cli.output import table
from cloud.cli.progress import progress
from cloud.gdpr.scan import Finding, ScanReport

app = typer.Typer(no_args_is_help=True, help="Look for what an erasure has left in files.")


@app.command()
def take(
    ctx: typer.Context,
    user: UserId,
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE", help="A new file, outside the home.")],
    no_plaintext: Annotated[
        bool, typer.Option("--no-plaintext", help="Leave out pieces of plaintext, which are personal data.")
    ] = False,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Take fingerprints of a person before an erasure, into FILE (mode 0600)."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        with progress(run.output, "Taking fingerprints"):
            taken = runtime.scan.take(user, tenant_id, out, with_plaintext=not no_plaintext)
    counts: dict[str, int] = {}
    for one in taken.fingerprints:
        counts[one.trace.value] = counts.get(one.trace.value, 0) + 1
    run.output.result(
        {"tenant_id": tenant_id, "file": out, "counts": counts, "too_short": taken.too_short},
        table(("of", "patterns"), [(name, str(count)) for name, count in counts.items()], right=("patterns",)),
        f"Written to {out}. It is sensitive: delete it once the search after the erasure is done.",
        f"Look before the erasure too: luminescent-cloud gdpr scan search {out}",
    )


@app.command()
def search(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="Of gdpr scan take.")],
    also: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, metavar="DIR", help="A directory to look through too; repeatable."),
    ] = None,
) -> None:
    """Look for the fingerprints of FILE in the whole installation; ends with 1 if something is left."""
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, "Looking") as bar:
        report = runtime.scan.search(file, also=also or (), progress=bar.told)
    for place in report.unreachable:
        run.output.warn(f"not looked into: {place}")
    rows = [
        (one.where, one.what, one.trace.value, str(one.items), str(one.count), "kept" if one.is_kept else "residue")
        for one in report.findings
    ]
    columns = ("where", "what", "of", "things", "times", "is")
    found = table(columns, rows, right=("things", "times")) if rows else "Nothing was found."
    run.output.result(_document(report), found, _verdict(report))
    if report.residue:
        raise typer.Exit(ExitCode.FAILED)


def _verdict(report: ScanReport) -> str:
    looked = f"{report.files:,} files, {report.size_bytes / 1e6:,.0f} MB in {report.taken_s:.1f} s"
    if report.residue:
        places = len({one.path for one in report.residue})
        return f"Something of the person is in {places} files. Looked through {looked}."
    return f"Nothing is left but ids where the data map keeps them. Looked through {looked}."


def _document(report: ScanReport) -> dict[str, object]:
    return {
        "residue": len(report.residue),
        "findings": [_finding(one) for one in report.findings],
        "files": report.files,
        "size_bytes": report.size_bytes,
        "taken_s": round(report.taken_s, 3),
        "unreachable": list(report.unreachable),
    }


def _finding(one: Finding) -> dict[str, object]:
    return {
        "where": one.where,
        "what": one.what,
        "path": one.path,
        "trace": one.trace.value,
        "kept": one.is_kept,
        "things": one.items,
        "times": one.count,
        "first_offset": one.first_offset,
    }
