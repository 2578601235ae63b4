"""`luminescent-cloud usage`: what a tenant uses, and whether the counters are right, as the local operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, cast

import typer
from rich.console import RenderableType

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import invocation
from cloud.cli.moments import Moment
from cloud.cli.output import moment, table
from cloud.cli.progress import progress
from cloud.usage.model import LEDGER_METERS, PeriodUsage
from cloud.usage.reconciliation import Difference

app = typer.Typer(
    no_args_is_help=True, help="Usage: what a tenant has in stock, what it did, and whether that is right."
)
TenantOption = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose usage.")]


@app.command()
def show(ctx: typer.Context, tenant: TenantOption, since: Moment = None, until: Moment = None) -> None:
    """Show each meter and its limit now, and the operations of a period: this month, if none is named."""
    run = invocation(ctx)
    with run.opened() as runtime:
        summary = runtime.usage.get_usage_summary(tenant, since, until)
    totals = {name: value for name, value in summary.items() if name != "meters"}
    rows = [(name.replace("_", " "), _shown(value)) for name, value in totals.items()]
    meters = cast("Mapping[str, Mapping[str, Any]]", summary["meters"])
    run.output.result(
        {"tenant_id": tenant, **summary},
        table(
            ("meter", "used", "held", "limit", "used of it", "starts anew"),
            [_meter_row(name, standing) for name, standing in meters.items()],
            right=("used", "held", "limit", "used of it"),
        ),
        "",
        table((tenant, ""), rows),
    )


@app.command()
def daily(ctx: typer.Context, tenant: TenantOption, since: Moment = None, until: Moment = None) -> None:
    """Show what was used day by day (UTC), from the ledger: this month, if no period is named."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.usage.daily(tenant, since, until)
    run.output.result(_document(tenant, found), _periods(found, "day", "%Y-%m-%d"))


@app.command()
def monthly(ctx: typer.Context, tenant: TenantOption, since: Moment = None, until: Moment = None) -> None:
    """Show what was used month by month (UTC), from the ledger: this year, if no period is named."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.usage.monthly(tenant, since, until)
    run.output.result(_document(tenant, found), _periods(found, "month", "%Y-%m"))


@app.command()
def reconcile(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="One tenant; else all.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs, and record it.")] = False,
) -> None:
    """Compare counters with the usage ledger and the memories themselves; exit code 1 if they differ."""
    run = invocation(ctx)
    with run.opened() as runtime, progress(run.output, "Comparing books") as bar:
        found = runtime.usage.reconcile(tenant, repair=repair, progress=bar.over)
    document = {"differences": [_difference(one) for one in found], "repaired": repair and bool(found)}
    if not found:
        run.output.result(document, "The counters are what the ledger and the memories say.")
        return
    columns = ("tenant", "meter", "of", "counter", "ledger", "there")
    rows = [
        (
            one.tenant_id,
            one.meter.value,
            f"{one.period:%Y-%m}" if one.period else one.subject_id or "-",
            f"{one.counted:,}",
            "-" if one.ledger is None else f"{one.ledger:,}",
            "-" if one.actual is None else f"{one.actual:,}",
        )
        for one in found
    ]
    said = "Mended." if repair else "Nothing was changed; add --repair to mend it."
    run.output.result(document, table(columns, rows, right=("counter", "ledger", "there")), said)
    raise typer.Exit(ExitCode.FAILED)


def _meter_row(name: str, standing: Mapping[str, Any]) -> tuple[str, ...]:
    used, held, limit = standing["used"], standing["held"], standing["limit"]
    share = "-" if not limit else f"{(used + held) / limit:.0%}"
    return name, f"{used:,}", f"{held:,}", _shown(limit), share, moment(standing["resets_at"])


def _periods(found: Sequence[PeriodUsage], unit: str, form: str) -> RenderableType:
    if not found:
        return "Nothing was used in this period."
    names = ("operations", *(meter.value for meter in LEDGER_METERS))
    rows = [
        (one.start.strftime(form), f"{one.operations:,}", *(f"{one.deltas[meter]:,}" for meter in LEDGER_METERS))
        for one in found
    ]
    return table((unit, *names), rows, right=names)


def _document(tenant: str, found: Sequence[PeriodUsage]) -> dict[str, object]:
    periods = [
        {"start": one.start, "operations": one.operations, **{meter.value: n for meter, n in one.deltas.items()}}
        for one in found
    ]
    return {"tenant_id": tenant, "periods": periods}


def _difference(one: Difference) -> dict[str, object]:
    return {
        "tenant_id": one.tenant_id,
        "meter": one.meter,
        "period": one.period.isoformat() if one.period else None,
        "subject_id": one.subject_id,
        "counted": one.counted,
        "ledger": one.ledger,
        "actual": one.actual,
        "expected": one.expected,
    }


def _shown(value: object) -> str:
    match value:
        case None:
            return "unlimited"
        case datetime():
            return moment(value)
        case dict():
            return f"{value['used']:,} of {_shown(value['limit'])}"
        case int():
            return f"{value:,}"
    return str(value)
