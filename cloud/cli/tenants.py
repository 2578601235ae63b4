"""`luminescent-cloud tenants`: create, list, change, move, suspend, resume and close them, as the local operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.gdpr_requests import level_documents
from cloud.cli.invocation import invocation, somebody_can_be_asked
from cloud.cli.new_files import claimed
from cloud.cli.output import moment, table
from cloud.cli.progress import progress
from cloud.gdpr.model import Erasure
from cloud.tenancy.model import Tenant

app = typer.Typer(no_args_is_help=True, help="Tenants: the boundary of isolation and billing.")
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="1-63 of a-z, 0-9, _ and -.", show_default=False)]


@app.command()
def create(
    ctx: typer.Context,
    tenant: TenantId,
    plan: Annotated[str, typer.Option(help="Plan of the plan file, such as free, team or enterprise.")] = "free",
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="METER=N", help="A limit instead of the plan's, such as memories=200; -1 is unlimited."),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(metavar="own|pooled", help="A table of its own, or one shared with others, which is the default."),
    ] = None,
) -> None:
    """Create a tenant; repeating it with the same values changes nothing."""
    run = invocation(ctx)
    with run.opened() as runtime:
        made = runtime.tenants.create(tenant, plan=plan, limits=_limits(limit or []), placement=placement)
    run.output.result(_document(made), f"Tenant {made.tenant_id} is on plan {made.plan}{_overrides(made)}.")


@app.command()
def move(
    ctx: typer.Context,
    tenant: TenantId,
    to: Annotated[
        str, typer.Option("--to", metavar="own|pooled|NAME", help="A table of its own, its pooled one, or one by name.")
    ],
) -> None:
    """Move a tenant's memories to another table while they are read and written.

    A move that was cut off is continued by the same command, or by the next worker that starts.
    """
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, f"Moving {tenant}") as bar:
        moved = runtime.tenants.move(tenant, to=to, progress=bar.told)
    document = {
        "tenant_id": tenant,
        "from": moved.source,
        "to": moved.target,
        "state": moved.state,
        "rows": moved.copied,
        "started_at": moved.started_at,
        "finished_at": moved.finished_at,
    }
    if moved.source == moved.target:
        said = f"Tenant {tenant} is in {moved.target} already."
    else:
        said = (
            f"Tenant {tenant} is in {moved.target} now, with {moved.copied} memories; none is left in {moved.source}."
        )
    run.output.result(document, said)


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List all tenants."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.tenants.list()
    columns = ("tenant", "state", "plan", "limits of its own", "placement", "created")
    rows = [
        (t.tenant_id, t.state.value, t.plan, _shown(t.limits) or "-", t.placement, moment(t.created_at)) for t in found
    ]
    run.output.result({"tenants": [_document(t) for t in found]}, table(columns, rows) if rows else "No tenant yet.")


@app.command()
def change(
    ctx: typer.Context,
    tenant: TenantId,
    plan: Annotated[str | None, typer.Option(help="Another plan of the plan file.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METER=N", help="A limit instead of the plan's; -1 is unlimited, `plan` the plan's again."
        ),
    ] = None,
) -> None:
    """Change a tenant's plan or limits of its own; what is in use beyond a new limit stays."""
    run = invocation(ctx)
    dropped = [meter for meter, _, value in (option.partition("=") for option in limit or []) if value == "plan"]
    limits = _limits([option for option in limit or [] if not option.endswith("=plan")])
    with run.opened() as runtime:
        changed = runtime.tenants.change(tenant, plan=plan, limits=limits, drop_limits=dropped)
    run.output.result(_document(changed), f"Tenant {changed.tenant_id} is on plan {changed.plan}{_overrides(changed)}.")


