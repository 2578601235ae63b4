"""`luminescent-cloud gdpr`: preview, erase and export a person, with an API key of the role tenant_admin."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import (
    ApiKey,
    ApiKeyFile,
    KeyTenant,
    UserId,
    calling,
    invocation,
    somebody_can_be_asked,
    tenant_of_caller,
)
from cloud.cli.output import moment, table
from cloud.cli.ports import Runtime
from cloud.cli.progress import progress
from cloud.gdpr import verify as verifier
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.kernel.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="A person's rights: GDPR Art. 15, 17 and 20.")


@app.command()
def preview(
    ctx: typer.Context, user: UserId, tenant: KeyTenant = None, api_key: ApiKey = None, api_key_file: ApiKeyFile = None
) -> None:
    """Show what an erasure would remove; nothing changes."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        found = asyncio.run(_preview(runtime, user, tenant_of_caller(runtime, tenant)))
    run.output.result(_preview_document(found), *_for_people(found.counts, found.subject_id, "would remove"))


@app.command()
def erase(
    ctx: typer.Context,
    user: UserId,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, such as a request's number; kept sealed.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Where to write the certificate; must not exist."),
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Erase a person, irrevocably: its key is destroyed and its rows are gone when this returns."""
    run = invocation(ctx)
    if not yes and (run.output.as_json or not somebody_can_be_asked()):
        raise typer.BadParameter("an erasure is confirmed with --yes where nobody can be asked", param_hint="--yes")
    with claimed(out), calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        if not yes:
            found = asyncio.run(_preview(runtime, user, tenant_id))
            run.output.result({}, *_for_people(found.counts, found.subject_id, "would remove"))
            typer.confirm("Erase this person? It cannot be undone.", abort=True)
        with progress(run.output, "Erasing"):
            erased = asyncio.run(runtime.gdpr.delete_user_data(user, tenant_id, confirmed=True, reason=reason))
        assert isinstance(erased, Erasure)
        if out is not None and erased.certificate is not None:
            out.write_text(erased.certificate, "utf-8")
    run.output.result(
        {
            "erasure_id": erased.erasure_id,
            "tenant_id": erased.tenant_id,
            "subject_id": erased.subject_id,
            "state": erased.state,
            "memories": erased.memories,
            "counts": erased.counts,
            "requested_at": erased.requested_at,
            "certificate": erased.certificate,
            "completed_at": erased.completed_at,
            "file": out,
        },
        *_for_people(erased.counts, erased.subject_id, "removed"),
        f"Erasure {erased.erasure_id} is {erased.state.value} at {moment(erased.completed_at)}.",
        f"Certificate written to {out}; luminescent-cloud gdpr verify {out} --key VKEY checks it anywhere."
        if out is not None
        else f"Its certificate: luminescent-cloud gdpr certificate {erased.erasure_id} --out FILE",
    )


@app.command()
def export(
    ctx: typer.Context,
    user: UserId,
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Where to; empty or missing.")],
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Write everything that is kept of a person to files in DIR."""
    run = invocation(ctx)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        with progress(run.output, "Exporting"):
            bundle = asyncio.run(runtime.gdpr.export_user_data(user, tenant_id, out))
    rows = [(name, str(count)) for name, count in bundle.counts.items()]
    run.output.result(
        {"tenant_id": tenant_id, "directory": bundle.directory, "files": bundle.files, "counts": bundle.counts},
        table(("kept", "records"), rows),
        f"Written to {bundle.directory}: {', '.join(bundle.files)}. It is personal data in the clear.",
    )


@app.command()
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
    with claimed(out), calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        found = asyncio.run(runtime.gdpr.certificate(erasure, tenant_id))
        out.write_text(found, "utf-8")
    run.output.result(
        {"erasure_id": erasure, "tenant_id": tenant_id, "file": out, "certificate": found},
        f"Written to {out}; luminescent-cloud gdpr verify {out} --key VKEY checks it anywhere.",
    )


@app.command()
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
        f"certificate {result.number} of erasure {result.erasure_id} in {result.tenant}: holds",
    )
    for note in result.notes:
        run.output.note(note)
    if not result.origin_established:
        raise typer.Exit(ExitCode.ORIGIN_NOT_ESTABLISHED)


@contextlib.contextmanager
def claimed(path: Path | None) -> Iterator[None]:
    """`path` is a new empty file of mode 0600, if one is named; it goes again if the block fails.

    Raises:
        ConfigurationError: It is there already, or cannot be written.
    """
    if path is None:
        yield
        return
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already; name another file") from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _preview(runtime: Runtime, user_id: str, tenant_id: str) -> ErasurePreview:
    found = await runtime.gdpr.delete_user_data(user_id, tenant_id)
    assert isinstance(found, ErasurePreview)
    return found


def _preview_document(found: ErasurePreview) -> dict[str, object]:
    return {
        "tenant_id": found.tenant_id,
        "subject_id": found.subject_id,
        "memories": found.memories,
        "counts": found.counts,
    }


def _for_people(counts: Mapping[str, int], subject_id: str | None, verb: str) -> tuple[RenderableType, ...]:
    if subject_id is None:
        return ("Nothing is kept of this person.",)
    rows = [(place, str(count)) for place, count in counts.items() if count]
    return (f"Subject {subject_id}", table(("place", verb), rows))
