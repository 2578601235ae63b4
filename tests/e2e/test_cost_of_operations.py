"""What each operation costs, counted, so that a slower way of doing it turns red on a machine of any speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.costs import BATCH
from tests.support.homes import temporary_home
from tests.support.nursery import ROOT

Costs = dict[str, dict[str, float]]

WAL_BYTES = {
    # About half as much again as was measured.
    "store": 4_500,
    "retrieve": 2_700,
    "search": 2_700,
    "search_text": 2_700,
    "delete": 3_700,
    "store_many": 1_500 * BATCH,
}
OPERATIONS = tuple(WAL_BYTES)


@pytest.fixture(scope="module")
def costs() -> Iterator[Costs]:
    """Of every operation, in an installation where nothing else happens."""
    with temporary_home(prepared=True) as home:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.costs", str(home)],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=240,
        )
        yield json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_one_statement_in_one_round_trip(costs: Costs, operation: str) -> None:
    """What is hot is answered from memory, and the keyring remembers keys: the control plane is asked once."""
    told = costs[operation]
    assert told["statements"] == 1
    assert told["round_trips"] == 1
    assert told["keyring_statements"] == 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_one_commit(costs: Costs, operation: str) -> None:
    """Quota, audit and the memory are decided by one commit, a batch's too."""
    assert costs[operation]["transactions"] == 1


@pytest.mark.parametrize(("operation", "most"), WAL_BYTES.items())
def test_an_operation_writes_little(costs: Costs, operation: str, most: int) -> None:
    """Every byte of the write-ahead log is flushed before the caller has an answer."""
    assert costs[operation]["wal_bytes"] <= most
