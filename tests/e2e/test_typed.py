"""A command that a test types is forked and not started; it ends as one that a shell starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nursery import ROOT
from tests.support.typed import environment, run


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("tenants", "--help"), 0),
        (("tenants", "create"), 2),
        (("no-such-noun",), 2),
        (("gdpr", "list"), 4),
    ],
)
def test_what_it_writes_and_how_it_ends(arguments: tuple[str, ...], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cloud", "--home", str(tmp_path), *arguments]
    started = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    forked = run(*arguments, home=tmp_path)
    assert started.returncode == code
    assert (forked.returncode, forked.stdout, forked.stderr) == (code, started.stdout, started.stderr)


def test_it_has_a_process_and_an_environment_of_its_own(tmp_path: Path) -> None:
    kills = f"import os\nassert os.environ['GIVEN'] == 'so'\nos.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert run("--version", code=kills, variables={"GIVEN": "so"}).returncode == -signal.SIGKILL
    late = f"import atexit, pathlib\natexit.register(pathlib.Path({str(tmp_path / 'late')!r}).touch)"
    assert run("--version", code=late).returncode == 0
    assert (tmp_path / "late").exists()
    failed = run("--version", code="raise RuntimeError('before it began')")
    assert failed.returncode == 1
    assert failed.stderr.endswith("RuntimeError: before it began\n")
    assert os.environ.get("GIVEN") is None
