"""The closing of a tenant is cut off at every named place, with its process or the server; it ends all the same."""

from __future__ import annotations

import json
import signal
import time

import pytest

from cloud.kernel import failpoints
from tests.support.processes import Died, HowKilled, Installation

pytestmark = pytest.mark.crash

PLACES = tuple(name for name in failpoints.NAMES if name.startswith("close."))


def two_people(installation: Installation, tenant_id: str) -> None:
    """Alice and Bob have memories, some in Pixeltable, some still in intake."""
    child = installation.child()
    for user in ("alice", "bob"):
        child.ask("store_many", tenant=tenant_id, user=user, contents=[f"{user}'s fact {n}" for n in range(5)])
    child.ask("drain")
    child.ask("store", tenant=tenant_id, user="alice", contents=["alice's latest", "alice's very latest"])


def assert_certified(installation: Installation, tenant_id: str) -> None:
    """Every level that could be reached is, and the first certificate says so; nothing has to be looked after."""
    query = "SELECT state, certificate, levels FROM erasures WHERE tenant_id = %s AND whole_tenant"
    ((state, certificate, levels),) = installation.books().query(query, [tenant_id])
    assert state == "certified"
    assert json.loads(certificate)["certificate"]["of"] == "tenant"
    reached = {level for level, told in levels.items() if told["reached_at"]}
    assert reached >= {"logical", "cryptographic", "store", "file", "wal"}, levels


def assert_closed(installation: Installation, tenant_id: str) -> None:
    """It is closed, both planes are empty, no key is left, and the log says once that it is done."""
    child, books = installation.child(), installation.books()
    child.ask("drain")
    assert books.tenant_state(tenant_id) == "closed"
    assert books.ledger(tenant_id) == {}
    # A materializer that lost its lock with the server takes back what it wrote, a moment later.
    give_up_at = time.monotonic() + 10
    while books.rows_in_pixeltable(tenant_id):
        assert time.monotonic() < give_up_at, "rows of a closed tenant stay"
        time.sleep(0.05)
    assert books.used(tenant_id) == 0
    assert child.ask("subject", tenant=tenant_id, user="alice") is None
    done = [event for event in books.events(tenant_id) if event["action"] == "tenant.close"]
    assert [(event["outcome"], event["counts"]["control.memories"]) for event in done] == [("allowed", 12)]
    assert_certified(installation, tenant_id)


@pytest.mark.parametrize("place", PLACES)
def test_the_next_start_finishes_a_closing_that_was_killed_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("close_tenant", tenant=tenant_id)
    assert child.ended() == -signal.SIGKILL
    state = "closed" if place == "close.verified" else "closing"
    assert installation.books().tenant_state(tenant_id) == state
    assert_closed(installation, tenant_id)


@pytest.mark.parametrize(("place", "how"), list(zip(PLACES, ["postmaster", "everything"] * 3, strict=True)))
def test_a_closing_survives_that_the_server_is_killed_at(
    place: str, how: HowKilled, installation: Installation, tenant_id: str
) -> None:
    two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_server", how=how)
    answer = child.ask("close_tenant", tenant=tenant_id)
    assert answer.get("control.memories") == 12, answer
    child.ask("disarm")
    assert_closed(installation, tenant_id)
