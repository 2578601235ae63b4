"""The shell completes the command's nouns and verbs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.typed import ROOT, environment, run


@pytest.mark.parametrize(
    ("typed", "completed"), [("luminescent-cloud ten", "tenants"), ("luminescent-cloud tenants sus", "suspend")]
)
def test_what_was_begun_is_completed(typed: str, completed: str) -> None:
    asked = {
        "_LUMINESCENT_CLOUD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "cloud"],
        cwd=ROOT,
        env={**environment(), **asked, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [completed]


def test_the_script_for_a_shell_can_be_shown() -> None:
    shown = run("--show-completion", "bash")
    assert (shown.returncode, "_LUMINESCENT_CLOUD_COMPLETE" in shown.stdout) == (0, True)
