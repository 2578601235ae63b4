"""The closing of a tenant is cut off at every named place, with its process or the server; it ends all the same."""

from __future__ import annotations

import signal

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


def assert_closed(installation: Installation, tenant_id: str) -> None:
    """It is closed, both planes are empty, no key is left, and the log says once that it is done."""
    child, books = installation.child(), installation.books()
    child.ask("drain")
    assert books.tenant_state(tenant_id) == "closed"
    assert books.ledger(tenant_id) == {}
    assert not books.materialized(tenant_id)
    assert books.used(tenant_id) == 0
    assert child.ask("subject", tenant=tenant_id, user="alice") is None
    done = [event for event in books.events(tenant_id) if event["action"] == "tenant.close"]
    assert [(event["outcome"], event["counts"]["control.memories"]) for event in done] == [("allowed", 12)]


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
    assert installation.books().tenant_state(tenant_id) == "closing"
    assert_closed(installation, tenant_id)


@pytest.mark.parametrize(("place", "how"), list(zip(PLACES, ["postmaster", "everything"] * 2, strict=True)))
def test_a_closing_survives_that_the_server_is_killed_at(
    place: str, how: HowKilled, installation: Installation, tenant_id: str
) -> None:
    two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_server", how=how)
    assert child.ask("close_tenant", tenant=tenant_id)["control.memories"] == 12
    child.ask("disarm")
    assert_closed(installation, tenant_id)
