"""What is committed is what somebody wrote: no environment, cache or result of a run is among it."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.nursery import ROOT


def test_nothing_that_is_ignored_is_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("a source distribution has no record of what is committed")
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines() == []
