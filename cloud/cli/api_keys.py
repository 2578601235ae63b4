"""`luminescent-cloud api-keys`: create, list and revoke them, as the local operator."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.invocation import invocation
from cloud.cli.output import moment, table
from cloud.kernel.errors import ConfigurationError
from cloud.tenancy.model import ApiKeyRecord, split_api_key

app = typer.Typer(no_args_is_help=True, help="API keys: what an application or an administrator acts with.")
TenantId = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The tenant that the keys open.")]


@app.command()
def create(
    ctx: typer.Context,
    tenant: TenantId,
    role: Annotated[list[str], typer.Option(help="service, member, tenant_admin or auditor; may be repeated.")],
    user: Annotated[str | None, typer.Option(help="The person the key acts as; needed for member.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it stops working.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the key to a new file (mode 0600) instead of showing it.")
    ] = None,
) -> None:
    """Make a key. Its text is shown this once and kept nowhere."""
    run = invocation(ctx)
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    if out is not None and out.exists():
        raise ConfigurationError(f"{out} exists; name a new file")
    with run.opened() as runtime:
        text = runtime.api_keys.create(tenant, roles=role, user_id=user, expires_at=expires_at)
    parts = split_api_key(text)
    assert parts is not None
    document: dict[str, object] = {"key_id": parts[0], "tenant_id": tenant, "roles": role, "expires_at": expires_at}
    if out is None:
        run.output.result({**document, "api_key": text}, text)
        run.output.note("Keep it now: it is shown this once.")
        return
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
    run.output.result({**document, "file": out}, f"Key {parts[0]} is in {out}.")


@app.command("list")
def list_(ctx: typer.Context, tenant: TenantId) -> None:
    """List the keys of a tenant, without their secrets, which nobody has."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.api_keys.list(tenant)
    now = datetime.now(UTC)
    rows = [
        (
            key.key_id,
            _state(key, now),
            ", ".join(sorted(key.roles)),
            "yes" if key.subject_id else "-",
            moment(key.expires_at),
        )
        for key in found
    ]
    document = {
        "api_keys": [
            {
                "key_id": key.key_id,
                "state": _state(key, now),
                "roles": sorted(key.roles),
                "bound_to_person": key.subject_id is not None,
                "expires_at": key.expires_at,
                "revoked_at": key.revoked_at,
            }
            for key in found
        ]
    }
    columns = ("key", "state", "roles", "one person's", "expires")
    run.output.result(document, table(columns, rows) if rows else "This tenant has no API key.")


@app.command()
def revoke(ctx: typer.Context, tenant: TenantId, key_id: Annotated[str, typer.Argument(metavar="KEY_ID")]) -> None:
    """Revoke a key: it opens nothing from now on."""
    run = invocation(ctx)
    with run.opened() as runtime:
        revoked = runtime.api_keys.revoke(tenant, key_id)
    if not revoked:
        raise ConfigurationError("there is no such key that still works in this tenant")
    run.output.result({"key_id": key_id, "revoked": True}, f"Key {key_id} opens nothing any more.")


def _state(key: ApiKeyRecord, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"
