"""What one process acknowledges, every other sees at once; two runtimes of one process do not disturb each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from tests.crash.conftest import opened
from tests.crash.laws import assert_whole
from tests.support.homes import postmaster_pid, temporary_home
from tests.support.processes import Child, Installation

pytestmark = pytest.mark.crash


@dataclass
class Pair:
    """Two processes on one installation; B's snapshots are made hot before A changes anything."""

    installation: Installation
    a: Child
    b: Child

    def found_by_b(self, tenant_id: str) -> set[str]:
        """Contents that B's search finds; its retrieve must find the same."""
        searched = self.b.ask("search", tenant=tenant_id, user="alice")
        retrieved = self.b.ask("retrieve", tenant=tenant_id, user="alice", query="fact", limit=1000)
        contents = {memory["content"] for memory in searched}
        assert {memory["content"] for memory in retrieved} == contents
        return contents


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with opened() as made:
        yield made


@pytest.fixture(scope="module")
def pair(installation: Installation) -> Pair:
    a = installation.child()
    b = installation.another()
    installation.open(b)
    return Pair(installation, a, b)


def test_a_store_of_one_is_found_by_the_other_at_once(pair: Pair, tenant_id: str) -> None:
    pair.a.ask("store", tenant=tenant_id, user="alice", contents=["fact 0"])
    for number in range(1, 12):
        assert pair.found_by_b(tenant_id) == {f"fact {n}" for n in range(number)}
        # Both write in turn: neither may believe that its own write was the only one.
        writer = pair.a if number % 2 else pair.b
        writer.ask("store", tenant=tenant_id, user="alice", contents=[f"fact {number}"])
        if number == 6:
            pair.a.ask("drain")
    assert_whole(pair.installation, tenant_id, ("alice",))


def test_what_one_deletes_is_gone_for_the_other_at_once(pair: Pair, tenant_id: str) -> None:
    pair.a.ask("store_many", tenant=tenant_id, user="alice", contents=[f"fact {n}" for n in range(6)])
    (many,) = pair.installation.journal.of(tenant_id, "store_many")
    left = {f"fact {n}" for n in range(6)}
    for number, memory_id in enumerate(many.answer):
        assert pair.found_by_b(tenant_id) == left
        pair.a.ask("delete", tenant=tenant_id, user="alice", ids=[memory_id])
        assert pair.b.ask("get", tenant=tenant_id, user="alice", memory_id=memory_id) is None
        left.remove(f"fact {number}")
    assert pair.found_by_b(tenant_id) == set()
    assert_whole(pair.installation, tenant_id, ("alice",))


def test_a_person_erased_by_one_is_gone_for_the_other_and_comes_back_as_somebody_new(
    pair: Pair, tenant_id: str
) -> None:
    pair.b.ask("store_many", tenant=tenant_id, user="alice", contents=["fact 1", "fact 2"])
    (many,) = pair.installation.journal.of(tenant_id, "store_many")
    former = pair.b.ask("subject", tenant=tenant_id, user="alice")
    assert pair.found_by_b(tenant_id) == {"fact 1", "fact 2"}
    assert pair.a.ask("erase", tenant=tenant_id, user="alice")["state"] in ("verified", "certified")
    assert pair.b.ask("get", tenant=tenant_id, user="alice", memory_id=many.answer[0]) is None
    assert pair.found_by_b(tenant_id) == set()
    assert not pair.b.ask("has_key", tenant=tenant_id, subject=former)
    pair.b.ask("store", tenant=tenant_id, user="alice", contents=["fact 3"])
    assert pair.found_by_b(tenant_id) == {"fact 3"}
    assert pair.a.ask("subject", tenant=tenant_id, user="alice") not in (None, former)
    assert [memory["content"] for memory in pair.a.ask("search", tenant=tenant_id, user="alice")] == ["fact 3"]


