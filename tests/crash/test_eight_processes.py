"""Eight processes on one new home: all start at once, share one quota exactly, and the last stops the server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.crash.conftest import opened
from tests.support.homes import postmaster_pid
from tests.support.processes import Child, Installation

pytestmark = pytest.mark.crash

PROCESSES = 8
WRITERS = 50
LIMIT = 200


@dataclass
class Fleet:
    """The processes, all of which opened the home at once."""

    installation: Installation
    children: list[Child]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    # What is asked here is whether counters and connections suffice, on a machine however slow: 400 calls at once that
    # meet at one counter take their turns, and none shall give up before its own.
    with opened(prepared=False, deadline_s=120.0, statement_s=60.0) as installation:
        children = [installation.another() for _ in range(PROCESSES)]
        for child in children:
            child.say("open", home=str(installation.home), settings=dict(installation.settings))
        pids = [child.told() for child in children]
        assert pids == [child.pid for child in children]
        yield Fleet(installation, children)


def test_each_of_them_works_on_the_one_server(fleet: Fleet) -> None:
    assert {child.ask("facts")["server"] for child in fleet.children} == {postmaster_pid(fleet.installation.home)}
    for number, child in enumerate(fleet.children):
        child.say("tenant", tenant=f"tenant-{number}", limit=10)
    for child in fleet.children:
        assert child.told() is None
    for number, child in enumerate(fleet.children):
        child.ask("store", tenant=f"tenant-{number}", user="alice", contents=[f"fact of {number}"])
        (found,) = child.ask("retrieve", tenant=f"tenant-{number}", user="alice", query="fact")
        assert found["content"] == f"fact of {number}"


def test_400_writers_in_8_processes_are_admitted_exactly_up_to_the_limit_of_200(fleet: Fleet) -> None:
    installation = fleet.installation
    fleet.children[0].ask("tenant", tenant="full", limit=LIMIT)
    at = time.time() + 1.0
    for number, child in enumerate(fleet.children):
        # One person for all writers of a process: nobody waits for new keys, so the writers do meet at the counter.
        child.say("rush", tenant="full", users=[f"user-{number}"] * WRITERS, at=at)
    for child in fleet.children:
        child.told()
    operations = installation.journal.of("full")
    assert len(operations) == PROCESSES * WRITERS
    admitted = [operation.answer for operation in operations if operation.acknowledged]
    refused = [operation.error for operation in operations if operation.error is not None]
    assert len(set(admitted)) == len(admitted) == LIMIT
    assert {(error["error"], error["limit"]) for error in refused} == {("QuotaExceededError", LIMIT)}
    assert len(refused) == PROCESSES * WRITERS - LIMIT
    books = installation.books()
    assert books.used("full") == LIMIT
    assert books.ledger("full") == dict.fromkeys(admitted, "active")
    events = [event for event in books.events("full") if event["action"] == "memory.store"]
    assert Counter(event["outcome"] for event in events) == {"allowed": LIMIT, "denied": len(refused)}
    outcome_of = {event["request_id"]: event["outcome"] for event in events}
    assert len(outcome_of) == len(events)
    for operation in operations:
        assert outcome_of[operation.request_id] == ("allowed" if operation.acknowledged else "denied")
    for number in range(PROCESSES):
        mine = [operation for operation in operations if operation.user_id == f"user-{number}"]
        assert len(mine) == WRITERS
        assert all(operation.acknowledged or operation.error is not None for operation in mine)


def test_what_is_deleted_can_be_stored_anew_once_by_whoever_comes_first(fleet: Fleet) -> None:
    installation, first = fleet.installation, fleet.children[0]
    before = len(installation.journal.of("full"))
    mine = [op for op in installation.journal.of("full", "store") if op.acknowledged][:3]
    for operation in mine:
        first.ask("delete", tenant="full", user=operation.user_id, ids=[operation.answer])
    at = time.time() + 0.3
    for number, child in enumerate(fleet.children):
        child.say("rush", tenant="full", users=[f"late-{number}"], at=at)
    for child in fleet.children:
        child.told()
    late = [op for op in installation.journal.of("full", "store")[-PROCESSES:] if op.user_id.startswith("late-")]
    assert len(late) == PROCESSES
    assert len(installation.journal.of("full")) == before + len(mine) + PROCESSES
    assert sum(operation.acknowledged for operation in late) == len(mine)
    assert installation.books().used("full") == LIMIT


def test_all_of_them_at_full_load_find_enough_connections(fleet: Fleet) -> None:
    fleet.children[0].ask("tenant", tenant="busy", limit=10_000)
    for number, child in enumerate(fleet.children):
        child.say("store", tenant="busy", user=f"user-{number}", contents=["a fact"] * 100, tasks=WRITERS)
    for child in fleet.children:
        child.told()
    assert [op.error for op in fleet.installation.journal.of("busy") if op.error] == []
    assert fleet.installation.books().used("busy") == PROCESSES * 100


def test_closing_them_stops_the_server_with_the_last_and_all_is_there_afterwards(fleet: Fleet) -> None:
    installation = fleet.installation
    *others, last = fleet.children
    for child in others:
        child.say("close")
    for child in others:
        child.told()
    assert postmaster_pid(installation.home) == last.ask("facts")["server"]
    last.ask("store", tenant="tenant-0", user="bob", contents=["still served"])
    last.ask("close")
    assert postmaster_pid(installation.home) is None
    after = installation.child()
    for number in range(PROCESSES):
        (found,) = after.ask("search", tenant=f"tenant-{number}", user="alice")
        assert found["content"] == f"fact of {number}"
    (found,) = after.ask("search", tenant="tenant-0", user="bob")
    assert found["content"] == "still served"
    after.ask("drain")
    ledger = installation.books().ledger("full")
    assert installation.books().materialized("full") == Counter(dict.fromkeys(ledger, 1))
