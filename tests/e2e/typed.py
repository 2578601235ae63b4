"""Types a command, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120

Finished = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """This process's environment without settings of an installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LUMINESCENT_")}


def run(*arguments: str | Path, home: Path | None = None, code: str | None = None) -> Finished:
    """Run the command to its end.

    Args:
        arguments: What is typed after `luminescent-cloud`.
        home: The installation.
        code: Python that runs first, in the same process.
    """
    start = [sys.executable, "-m", "cloud"]
    if code is not None:
        start = [sys.executable, "-c", f"{code}\nfrom cloud.__main__ import main\nmain()"]
    named = ["--home", str(home)] if home is not None else []
    return subprocess.run(
        [*start, *named, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def document(finished: Finished) -> dict[str, Any]:
    """The one JSON document that a command wrote."""
    found = json.loads(finished.stdout)
    assert isinstance(found, dict)
    return found
