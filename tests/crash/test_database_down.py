"""PostgreSQL does not answer, or is gone and cannot come back: callers learn it in time, and nothing is lost."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import opened
from tests.crash.laws import assert_whole
from tests.support.processes import Child, Installation, frozen_server, kill_whole_server

pytestmark = pytest.mark.crash

DEADLINE_S = 2.0
STATEMENT_S = 0.7
# The operation itself, and the attempt to record that it failed, each have the deadline and may begin one more
# statement before it.
ANSWERED_WITHIN_S = 2 * (DEADLINE_S + STATEMENT_S + 0.5) + 1.0


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with opened(deadline_s=DEADLINE_S, statement_s=STATEMENT_S) as made:
        yield made


@contextmanager
def nobody_can_start(home: Path) -> Iterator[None]:
    """Another process is busy starting the server, as far as the others can tell."""
    descriptor = os.open(home / "locks/start.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def prepared(installation: Installation, tenant_id: str) -> tuple[Child, str, int]:
    """A person with hot memories; returns also one of their ids, and how many operations there were."""
    child = installation.child()
    child.ask("store_many", tenant=tenant_id, user="alice", contents=["alice likes tea", "alice likes trains"])
    child.ask("retrieve", tenant=tenant_id, user="alice", query="tea")
    (many,) = installation.journal.of(tenant_id, "store_many")
    return child, many.answer[0], len(installation.journal.of(tenant_id))


def assert_all_unavailable(installation: Installation, tenant_id: str, since: int) -> None:
    operations = installation.journal.of(tenant_id)[since:]
    assert len(operations) == 8
    for operation in operations:
        assert operation.error is not None, operation
        assert operation.error["error"] == "ProviderUnavailableError", operation
        assert operation.error["retryable"] is True
        assert operation.error["seconds"] < ANSWERED_WITHIN_S, operation


def test_a_server_that_stands_still_is_reported_in_time(installation: Installation, tenant_id: str) -> None:
    child, memory_id, since = prepared(installation, tenant_id)
    with frozen_server(installation.home):
        child.ask("everything", tenant=tenant_id, user="alice", memory_id=memory_id)
    assert_all_unavailable(installation, tenant_id, since)
    child.ask("store", tenant=tenant_id, user="alice", contents=["stored afterwards"])
    assert_whole(installation, tenant_id, ("alice", "new person"))


def test_a_server_that_nobody_can_start_is_reported_in_time(installation: Installation, tenant_id: str) -> None:
    child, memory_id, since = prepared(installation, tenant_id)
    with nobody_can_start(installation.home):
        kill_whole_server(installation.home, "everything")
        child.ask("everything", tenant=tenant_id, user="alice", memory_id=memory_id)
    assert_all_unavailable(installation, tenant_id, since)
    child.ask("store", tenant=tenant_id, user="alice", contents=["stored afterwards"])
    assert_whole(installation, tenant_id, ("alice", "new person"))
