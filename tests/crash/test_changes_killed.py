"""A process is killed while memories change: each is there once, at the revision the ledger says, with its content."""

from __future__ import annotations

import signal

import pytest

from tests.support.books import Json
from tests.support.processes import Child, Died, Installation

pytestmark = pytest.mark.crash

OF_UPDATES = ("update.sealed", "update.committed")
OF_MATERIALIZING = (
    "materializer.selected",
    "materializer.replaced",
    "materializer.inserted",
    "materializer.cleared",
)


def stored(installation: Installation, tenant_id: str, count: int) -> list[str]:
    child = installation.child()
    child.ask("store_many", tenant=tenant_id, user="alice", contents=[f"fact {n}" for n in range(count)])
    (many,) = installation.journal.of(tenant_id, "store_many")
    child.ask("drain")
    return list(many.answer)


def update_and_drain(child: Child, tenant_id: str, memory_id: str) -> None:
    contents = ["once", "twice", "thrice"]
    child.ask("update", tenant=tenant_id, user="alice", memory_id=memory_id, contents=contents)
    child.ask("drain")


def supersede_and_undelete(child: Child, tenant_id: str, old: str, deleted: str) -> None:
    child.ask("supersede", tenant=tenant_id, user="alice", memory_id=old, content="instead")
    child.ask("undelete", tenant=tenant_id, user="alice", memory_id=deleted)


def assert_both_planes_agree(installation: Installation, tenant_id: str) -> dict[str, int]:
    """Nothing waits, and Pixeltable has every memory of the ledger once, at its revision."""
    installation.child().ask("drain")
    books = installation.books()
    assert books.waiting(tenant_id) == []
    ledger = dict(books.query("SELECT memory_id::text, revision FROM memories WHERE tenant_id = %s", [tenant_id]))
    assert books.revisions(tenant_id) == ledger
    assert set(books.materialized(tenant_id).values()) <= {1}
    return ledger


def read(installation: Installation, tenant_id: str, **filters: object) -> dict[str, str]:
    """Content by id of everything that a cold read finds."""
    child = installation.child()
    child.ask("forget")
    found: list[Json] = child.ask("search", tenant=tenant_id, user="alice", filters=filters)
    return {memory["id"]: memory["content"] for memory in found}


@pytest.mark.parametrize("place", OF_UPDATES)
def test_an_update_that_was_killed_happened_or_did_not(place: str, installation: Installation, tenant_id: str) -> None:
    first, second = stored(installation, tenant_id, 2)
    child = installation.child()
    child.ask("update", tenant=tenant_id, user="alice", memory_id=first, contents=["acknowledged"])
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("update", tenant=tenant_id, user="alice", memory_id=second, contents=["in doubt"])
    assert child.ended() == -signal.SIGKILL
    happened = place == "update.committed"
    assert read(installation, tenant_id) == {first: "acknowledged", second: "in doubt" if happened else "fact 1"}
    assert assert_both_planes_agree(installation, tenant_id) == {first: 2, second: 2 if happened else 1}
    assert read(installation, tenant_id) == {first: "acknowledged", second: "in doubt" if happened else "fact 1"}
    events = [event for event in installation.books().events(tenant_id) if event["action"] == "memory.update"]
    assert [event["resource_ids"] for event in events] == [[first], *([[second]] if happened else [])]
    (changes,) = installation.books().query("SELECT count(*) FROM memory_changes WHERE tenant_id = %s", [tenant_id])
    assert changes[0] == len(events)


@pytest.mark.parametrize("place", OF_MATERIALIZING)
def test_an_acknowledged_update_is_materialized_once_after_a_kill_at(
    place: str, installation: Installation, tenant_id: str
) -> None:
    first, second = stored(installation, tenant_id, 2)
    child = installation.child()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        update_and_drain(child, tenant_id, first)
    assert child.ended() == -signal.SIGKILL
    done = [op for op in installation.journal.of(tenant_id, "update") if op.acknowledged]
    begun = installation.journal.of(tenant_id, "update")
    ledger = assert_both_planes_agree(installation, tenant_id)
    assert 1 + len(done) <= ledger[first] <= 1 + len(begun)
    contents = ["fact 0", "once", "twice", "thrice"]
    assert read(installation, tenant_id) == {first: contents[ledger[first] - 1], second: "fact 1"}


@pytest.mark.parametrize("place", ["supersede.committed", "undelete.committed"])
def test_what_committed_before_the_kill_is_whole(place: str, installation: Installation, tenant_id: str) -> None:
    old, deleted = stored(installation, tenant_id, 2)
    child = installation.child()
    child.ask("delete", tenant=tenant_id, user="alice", ids=[deleted])
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        supersede_and_undelete(child, tenant_id, old, deleted)
    assert child.ended() == -signal.SIGKILL
    back = {deleted: "fact 1"} if place == "undelete.committed" else {}
    found = read(installation, tenant_id)
    (new,) = found.keys() - back.keys()
    assert found == {new: "instead", **back}
    assert read(installation, tenant_id, include_invalid=True) == {old: "fact 0", **found}
    assert installation.books().used(tenant_id) == len(found)
    assert_both_planes_agree(installation, tenant_id)
    lines = installation.child().ask("history", tenant=tenant_id, user="alice", memory_id=old)
    assert [line["kind"] for line in lines] == ["stored", "superseded"]
