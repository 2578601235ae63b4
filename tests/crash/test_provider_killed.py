"""The provider is killed at every named place of writing, deleting and materializing; the next one finds all whole."""

from __future__ import annotations

import signal

import pytest

from tests.crash.laws import assert_whole
from tests.support.processes import Child, Died, Installation

pytestmark = pytest.mark.crash

PLACES = (
    "store.sealed",
    "store.committed",
    "delete.committed",
    "materializer.selected",
    "materializer.inserted",
    "materializer.cleared",
)
USERS = ("alice", "bob")


@pytest.mark.parametrize("place", PLACES)
def test_what_was_acknowledged_is_there_once_after_a_kill_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    child = installation.child()
    child.ask("store_many", tenant=tenant_id, user="alice", contents=[f"kept fact {n} of {place}" for n in range(6)])
    child.ask("store", tenant=tenant_id, user="bob", contents=["bob likes quiet trains"])
    (many,) = installation.journal.of(tenant_id, "store_many")
    child.ask("arm", name=place, action="kill_self", nth=3 if place.startswith("store") else 2)
    with pytest.raises(Died):
        work_on(child, tenant_id, many.answer)
    assert child.ended() == -signal.SIGKILL
    assert_whole(installation, tenant_id, USERS)


def work_on(child: Child, tenant_id: str, old: list[str]) -> None:
    """Store and delete, several at a time; for longer than it takes to reach every place."""
    for round_number in range(50):
        contents = [f"round {round_number} memory {n}" for n in range(20)]
        child.ask("store", tenant=tenant_id, user="alice", contents=contents, tasks=3)
        child.ask("delete", tenant=tenant_id, user="alice", ids=[old[round_number % len(old)]])


def test_what_was_undecided_is_complete_or_absent(installation: Installation, tenant_id: str) -> None:
    """The place tells which: what was sealed only is absent, what had committed is there and can be read."""
    for place, expected in (("store.sealed", []), ("store.committed", ["after the commit"])):
        child = installation.child()
        child.ask("arm", name=place, action="kill_self")
        content = "after the commit" if expected else "before the commit"
        with pytest.raises(Died):
            child.ask("store", tenant=tenant_id, user="alice", contents=[content])
        found = installation.child().ask("search", tenant=tenant_id, user="alice")
        assert [memory["content"] for memory in found] == expected
    assert_whole(installation, tenant_id, USERS)
