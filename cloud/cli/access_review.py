"""`luminescent-cloud tenants access-review`: who may enter, and which keys somebody should look at."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

import typer

from cloud.cli.invocation import invocation
from cloud.cli.output import moment, table
from cloud.tenancy.access_review import AccessReview, Finding, ReviewedKey

_ADVICE: Final = {
    Finding.NEVER_USED: "never used: revoke it, unless it is new",
    Finding.UNUSED: "not used for long: ask its owner, then revoke it",
    Finding.NO_EXPIRY: "never expires: rotate it, and give the new one an end with --days",
    Finding.MANY_ROLES: "opens most of the tenant: several keys could each do less",
}


def access_review(
    ctx: typer.Context,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="One tenant; all of them when left out.")
    ] = None,
    stale_days: Annotated[
        int, typer.Option("--stale-days", min=1, max=36_500, help="Days unused from which on a key is a finding.")
    ] = 90,
) -> None:
    """Report every API key with its roles, ranges and last use, and what deserves a look."""
    run = invocation(ctx)
    with run.opened() as runtime:
        found = runtime.api_keys.review(tenant, stale_after=timedelta(days=stale_days))
    document = {
        "at": found.at,
        "stale_days": stale_days,
        "api_keys": [_document(key) for key in found.keys],
        "tokens": {"issuer": found.tokens.issuer, "roles": found.tokens.roles} if found.tokens else None,
    }
    columns = ("tenant", "key", "state", "roles", "one person's", "from", "created", "expires", "last used", "findings")
    shown = table(columns, [_row(key) for key in found.keys]) if found.keys else "There is no API key."
    run.output.result(document, shown, *_explained(found), _told_of_tokens(found))


def _document(key: ReviewedKey) -> dict[str, object]:
    return {
        "tenant_id": key.tenant_id,
        "key_id": key.key_id,
        "prefix": key.prefix,
        "state": key.state,
        "roles": key.roles,
        "bound_to_person": key.is_personal,
        "ip_ranges": [str(one) for one in key.ip_ranges],
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "successor_id": key.successor_id,
        "findings": key.findings,
    }


def _row(key: ReviewedKey) -> tuple[str, ...]:
    return (
        key.tenant_id,
        key.key_id,
        key.state.value,
        ", ".join(key.roles),
        "yes" if key.is_personal else "-",
        ", ".join(str(one) for one in key.ip_ranges) or "anywhere",
        moment(key.created_at),
        moment(key.expires_at),
        moment(key.last_used_at),
        ", ".join(key.findings) or "-",
    )


def _explained(found: AccessReview) -> list[str]:
    counts = {finding: sum(finding in key.findings for key in found.keys) for finding in Finding}
    return [f"{finding.value} ({count}): {_ADVICE[finding]}" for finding, count in counts.items() if count]


def _told_of_tokens(found: AccessReview) -> str:
    if found.tokens is None:
        return "Beside these keys nothing opens: no issuer's tokens are accepted."
    return f"Beside these keys, tokens of {found.tokens.issuer} open as: {', '.join(found.tokens.roles)}."
