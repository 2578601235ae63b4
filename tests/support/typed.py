"""Types a command, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.nursery import Nursling

DEADLINE_S = 120

Finished = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """This process's environment without settings of an installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LUMINESCENT_")}


def run(
    *arguments: str | Path, home: Path | None = None, code: str = "", variables: Mapping[str, str] | None = None
) -> Finished:
    """Run the command to its end.

    Args:
        arguments: What is typed after `luminescent-cloud`.
        home: The installation.
        code: Python that runs first, in the same process.
        variables: Of its environment, beside this process's own.
    """
    named = ["--home", str(home)] if home is not None else []
    typed = [*named, *map(str, arguments)]
    with (
        Path(os.devnull).open("rb") as nothing,
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,
    ):
        process = Nursling(
            "cloud",
            typed,
            code=code,
            environment=environment() | dict(variables or {}),
            stdin=nothing.fileno(),
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
        )
        try:
            returncode = process.wait(DEADLINE_S)
        finally:
            process.kill()
        for file in (stdout, stderr):
            file.seek(0)
        return Finished(typed, returncode, stdout.read(), stderr.read())


def document(finished: Finished) -> dict[str, Any]:
    """The one JSON document that a command wrote."""
    found = json.loads(finished.stdout)
    assert isinstance(found, dict)
    return found
