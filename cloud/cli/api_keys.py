"""`luminescent-cloud api-keys`: create, list, rotate and revoke them, as the local operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.invocation import Invocation, invocation
from cloud.cli.new_files import claimed
from cloud.cli.output import moment, table
from cloud.kernel.errors import ConfigurationError
from cloud.tenancy.model import ApiKeyRecord, split_api_key

app = typer.Typer(no_args_is_help=True, help="API keys: what an application or an administrator acts with.")
TenantId = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The tenant that the keys open.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The id, which is the second part of the key's text.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the key to a new file (mode 0600) instead of showing it.")
]


@app.command()
def create(
    ctx: typer.Context,
    tenant: TenantId,
    role: Annotated[list[str], typer.Option(help="service, member, tenant_admin or auditor; may be repeated.")],
    user: Annotated[str | None, typer.Option(help="The person the key acts as; needed for member.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it stops working.")] = None,
    ip_range: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Where it may be used from, such as 192.0.2.0/24; may be repeated."),
    ] = None,
    out: Out = None,
) -> None:
    """Make a key. Its text is shown this once and kept nowhere."""
    run = invocation(ctx)
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    facts = {"tenant_id": tenant, "roles": role, "expires_at": expires_at, "ip_ranges": ip_range or []}
    with claimed(out) as write, run.opened() as runtime:
        text = runtime.api_keys.create(
            tenant, roles=role, user_id=user, expires_at=expires_at, ip_ranges=ip_range or ()
        )
        _hand_over(run, text, out, write, facts)


@app.command("list")
def list_(ctx: typer.Context, tenant: TenantId) -> None:
    """List the keys of a tenant, without their secrets, which nobody has."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.api_keys.list(tenant)
    now = datetime.now(UTC)
    rows = [
        (
            f"{key.prefix}…",
            key.state(now).value,
            ", ".join(sorted(key.roles)),
            "yes" if key.subject_id else "-",
            ", ".join(_ranges(key)) or "anywhere",
            moment(key.expires_at),
            moment(key.last_used_at),
        )
        for key in found
    ]
    document = {
        "api_keys": [
            {
                "key_id": key.key_id,
                "prefix": key.prefix,
                "state": key.state(now),
                "roles": sorted(key.roles),
                "bound_to_person": key.subject_id is not None,
                "ip_ranges": _ranges(key),
                "created_at": key.created_at,
                "expires_at": key.expires_at,
                "revoked_at": key.revoked_at,
                "last_used_at": key.last_used_at,
                "successor_id": key.successor_id,
            }
            for key in found
        ]
    }
    columns = ("key", "state", "roles", "one person's", "from", "expires", "last used")
    run.output.result(document, table(columns, rows) if rows else "This tenant has no API key.")


@app.command()
def rotate(
    ctx: typer.Context,
    tenant: TenantId,
    key_id: KeyId,
    grace_hours: Annotated[
        float, typer.Option(min=0, max=876_000, help="Hours for which the old key opens beside the new one.")
    ] = 24,
    out: Out = None,
) -> None:
    """Make a key with the same roles, person and ranges; the old one ends after the grace period."""
    run = invocation(ctx)
    facts = {"tenant_id": tenant, "follows": key_id, "grace_hours": grace_hours}
    with claimed(out) as write, run.opened() as runtime:
        text = runtime.api_keys.rotate(tenant, key_id, grace=timedelta(hours=grace_hours))
        _hand_over(run, text, out, write, facts)
    run.output.note(f"Key {key_id} ends in {grace_hours:g} hours. Give the new one to whatever uses it before that.")


@app.command()
def revoke(ctx: typer.Context, tenant: TenantId, key_id: KeyId) -> None:
    """Revoke a key: it opens nothing from now on."""
    run = invocation(ctx)
    with run.opened() as runtime:
        revoked = runtime.api_keys.revoke(tenant, key_id)
    if not revoked:
        raise ConfigurationError("there is no such key that still works in this tenant")
    run.output.result({"key_id": key_id, "revoked": True}, f"Key {key_id} opens nothing any more.")


def _hand_over(
    run: Invocation, text: str, out: Path | None, write: Callable[[str], None], facts: Mapping[str, object]
) -> None:
    parts = split_api_key(text)
    assert parts is not None
    document: dict[str, object] = {"key_id": parts[0], **facts}
    if out is None:
        run.output.result({**document, "api_key": text}, text)
        run.output.note("Keep it now: it is shown this once.")
        return
    try:
        write(text + "\n")
    except ConfigurationError as exc:
        raise ConfigurationError(f"{exc}; key {parts[0]} opens and nobody has its text: rotate or revoke it") from exc
    run.output.result({**document, "file": out}, f"Key {parts[0]} is in {out}.")


def _ranges(key: ApiKeyRecord) -> list[str]:
    return [str(one) for one in key.ip_ranges]
