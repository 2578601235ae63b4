"""`luminescent-cloud doctor`: looks at the whole installation, also at one that does not open."""

from __future__ import annotations

import typer

from cloud.cli.findings import show
from cloud.cli.invocation import invocation


def doctor(ctx: typer.Context) -> None:
    """Look at the whole installation and say how to mend what is wrong; ends with 1 if something must be mended."""
    run = invocation(ctx)
    show(run, run.program.upkeep.doctor(run.settings()))
