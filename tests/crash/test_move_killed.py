"""A move is killed at every named place; the next worker or the same command finishes it, and nothing is lost."""

from __future__ import annotations

import signal
import time

import pytest

from cloud.kernel import failpoints
from cloud.tenancy.model import pooled_placement
from cloud.tenancy.placements import own_placement
from tests.crash.conftest import opened
from tests.crash.laws import assert_whole
from tests.support.processes import Died, HowKilled, Installation

pytestmark = pytest.mark.crash

PLACES = tuple(name for name in failpoints.NAMES if name.startswith("move."))
USERS = ("alice", "bob")


def two_people(installation: Installation, tenant_id: str) -> None:
    """Memories in Pixeltable, some still in intake, one deleted."""
    child = installation.child()
    for user in USERS:
        child.ask("store_many", tenant=tenant_id, user=user, contents=[f"{user}'s fact {n}" for n in range(6)])
    child.ask("drain")
    child.ask("store", tenant=tenant_id, user="alice", contents=["the harbour gate opens", "quiet trains at noon"])
    (first, *_), _ = (op.answer for op in installation.journal.of(tenant_id, "store_many"))
    child.ask("delete", tenant=tenant_id, user="alice", ids=[first])


def assert_moved(installation: Installation, tenant_id: str) -> None:
    """Everything is in the tenant's own table and nothing in the old one; one event says that it is done."""
    pool, own = pooled_placement(tenant_id), own_placement(tenant_id)
    books = installation.books()
    assert books.placement(tenant_id)[0] == own
    assert books.moves(tenant_id) == [(pool, own, "done")]
    # Each row is in one table, as `assert_whole` counts over all of them, and none is in the old one.
    assert_whole(installation, tenant_id, USERS)
    child = installation.child()
    assert child.ask("vectors", tenant=tenant_id, placement=pool, model="hashing")["rows"] == 0
    done = [event for event in books.events(tenant_id) if event["action"] == "tenant.move"]
    assert [event["outcome"] for event in done if event["outcome"] != "failed"] == ["allowed"]


def until_done(installation: Installation, tenant_id: str) -> None:
    give_up_at = time.monotonic() + 60
    while installation.books().moves(tenant_id)[0][2] != "done":
        assert time.monotonic() < give_up_at, "no worker finished the move"
        time.sleep(0.1)


@pytest.mark.parametrize("place", PLACES)
def test_the_next_worker_finishes_a_move_that_was_killed_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("move", tenant=tenant_id, to="own")
    assert child.ended() == -signal.SIGKILL
    # The new process serves at once, while its worker moves.
    child = installation.child()
    child.ask("store", tenant=tenant_id, user="bob", contents=["a forklift after the kill"])
    until_done(installation, tenant_id)
    assert_moved(installation, tenant_id)


@pytest.mark.parametrize(("place", "how"), [("move.copied", "everything"), ("move.switched", "postmaster")])
def test_the_same_command_finishes_a_move_that_the_server_was_killed_in(
    place: str, how: HowKilled, installation: Installation, tenant_id: str
) -> None:
    two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_server", how=how)
    answer = child.ask("move", tenant=tenant_id, to="own")
    child.ask("disarm")
    if "error" in answer:
        assert answer["retryable"], answer
        answer = child.ask("move", tenant=tenant_id, to="own")
    assert answer["state"] == "done"
    assert_moved(installation, tenant_id)


def test_another_process_reads_and_writes_while_a_tenant_moves(installation: Installation, tenant_id: str) -> None:
    two_people(installation, tenant_id)
    mover, other = installation.child(), installation.another()
    installation.open(other)
    mover.say("move", tenant=tenant_id, to="own")
    for n in range(10):
        other.ask("store", tenant=tenant_id, user="bob", contents=[f"written beside the move {n}"])
        other.ask("forget")
        found = other.ask("search", tenant=tenant_id, user="bob")
        assert len(found) == 6 + n + 1
    assert mover.told()["state"] == "done"
    assert_moved(installation, tenant_id)


@pytest.mark.parametrize("place", ["materializer.selected", "materializer.inserted"])
def test_a_materializer_that_lost_its_lock_neither_loses_nor_leaves_anything(place: str) -> None:
    """It writes to the old table after the tenant moved: intake keeps the rows for the new one, the old is cleaned."""
    with opened(worker="off") as installation:
        child, books = installation.child(), installation.books()
        pool, own = pooled_placement("acme"), own_placement("acme")
        child.ask("tenant", tenant="acme", limit=100)
        child.ask("store", tenant="acme", user="alice", contents=["alice grows tall tomatoes"])
        child.ask("batch", placement=pool)
        child.ask("store", tenant="acme", user="alice", contents=["forklift seven needs repair"])
        child.ask("late_batch", tenant="acme", placement=pool, at=place, to="own")
        assert books.placement("acme")[0] == own
        assert child.ask("vectors", tenant="acme", placement=pool, model="hashing")["rows"] == 0
        assert len(books.waiting("acme")) == 1, "cleared, though the new table has it not"
        child.ask("batch", placement=own)
        assert_whole(installation, "acme", ("alice",))


def test_a_batch_without_a_lock_between_the_last_look_and_the_switch_clears_nothing() -> None:
    """What it writes is in a table that is looked at no more: the epoch keeps it from clearing intake."""
    with opened(worker="off") as installation:
        child, books = installation.child(), installation.books()
        pool, own = pooled_placement("acme"), own_placement("acme")
        child.ask("tenant", tenant="acme", limit=100)
        child.ask("store", tenant="acme", user="alice", contents=["alice grows tall tomatoes"])
        child.ask("batch", placement=pool)
        child.ask("store", tenant="acme", user="alice", contents=["forklift seven needs repair"])
        answer = child.ask("move_past_batch", tenant="acme", placement=pool, to="own")
        assert answer.get("state") == "done", answer
        assert len(books.waiting("acme")) == 1
        child.ask("batch", placement=own)
        assert child.ask("vectors", tenant="acme", placement=pool, model="hashing")["rows"] == 0
        assert_whole(installation, "acme", ("alice",))
