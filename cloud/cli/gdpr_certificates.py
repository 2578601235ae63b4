"""`luminescent-cloud gdpr`: certificates of erasure, handed out and verified."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import ApiKey, ApiKeyFile, KeyTenant, calling, invocation, tenant_of_caller
from cloud.cli.new_files import claimed
from cloud.cli.output import table
from cloud.gdpr import verify as verifier


def register(app: typer.Typer) -> None:
    """Add these commands to `gdpr`."""
    for command in (certificate, verify):
        app.command()(command)


def certificate(
    ctx: typer.Context,
    erasure: Annotated[str, typer.Argument(metavar="ID", help="The erasure.")],
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE", help="Where to; must not exist.")],
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Write the newest certificate of an erasure to FILE; a new one is issued whenever a later level is reached."""
    run = invocation(ctx)
    with claimed(out) as write, calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        found = asyncio.run(runtime.gdpr.certificate(erasure, tenant_id))
        write(found)
    run.output.result(
        {"erasure_id": erasure, "tenant_id": tenant_id, "file": out, "certificate": found},
        f"Written to {out}; luminescent-cloud gdpr verify {out} --key VKEY checks it anywhere.",
    )


def verify(
    ctx: typer.Context,
    certificate: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="CERT", help="The certificate.")],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="VKEY", help="Verifier key of the tenant's log, from a source of your own."),
    ] = None,
    user_id: Annotated[str | None, typer.Option("--user-id", metavar="USER", help="Whom it should be about.")] = None,
    previous: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="OLD", help="The certificate that it should follow."),
    ] = None,
) -> None:
    """Check a certificate; needs no installation. Ends with 1 if something does not hold, with 3 without --key.

    The same check is one file that needs nothing of the service: cloud/gdpr/verify.py.
    """
    run = invocation(ctx)
    try:
        result = verifier.verify_certificate(
            certificate.read_bytes(),
            key=key,
            user_id=user_id,
            previous=previous.read_bytes() if previous is not None else None,
        )
    except verifier.VerificationError as error:
        run.output.result({"holds": False, "reason": str(error)})
        run.output.complain(f"does not hold: {error}")
        raise typer.Exit(ExitCode.FAILED) from error
    run.output.result(
        {"holds": True, **dataclasses.asdict(result)},
        table(("place", "removed"), [(place, str(count)) for place, count in result.counts.items() if count]),
        table(
            ("level", "stands"),
            [
                *((level, f"reached {reached_at}") for level, reached_at in result.reached.items()),
                *((level, f"due {due_at}" if due_at else "to come") for level, due_at in result.to_come.items()),
            ],
        ),
        f"certificate {result.number} of {verifier.WHAT[result.of]} {result.erasure_id} in {result.tenant}: holds",
    )
    for note in result.notes:
        run.output.note(note)
    if not result.origin_established:
        raise typer.Exit(ExitCode.ORIGIN_NOT_ESTABLISHED)
