"""A home of its own for the commands that a module types."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import postmaster_pid, temporary_home, wait_until_gone
from tests.support.nursery import ROOT
from tests.support.typed import DEADLINE_S, environment


@pytest.fixture(scope="module")
def served_home() -> Iterator[Path]:
    """A home beside which `luminescent-cloud worker` runs, which keeps its server up; both end at the end."""
    with temporary_home() as home:
        command = [sys.executable, "-m", "cloud", "--home", str(home), "worker"]
        worker = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        try:
            yield home
            server = postmaster_pid(home)
            assert server is not None
            worker.send_signal(signal.SIGTERM)
            _, said = worker.communicate(timeout=DEADLINE_S)
            assert worker.returncode == 0
            assert "Traceback" not in said
            wait_until_gone(server)
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()
