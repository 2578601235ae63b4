"""The worker, as a process of its own, is killed again and again; and with its parent: everything is there once."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.crash.conftest import opened
from tests.crash.laws import assert_whole
from tests.support.homes import postmaster_pid, wait_until_gone
from tests.support.processes import Installation, processes_naming

pytestmark = pytest.mark.crash

MEMORIES = 201
PARTS = 3


def worker(installation: Installation, *, other_than: int | None = None) -> int:
    """Process id of the running worker, once there is one."""
    give_up_at = time.monotonic() + 30
    while (pid := installation.child().ask("facts")["worker"]) in (None, other_than):
        assert time.monotonic() < give_up_at, "nobody started the worker again"
        time.sleep(0.05)
    return int(pid)


def test_a_worker_that_is_killed_again_and_again_materializes_everything_once() -> None:
    chance = random.Random(20)
    with opened(worker="process") as installation:
        child = installation.child()
        child.ask("tenant", tenant="acme", limit=MEMORIES + 1)
        child.ask("store", tenant="acme", user="alice", contents=["the table is made"])
        child.ask("drain")
        killed = worker(installation)
        for part in range(PARTS):
            child.say(
                "store",
                tenant="acme",
                user="alice",
                contents=[f"memory {part}-{n}" for n in range(MEMORIES // PARTS)],
                tasks=2,
            )
            time.sleep(chance.uniform(0.0, 0.1))
            os.kill(killed, signal.SIGKILL)
            child.told()
            if part < PARTS - 1:
                killed = worker(installation, other_than=killed)
                # Somewhere between its start and its first batches.
                time.sleep(chance.uniform(0.5, 2.5))
        assert_whole(installation, "acme", ("alice",))
        assert len(installation.books().ledger("acme")) == MEMORIES + 1


def test_a_killed_provider_takes_its_worker_and_then_the_server_with_it() -> None:
    """Nobody is left to stop what it started but the worker, which notices and leaves as the last one."""
    with opened(worker="process") as installation:
        child = installation.child()
        child.ask("tenant", tenant="acme", limit=10)
        child.ask("store", tenant="acme", user="alice", contents=["acknowledged"])
        pid, server = worker(installation), postmaster_pid(installation.home)
        child.ask("drain")
        child.kill()
        wait_until_gone(pid, deadline_s=30)
        assert server is not None
        wait_until_gone(server, deadline_s=30)
        assert processes_naming(installation.home) == []
        assert_whole(installation, "acme", ("alice",))
