"""A purge is killed at every named place: the next one goes on, and no plane keeps what the other has forgotten."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from cloud.kernel import failpoints
from tests.crash.conftest import opened
from tests.support.processes import Died, Installation

pytestmark = pytest.mark.crash

PLACES = tuple(name for name in failpoints.NAMES if name.startswith("purge."))


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Nothing is kept for any time, so what is deleted is due at once."""
    with opened(deleted_retention_days=0, expired_retention_days=0, superseded_retention_days=0) as made:
        yield made


def prepared(installation: Installation, tenant_id: str) -> tuple[set[str], set[str]]:
    """Memories that stay, and memories that are due: deleted, expired and superseded, in Pixeltable and in intake."""
    child = installation.child()
    child.ask("store_many", tenant=tenant_id, user="alice", contents=[f"fact {n}" for n in range(6)])
    expires_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    child.ask("store", tenant=tenant_id, user="bob", contents=["for a moment"], expires_at=expires_at)
    child.ask("drain")
    (many,) = installation.journal.of(tenant_id, "store_many")
    (expiring,) = installation.journal.of(tenant_id, "store")
    deleted, old, *kept = many.answer
    new = child.ask("supersede", tenant=tenant_id, user="alice", memory_id=old, content="instead")
    child.ask("update", tenant=tenant_id, user="alice", memory_id=deleted, contents=["changed before it went"])
    child.ask("delete", tenant=tenant_id, user="alice", ids=[deleted])
    books, give_up_at = installation.books(), time.monotonic() + 60
    while books.ledger(tenant_id)[expiring.answer] != "expired":
        assert time.monotonic() < give_up_at, "nobody took the expired memory out of the stock"
        child.ask("expire")
    return {new, *kept}, {deleted, old, expiring.answer}


@pytest.mark.parametrize("place", PLACES)
def test_a_purge_that_was_killed_is_gone_on_with(place: str, installation: Installation, tenant_id: str) -> None:
    kept, due = prepared(installation, tenant_id)
    child, books = installation.child(), installation.books()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("purge", tenant=tenant_id)
    assert child.ended() == -signal.SIGKILL
    # Whatever is in Pixeltable is named by the ledger: no row is left that nothing would ever find.
    assert books.materialized(tenant_id).keys() <= books.ledger(tenant_id).keys()
    successor = installation.child()
    successor.ask("purge", tenant=tenant_id)
    successor.ask("drain")
    assert books.ledger(tenant_id) == dict.fromkeys(kept, "active")
    assert books.materialized(tenant_id).keys() == kept
    assert books.waiting(tenant_id) == []
    assert books.query("SELECT 1 FROM memory_changes WHERE tenant_id = %s", [tenant_id]) == []
    assert books.used(tenant_id) == len(kept)
    found = successor.ask("search", tenant=tenant_id, user="alice", filters={"include_invalid": True})
    assert {memory["id"] for memory in found} == kept
    events = [event for event in books.events(tenant_id) if event["action"] == "memory.purge"]
    intents = [memory_id for event in events if event["reason"] == "intent" for memory_id in event["resource_ids"]]
    outcomes = [memory_id for event in events if event["reason"] is None for memory_id in event["resource_ids"]]
    assert sorted(intents) == sorted(outcomes) == sorted(due)
    assert sum(event["counts"]["purged"] for event in events if event["reason"] is None) == len(due)


def test_a_purged_memory_is_as_if_it_had_never_been(installation: Installation, tenant_id: str) -> None:
    _, due = prepared(installation, tenant_id)
    child = installation.child()
    assert child.ask("purge", tenant=tenant_id) == {tenant_id: len(due)}
    for memory_id in due:
        assert child.ask("history", tenant=tenant_id, user="alice", memory_id=memory_id) == []
        assert child.ask("undelete", tenant=tenant_id, user="alice", memory_id=memory_id) is False
    assert child.ask("purge", tenant=tenant_id) == {}
