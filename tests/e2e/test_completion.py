"""The shell completes the command's nouns and verbs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.nursery import ROOT
from tests.support.typed import environment


def asked(**variables: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell asks it for completions; which shell runs this test does not matter."""
    return subprocess.run(
        [sys.executable, "-m", "cloud"],
        cwd=ROOT,
        env={**environment(), **variables, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("typed", "completed"), [("luminescent-cloud ten", "tenants"), ("luminescent-cloud tenants sus", "suspend")]
)
def test_what_was_begun_is_completed(typed: str, completed: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = asked(_LUMINESCENT_CLOUD_COMPLETE="complete_bash", **words)
    assert done.stdout.split() == [completed]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_shown(shell: str) -> None:
    shown = asked(_LUMINESCENT_CLOUD_COMPLETE=f"source_{shell}")
    assert (shown.returncode, "_LUMINESCENT_CLOUD_COMPLETE" in shown.stdout) == (0, True)