def test_an_expired_memory_is_gone_for_the_other_at_its_time(pair: Pair, tenant_id: str) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=1.5)
    pair.a.ask("store", tenant=tenant_id, user="alice", contents=["fact that ends"], expires_at=ends.isoformat())
    pair.a.ask("store", tenant=tenant_id, user="alice", contents=["fact that stays"])
    (operation, _) = pair.installation.journal.of(tenant_id, "store")
    assert pair.found_by_b(tenant_id) == {"fact that ends", "fact that stays"}
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.01)
    assert pair.b.ask("get", tenant=tenant_id, user="alice", memory_id=operation.answer) is None
    assert pair.found_by_b(tenant_id) == {"fact that stays"}


def test_what_one_changes_the_other_reads_at_once(pair: Pair, tenant_id: str) -> None:
    pair.a.ask("store_many", tenant=tenant_id, user="alice", contents=["fact 0", "fact 1", "fact 2"])
    (many,) = pair.installation.journal.of(tenant_id, "store_many")
    changed, replaced, deleted = many.answer
    expected = {"fact 0", "fact 1", "fact 2"}
    for number in range(6):
        assert pair.found_by_b(tenant_id) == expected
        # Both write in turn, from intake and from Pixeltable.
        writer = pair.a if number % 2 else pair.b
        writer.ask("update", tenant=tenant_id, user="alice", memory_id=changed, contents=[f"fact changed {number}"])
        expected = {f"fact changed {number}", "fact 1", "fact 2"}
        if number == 3:
            pair.a.ask("drain")
    assert pair.found_by_b(tenant_id) == expected
    pair.a.ask("supersede", tenant=tenant_id, user="alice", memory_id=replaced, content="fact instead")
    expected = {"fact changed 5", "fact instead", "fact 2"}
    assert pair.found_by_b(tenant_id) == expected
    pair.a.ask("delete", tenant=tenant_id, user="alice", ids=[deleted])
    assert pair.found_by_b(tenant_id) == expected - {"fact 2"}
    pair.a.ask("undelete", tenant=tenant_id, user="alice", memory_id=deleted)
    assert pair.found_by_b(tenant_id) == expected


def test_closing_one_of_two_runtimes_of_a_process_leaves_the_other_whole() -> None:
    """Whichever is closed: server, registry, worker and computed column go on serving the other."""
    with opened() as alone:
        child = alone.child()
        child.ask("tenant", tenant="acme", limit=100)
        alone.open(child)
        assert child.ask("registry") == {"memory_provider": 1}
        for which in (0, 1):
            child.ask("store", tenant="acme", user="alice", contents=[f"through {which}"], which=which)
        child.ask("close", which=1)
        assert child.ask("registry") == {"memory_provider": 0}, "the earlier one is registered again"
        child.ask("store", tenant="acme", user="alice", contents=["after the later one has gone"], which=0)
        child.ask("drain", which=0)
        alone.open(child)
        child.ask("close", which=0)
        assert child.ask("registry") == {"memory_provider": 2}, "the one that stays open stays registered"
        child.ask("store", tenant="acme", user="alice", contents=["after the earlier one has gone"])
        assert_whole(alone, "acme", ("alice",))
        assert len(alone.books().ledger("acme")) == 4
        child.ask("close", which=2)
        assert child.ask("registry") == {"memory_provider": None}
        assert postmaster_pid(alone.home) is None


def test_a_second_home_in_one_process_is_refused_and_the_first_goes_on(pair: Pair, tenant_id: str) -> None:
    with temporary_home() as other:
        answer = pair.b.ask("open", home=str(other), settings=dict(pair.installation.settings))
        assert answer["error"] == "ConfigurationError"
        assert postmaster_pid(other) is None, "what was started for it is stopped again"
    pair.b.ask("store", tenant=tenant_id, user="alice", contents=["as before"])
    assert pair.found_by_b(tenant_id) == {"as before"}


def test_starting_again_after_closing_finds_all(pair: Pair, tenant_id: str) -> None:
    child = pair.installation.another()
    for number in range(2):
        pair.installation.open(child)
        child.ask("store", tenant=tenant_id, user="alice", contents=[f"in life {number}"])
        child.ask("close", which=-1)
    assert pair.found_by_b(tenant_id) == {"in life 0", "in life 1"}
