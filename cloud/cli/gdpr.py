"""`luminescent-cloud gdpr`: preview, erase and export a person, with an API key of the role tenant_admin.

Requests and holds are in `cloud.cli.gdpr_requests`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli import gdpr_certificates
from cloud.cli.gdpr_requests import preview_for_people, register, request_document
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
from cloud.cli.new_files import claimed
from cloud.cli.output import moment, table
from cloud.cli.ports import Runtime
from cloud.cli.progress import progress
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.kernel.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="A person's rights: GDPR Art. 15, 17 and 20.")


@app.command()
def preview(
    ctx: typer.Context,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="The person, as the application calls them.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="REQUEST", help="The request that is going to be confirmed.")
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Show what an erasure would remove, of a person or of a request; nothing changes."""
    run = invocation(ctx)
    if (user is None) == (request is None):
        raise typer.BadParameter("name the person or the request", param_hint="--user / --request")
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        if request is not None:
            found = asyncio.run(runtime.gdpr.preview_request(request, tenant_id))
        else:
            assert user is not None
            found = asyncio.run(_preview(runtime, user, tenant_id))
    shown = preview_for_people(found) if request else _for_people(found.counts, found.subject_id, "would remove")
    run.output.result(_preview_document(found), *shown)


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
    with claimed(out) as write, calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        if not yes:
            found = asyncio.run(_preview(runtime, user, tenant_id))
            run.output.result({}, *_for_people(found.counts, found.subject_id, "would remove"))
            typer.confirm("Erase this person? It cannot be undone.", abort=True)
        with progress(run.output, "Erasing"):
            erased = asyncio.run(runtime.gdpr.delete_user_data(user, tenant_id, confirmed=True, reason=reason))
        assert isinstance(erased, Erasure)
        if erased.certificate is not None:
            write(erased.certificate)
    run.output.result(
        {**request_document(erased), "file": out},
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
    out: Annotated[
        Path,
        typer.Option(metavar="DIR|FILE", help="A directory, empty or missing; with --recipient a file: x.zip.age."),
    ],
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient",
            metavar="KEY",
            help="Encrypt to this public key, age1… or 'ssh-ed25519 …'; may be given more than once.",
        ),
    ] = None,
    notice: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            metavar="NOTICE.json",
            help="What you have to tell the person besides: texts by topic (docs/person-export.md).",
        ),
    ] = None,
    tenant: KeyTenant = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Write everything that is kept of a person to DIR: files for programs, and index.html for people.

    With --recipient it is one file that only the holders of those keys can open, and nothing of it was on a disk in
    the clear. `memory import` reads both again, the encrypted one once it is decrypted.
    """
    run = invocation(ctx)
    said = _notice(notice)
    with calling(ctx, api_key, api_key_file, tenant), run.opened() as runtime:
        tenant_id = tenant_of_caller(runtime, tenant)
        with progress(run.output, "Exporting") as bar:
            bundle = asyncio.run(
                runtime.gdpr.export_user_data(
                    user, tenant_id, out, recipients=recipient or (), notice=said, progress=bar.phase
                )
            )
    rows = [(name, str(count)) for name, count in bundle.counts.items()]
    if bundle.encrypted:
        written = f"Written to {out}. Its recipient opens it with: age -d -i KEYFILE {out.name} > {out.stem}"
    else:
        written = f"Written to {bundle.directory}: {', '.join(bundle.files)}. It is personal data in the clear."
    run.output.result(
        {
            "tenant_id": tenant_id,
            "directory": bundle.directory,
            "files": bundle.files,
            "counts": bundle.counts,
            "encrypted": bundle.encrypted,
        },
        table(("kept", "records"), rows),
        written,
    )


def _notice(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is no JSON document") from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} is no JSON object of texts by topic")
    return found


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
        "digest": found.digest,
    }


def _for_people(counts: Mapping[str, int], subject_id: str | None, verb: str) -> tuple[RenderableType, ...]:
    if subject_id is None:
        return ("Nothing is kept of this person.",)
    rows = [(place, str(count)) for place, count in counts.items() if count]
    return (f"Subject {subject_id}", table(("place", verb), rows))


register(app)
gdpr_certificates.register(app)
