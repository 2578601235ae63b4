"""`luminescent-cloud tokens`: what an issuer's token would open, and taking one back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.invocation import invocation, read_credential
from cloud.cli.output import moment

app = typer.Typer(no_args_is_help=True, help="Tokens (JWT) of the issuer that the settings name.")
TokenFile = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, allow_dash=False, metavar="FILE", help="File with the token in its first line."
    ),
]


@app.command()
def check(ctx: typer.Context, file: TokenFile) -> None:
    """Tell what a token opens now, or why it opens nothing."""
    run = invocation(ctx)
    text = read_credential(run.output, file)
    with run.opened() as runtime:
        facts = runtime.tokens.check(text)
    document = {
        "tenant_id": facts.tenant_id,
        "roles": facts.roles,
        "acts_as_person": facts.is_personal,
        "expires_at": facts.expires_at,
    }
    person = "as one person" if facts.is_personal else "as nobody in particular"
    run.output.result(
        document, f"Opens {facts.tenant_id} as {', '.join(facts.roles)}, {person}, until {moment(facts.expires_at)}."
    )


@app.command()
def revoke(ctx: typer.Context, file: TokenFile) -> None:
    """Revoke a token: it opens nothing from now on, in any process."""
    run = invocation(ctx)
    text = read_credential(run.output, file)
    with run.opened() as runtime:
        expires_at = runtime.tokens.revoke(text)
    run.output.result(
        {"revoked": True, "would_have_expired_at": expires_at},
        f"The token opens nothing any more; it would have expired at {moment(expires_at)}.",
    )
    run.output.note("The issuer may give its holder another one: have the account closed there too.")
