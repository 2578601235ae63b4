"""PostgreSQL is killed at every named place while the provider lives: it starts it again and loses nothing."""

from __future__ import annotations

import pytest

from tests.crash.laws import assert_whole
from tests.crash.test_provider_killed import PLACES, USERS
from tests.support.processes import HowKilled, Installation

pytestmark = pytest.mark.crash

# Each place loses the whole server once, and once in one of the gentler ways in turn.
CASES: list[tuple[str, HowKilled]] = [(place, "everything") for place in PLACES]
CASES += [(place, ("postmaster", "immediate")[number % 2]) for number, place in enumerate(PLACES)]


@pytest.mark.parametrize(("place", "how"), CASES)
def test_no_operation_notices_that_the_server_was_killed_at(
    place: str, how: HowKilled, installation: Installation, tenant_id: str
) -> None:
    child = installation.child()
    child.ask("store_many", tenant=tenant_id, user="alice", contents=[f"kept fact {n} of {place}" for n in range(6)])
    child.ask("store", tenant=tenant_id, user="bob", contents=["bob likes quiet trains"])
    (many,) = installation.journal.of(tenant_id, "store_many")
    child.ask("arm", name=place, action="kill_server", nth=2, how=how)
    for round_number in range(4):
        contents = [f"round {round_number} memory {n}" for n in range(10)]
        child.ask("store", tenant=tenant_id, user="alice", contents=contents, tasks=3)
        child.ask("delete", tenant=tenant_id, user="alice", ids=[many.answer[round_number]])
        child.ask("retrieve", tenant=tenant_id, user="alice", query="memory")
    if place.startswith("materializer"):
        child.ask("drain")
        child.ask("store", tenant=tenant_id, user="alice", contents=["one more batch"])
    assert child.ask("reached")
    child.ask("disarm")
    assert_whole(installation, tenant_id, USERS)
    assert child is installation.child(), "the provider lives on"
    failures = [op.error for op in installation.journal.of(tenant_id) if op.error is not None]
    assert failures == [], "bounded retries bridge a restart of the server"
