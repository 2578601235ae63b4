"""Shows what a look at an installation found, and ends with 1 if something must be mended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer
from rich.console import Group
from rich.text import Text

from cloud.cli.failures import ExitCode
from cloud.cli.invocation import Invocation
from cloud.cli.output import printable
from cloud.kernel.findings import Finding, Level, holds

_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red", Level.SKIPPED: "dim"}
_MARKS: Final = {Level.OK: "ok", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM", Level.SKIPPED: "skipped"}


def show(run: Invocation, findings: Sequence[Finding]) -> None:
    """Say what was found, each with how to mend it.

    Raises:
        typer.Exit: Something must be mended.
    """
    document = {
        "holds": holds(findings),
        "findings": [
            {"check": f.check, "level": f.level, "what": f.what, "how_to_mend": f.how_to_mend} for f in findings
        ],
    }
    looked_at = [_line(finding) for finding in findings if finding.level is not Level.SKIPPED]
    run.output.result(document, Group(*looked_at, *_skipped(findings)), _summary(findings))
    if not holds(findings):
        raise typer.Exit(ExitCode.FAILED)


def _line(finding: Finding) -> Text:
    mark = Text(f"{_MARKS[finding.level]:<8}", style=_STYLES[finding.level])
    line = Text.assemble(mark, f" {finding.check}: {printable(finding.what)}")
    if finding.how_to_mend is not None:
        line.append(f"\n         to mend it: {printable(finding.how_to_mend)}", style="dim")
    return line


def _skipped(findings: Sequence[Finding]) -> list[Text]:
    """One line for all that were skipped for the same reason."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level is Level.SKIPPED:
            names.setdefault(finding.what, []).append(finding.check)
    return [
        Text.assemble(Text("skipped ", style=_STYLES[Level.SKIPPED]), f" {', '.join(checks)}: {printable(what)}")
        for what, checks in names.items()
    ]


def _summary(findings: Sequence[Finding]) -> str:
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    return (
        f"{count[Level.OK]} ok, {count[Level.WARNING]} warnings, {count[Level.PROBLEM]} problems,"
        f" {count[Level.SKIPPED]} skipped"
    )
