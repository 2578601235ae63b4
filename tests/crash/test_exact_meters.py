"""Several processes and one quota: each meter admits exactly its limit, and what a killed process held comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.crash.conftest import opened
from tests.support.processes import Child, Installation

pytestmark = pytest.mark.crash

PROCESSES = 4
EACH = 30
LIMIT = 40


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Installation, list[Child]]]:
    with opened() as installation:
        children = [installation.child()]
        for _ in range(PROCESSES - 1):
            child = installation.another()
            installation.open(child)
            children.append(child)
        yield installation, children


def rush(children: list[Child], do: str, **arguments: object) -> list[object]:
    """The same command in every process, at the same time of the day."""
    at = time.time() + 1.0
    for child in children:
        child.say(do, **arguments, at=at)
    return [child.told() for child in children]


def decided(installation: Installation, tenant_id: str, name: str) -> tuple[int, set[tuple[str, int]]]:
    """How many were admitted, and what the others were told."""
    operations = installation.journal.of(tenant_id, name)
    refused = {(op.error["error"], op.error["limit"]) for op in operations if op.error is not None}
    return sum(op.acknowledged for op in operations), refused


@pytest.mark.parametrize("meter", ["writes", "memories_per_subject"])
def test_writers_of_many_processes_are_admitted_exactly_up_to_the_limit(
    fleet: tuple[Installation, list[Child]], meter: str
) -> None:
    installation, children = fleet
    tenant_id = f"exact-{meter.replace('_', '-')}"
    children[0].ask("limited", tenant=tenant_id, limits={meter: LIMIT})
    # One person for all of them; the first memory makes the keys, so that the others meet at the counter.
    children[0].ask("store", tenant=tenant_id, user="alice", contents=["first"])
    rush(children, "rush", tenant=tenant_id, users=["alice"] * EACH)
    assert decided(installation, tenant_id, "store") == (LIMIT, {("QuotaExceededError", LIMIT)})
    usage = children[0].ask("usage", tenant=tenant_id)
    assert (usage["memories"], usage[meter], usage["differences"]) == ([LIMIT, 0], [LIMIT, 0], 0)


@pytest.mark.parametrize("limit", [LIMIT, -1])
def test_readers_of_many_processes_are_admitted_exactly_up_to_the_limit_and_counted_without_one(
    fleet: tuple[Installation, list[Child]], limit: int
) -> None:
    installation, children = fleet
    tenant_id = f"exact-reads-{abs(limit)}"
    children[0].ask("limited", tenant=tenant_id, limits={"reads": limit})
    children[0].ask("store", tenant=tenant_id, user="alice", contents=["likes tea"])
    rush(children, "read_rush", tenant=tenant_id, user="alice", readers=EACH)
    admitted, refused = decided(installation, tenant_id, "retrieve")
    if limit == LIMIT:
        assert (admitted, refused) == (LIMIT, {("QuotaExceededError", LIMIT)})
    else:
        assert (admitted, refused) == (PROCESSES * EACH, set())
    usage = children[0].ask("usage", tenant=tenant_id)
    assert (usage["reads"], usage["differences"]) == ([admitted, 0], 0)


def test_processes_hold_exactly_what_there_is_and_commit_it_once(fleet: tuple[Installation, list[Child]]) -> None:
    _, children = fleet
    children[0].ask("limited", tenant="exact-tokens", limits={"tokens": 7 * LIMIT + 6})
    assert sum(rush(children, "hold", tenant="exact-tokens", amount=7, times=EACH)) == LIMIT  # type: ignore[arg-type]
    assert children[0].ask("usage", tenant="exact-tokens")["tokens"] == [0, 7 * LIMIT]
    booked = [child.ask("commit", actual=5) for child in children]
    assert [units for answers in booked for units in answers] == [5] * (2 * LIMIT)
    usage = children[0].ask("usage", tenant="exact-tokens")
    assert (usage["tokens"], usage["differences"]) == ([5 * LIMIT, 0], 0)


def test_what_a_killed_process_held_is_free_when_its_time_is_over(fleet: tuple[Installation, list[Child]]) -> None:
    installation, children = fleet
    children[0].ask("limited", tenant="killed", limits={"tokens": 100})
    victim = installation.another()
    installation.open(victim)
    assert victim.ask("hold", tenant="killed", amount=100, ttl_s=3.0) == 1
    victim.kill()
    assert children[0].ask("hold", tenant="killed", amount=1) == 0, "it is held until its time is over"
    end_s = time.monotonic() + 20
    while children[0].ask("hold", tenant="killed", amount=100) == 0:
        assert time.monotonic() < end_s, "a crash leaked a reservation"
        time.sleep(0.2)
    usage = children[0].ask("usage", tenant="killed")
    assert (usage["tokens"], usage["differences"]) == ([0, 100], 0)
