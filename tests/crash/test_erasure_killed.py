"""An erasure is cut off at every named place, with its process or with the server; it ends all the same, verified."""

from __future__ import annotations

import signal

import pytest

from cloud.kernel import failpoints
from tests.crash.laws import assert_whole
from tests.support.processes import Died, HowKilled, Installation

pytestmark = pytest.mark.crash

PLACES = tuple(name for name in failpoints.NAMES if name.startswith("erase."))
USERS = ("alice", "bob")


def two_people(installation: Installation, tenant_id: str) -> str:
    """Alice and Bob have memories, some in Pixeltable, some still in intake; returns Alice's subject id."""
    child = installation.child()
    for user in USERS:
        child.ask("store_many", tenant=tenant_id, user=user, contents=[f"{user}'s fact {n}" for n in range(5)])
    child.ask("drain")
    child.ask("store", tenant=tenant_id, user="alice", contents=["alice's latest", "alice's very latest"])
    (first, *_), _ = (op.answer for op in installation.journal.of(tenant_id, "store_many"))
    child.ask("delete", tenant=tenant_id, user="alice", ids=[first])
    subject_id = child.ask("subject", tenant=tenant_id, user="alice")
    assert subject_id is not None
    return str(subject_id)


def assert_erased(installation: Installation, tenant_id: str, subject_id: str) -> None:
    """Nothing of Alice is left; Bob's is whole; the record says verified, and one event says that it is done."""
    child, books = installation.child(), installation.books()
    child.ask("drain")
    ((erased, state),) = books.erasures(tenant_id)
    assert erased == subject_id
    assert state in ("verified", "certified")
    # What remains points to nobody: a stone that refuses late writes, the record, and the events of the past.
    assert books.rows_naming(subject_id).keys() == {"subjects", "erasures", "audit_events"}
    assert child.ask("subject", tenant=tenant_id, user="alice") is None
    assert not child.ask("has_key", tenant=tenant_id, subject=subject_id)
    assert_whole(installation, tenant_id, USERS, erased="alice")
    assert books.used(tenant_id) == 5
    done = [event for event in books.events(tenant_id) if event["action"] == "gdpr.erase"]
    assert [event["outcome"] for event in done if event["subject_id"] == subject_id] == ["allowed"]


@pytest.mark.parametrize("place", PLACES)
def test_the_next_start_finishes_an_erasure_that_was_killed_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    subject_id = two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("erase", tenant=tenant_id, user="alice")
    assert child.ended() == -signal.SIGKILL
    ((erased, state),) = installation.books().erasures(tenant_id)
    assert erased == subject_id
    assert state != "certified"
    assert (state == "verified") == (place == "erase.verified")
    assert_erased(installation, tenant_id, subject_id)


@pytest.mark.parametrize(("place", "how"), list(zip(PLACES, ["postmaster", "everything"] * 3, strict=True)))
def test_an_erasure_survives_that_the_server_is_killed_at(
    place: str, how: HowKilled, installation: Installation, tenant_id: str
) -> None:
    subject_id = two_people(installation, tenant_id)
    child = installation.child()
    child.ask("arm", name=place, action="kill_server", how=how)
    answer = child.ask("erase", tenant=tenant_id, user="alice")
    assert (answer["state"] in ("verified", "certified"), answer["subject"]) == (True, subject_id)
    child.ask("disarm")
    assert_erased(installation, tenant_id, subject_id)
    assert child is installation.child()


def test_a_materializer_that_lost_its_lock_brings_nothing_back(installation: Installation, tenant_id: str) -> None:
    """It took rows from intake, the server was killed, an erasure passed; only then does it go on and write."""
    child = installation.child()
    child.ask("store", tenant=tenant_id, user="bob", contents=[f"bob's fact {n}" for n in range(5)])
    child.ask("drain")
    child.ask("arm", name="materializer.selected", action="kill_server_and_wait")
    child.ask("store_many", tenant=tenant_id, user="alice", contents=["alice's fact", "alice's other fact"])
    subject_id = child.ask("subject", tenant=tenant_id, user="alice")
    assert child.ask("reached")
    answer = child.ask("erase", tenant=tenant_id, user="alice")
    child.ask("go")
    assert (answer["state"] in ("verified", "certified"), answer["subject"]) == (True, subject_id)
    assert_erased(installation, tenant_id, subject_id)


def test_a_frozen_person_is_gone_for_every_process_and_what_is_pending_in_one_comes_nowhere(
    installation: Installation, tenant_id: str
) -> None:
    """Two hold her hot, and one of them has taken her newest row from intake; a third freezes her and dies."""
    first, second, third = installation.child(), installation.another(), installation.another()
    for child in (second, third):
        installation.open(child)
    first.ask("store_many", tenant=tenant_id, user="bob", contents=[f"bob's fact {n}" for n in range(5)])
    first.ask("store_many", tenant=tenant_id, user="alice", contents=["alice's fact", "alice's other fact"])
    first.ask("drain")
    (_, many) = installation.journal.of(tenant_id, "store_many")
    subject_id = str(first.ask("subject", tenant=tenant_id, user="alice"))
    for child in (first, second, third):
        # Whichever of them materializes it.
        child.ask("arm", name="materializer.selected", action="wait")
    first.ask("store", tenant=tenant_id, user="alice", contents=["alice's pending fact"])
    assert len(second.ask("search", tenant=tenant_id, user="alice")) == 3
    third.ask("arm", name="erase.frozen", action="kill_self")
    with pytest.raises(Died):
        third.ask("erase", tenant=tenant_id, user="alice")
    for child in (first, second):
        assert child.ask("search", tenant=tenant_id, user="alice") == []
        assert child.ask("get", tenant=tenant_id, user="alice", memory_id=many.answer[0]) is None
        child.ask("go")
    fourth = installation.another()
    installation.open(fourth)
    assert_erased(installation, tenant_id, subject_id)
    for child in (first, second, fourth):
        assert child.ask("search", tenant=tenant_id, user="alice") == []