@app.command()
def close(
    ctx: typer.Context,
    tenant: TenantId,
    yes: Annotated[bool, typer.Option("--yes", help="Close without asking.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Where to write the certificate; must not exist."),
    ] = None,
) -> None:
    """Close a tenant, irrevocably: everything of its people is erased when this returns, and its name stays taken.

    What the tenant shall keep is exported before: `memory export` and `audit export`. One whose closing was cut off is
    finished by the same command, by the next start, or by the worker.
    """
    run = invocation(ctx)
    if not yes and (run.output.as_json or not somebody_can_be_asked()):
        raise typer.BadParameter("a tenant is closed with --yes where nobody can be asked", param_hint="--yes")
    with claimed(out) as write, run.opened() as runtime:
        if not yes:
            found = runtime.closing.close(tenant)
            run.output.result({}, _erased(found.counts, "would erase"))
            typer.confirm(f"Close tenant {tenant}? It cannot be undone.", abort=True)
        with progress(run.output, f"Closing {tenant}"):
            closed = runtime.closing.close(tenant, confirmed=True)
        assert isinstance(closed, Erasure)
        if closed.certificate is not None:
            write(closed.certificate)
    document = {
        "tenant_id": tenant,
        "state": "closed",
        "counts": closed.counts,
        "levels": level_documents(closed),
        "certificate": closed.certificate,
        "file": out,
    }
    run.output.result(
        document,
        _erased(closed.counts, "erased"),
        f"Tenant {tenant} is closed.",
        f"Certificate written to {out}; luminescent-cloud gdpr verify {out} --key VKEY checks it anywhere."
        if out is not None
        else f"Its certificate: luminescent-cloud tenants certificate {tenant} --out FILE",
    )


@app.command()
def certificate(
    ctx: typer.Context,
    tenant: TenantId,
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE", help="Where to; must not exist.")],
) -> None:
    """Write the newest certificate of a closed tenant to FILE; a later level that is reached gets a new one."""
    run = invocation(ctx)
    with claimed(out) as write, run.opened() as runtime:
        found = runtime.closing.certificate(tenant)
        write(found)
    run.output.result(
        {"tenant_id": tenant, "file": out, "certificate": found},
        f"Written to {out}; luminescent-cloud gdpr verify {out} --key VKEY checks it anywhere.",
    )


@app.command()
def suspend(ctx: typer.Context, tenant: TenantId) -> None:
    """Refuse every operation of a tenant from now on; nothing of it is deleted."""
    run = invocation(ctx)
    with run.opened() as runtime:
        runtime.tenants.suspend(tenant)
    run.output.result({"tenant_id": tenant, "state": "suspended"}, f"Tenant {tenant} is suspended.")


@app.command()
def resume(ctx: typer.Context, tenant: TenantId) -> None:
    """Serve a suspended tenant again."""
    run = invocation(ctx)
    with run.opened() as runtime:
        runtime.tenants.resume(tenant)
    run.output.result({"tenant_id": tenant, "state": "active"}, f"Tenant {tenant} is served again.")


def _erased(counts: Mapping[str, int], verb: str) -> RenderableType:
    return table(("place", verb), [(place, str(count)) for place, count in counts.items() if count], right={verb})


def _limits(options: list[str]) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for option in options:
        meter, _, number = option.partition("=")
        try:
            limits[meter] = int(number)
        except ValueError as exc:
            raise typer.BadParameter("a limit is METER=N, such as memories=200", param_hint="--limit") from exc
    return limits


def _document(tenant: Tenant) -> dict[str, object]:
    return {
        "tenant_id": tenant.tenant_id,
        "state": tenant.state,
        "plan": tenant.plan,
        "limits": tenant.limits,
        "placement": tenant.placement,
        "created_at": tenant.created_at,
    }


def _shown(limits: dict[str, int | None]) -> str:
    return ", ".join(f"{meter} {'unlimited' if limit is None else limit}" for meter, limit in limits.items())


def _overrides(tenant: Tenant) -> str:
    return f", with limits of its own: {_shown(tenant.limits)}" if tenant.limits else ""
