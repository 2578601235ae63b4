"""A rotation is killed at every named place, a writer beside it; the next start finishes it, and all is readable."""

from __future__ import annotations

import signal

import pytest

from cloud.kernel.failpoints import NAMES
from tests.crash.laws import assert_whole
from tests.support.processes import Died, Installation

pytestmark = pytest.mark.crash

PLACES = tuple(name for name in NAMES if name.startswith("rotate."))
BEFORE_ITS_END = {name for name in PLACES if name not in ("rotate.root.ended", "rotate.root.promoted")}
BEFORE_ITS_END -= {"rotate.tenant.ended"}


def keyring_of(installation: Installation) -> tuple[str, int]:
    """The root key that the control plane saw last, and how many root keys lie in the home."""
    ((root_key_id,),) = installation.books().query("SELECT root_key_id FROM keyring_state")
    return root_key_id, len(list((installation.home / "secrets").glob("root.key*")))


@pytest.mark.parametrize("place", PLACES)
def test_the_next_start_finishes_a_rotation_that_was_killed_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    child, bystander = installation.child(), installation.another()
    installation.open(bystander)
    child.ask("store_many", tenant=tenant_id, user="alice", contents=[f"fact {n}" for n in range(5)])
    child.ask("drain")
    before = keyring_of(installation)
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("rotate", tenant=tenant_id if ".tenant." in place else None)
    assert child.ended() == -signal.SIGKILL
    # Nobody who runs is locked out in the middle of it: neither the people of before nor new ones.
    bystander.ask("forget")
    bystander.ask("store", tenant=tenant_id, user="alice", contents=["in the middle"])
    bystander.ask("store", tenant=tenant_id, user=f"new-{place}", contents=["of somebody new"])
    assert len(bystander.ask("search", tenant=tenant_id, user="alice")) == 6
    child = installation.child()
    log_id = tenant_id if ".tenant." in place else "_system"
    resumed = [event for event in installation.books().events(log_id) if event["reason"] == "resumed"]
    assert len(resumed) >= (place in BEFORE_ITS_END)
    if ".root." in place:
        after = keyring_of(installation)
        assert after[0] != before[0]
        assert after[1] == before[1] + 1, "the new root key is in its file, and the former one beside it"
    child.ask("drain")
    child.ask("forget")
    for one in (child, bystander):
        assert len(one.ask("search", tenant=tenant_id, user="alice")) == 6
        assert len(one.ask("search", tenant=tenant_id, user=f"new-{place}")) == 1
    bystander.say("quit")
    assert bystander.ended() == 0
    assert_whole(installation, tenant_id, ("alice", f"new-{place}"))


def test_two_rotations_at_once_end_as_one_after_the_other(installation: Installation, tenant_id: str) -> None:
    child, other = installation.child(), installation.another()
    installation.open(other)
    child.ask("store", tenant=tenant_id, user="alice", contents=["a fact"])
    child.ask("arm", name="rotate.tenant.batch", action="wait")
    child.ask("begin_rotation", tenant=tenant_id)
    assert child.ask("reached")
    assert other.ask("store", tenant=tenant_id, user="alice", contents=["meanwhile"]) is None
    refused = other.ask("rotate", tenant=tenant_id)
    assert (refused["error"], refused["retryable"]) == ("ProviderUnavailableError", True)
    child.ask("go")
    assert child.ask("end_rotation") is None
    assert other.ask("rotate", tenant=tenant_id) is None
    assert_whole(installation, tenant_id, ("alice",))
    ended = [event for event in installation.books().events(tenant_id) if event["action"] == "keyring.rotate"]
    assert sorted((event["outcome"], event["reason"]) for event in ended if event["outcome"] == "failed") == [
        ("failed", "unavailable")
    ], "the one that was refused is in the log, once"
    assert [event["reason"] for event in ended if event["outcome"] == "allowed"] == [None, None]
