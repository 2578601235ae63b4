"""The contract suite of memory providers holds on an external server, reached over TLS."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.external import ExternalServer
from tests.support.nursery import ROOT
from tests.support.typed import environment

SUITES = ("tests/conformance", "tests/memory")
AT_LEAST = 150
"""How many tests the suites have at least: a run that collects next to nothing has shown nothing."""


def test_the_contract_suite_passes_on_an_external_server(empty_server: ExternalServer) -> None:
    """In a process of its own: the settings of its environment decide where its installation is."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *SUITES],
        cwd=ROOT,
        env=environment() | empty_server.environment(owner=False),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr[-2_000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= AT_LEAST
    with empty_server.admin("luminescent_control") as admin:
        (stored,) = admin.execute(
            "SELECT count(*) FROM audit_events"
            " WHERE event->>'action' = 'memory.store' AND event->>'outcome' = 'allowed'"
        ).fetchone()
    assert stored > 50, "the suite ran somewhere else"
