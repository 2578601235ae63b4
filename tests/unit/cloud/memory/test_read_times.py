"""Reads note when they were, and the notes reach the ledger in batches, none lost by an orderly close."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.managed_ports import ManagedLedger
from cloud.memory.read_times import ReadTimes
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker, statements_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Ledger:
    """Takes notes; what is in `held` is held by a writer, and while `down` it does not answer."""

    def __init__(self) -> None:
        self.times: dict[tuple[str, str], datetime] = {}
        self.calls: list[int] = []
        self.held: set[str] = set()
        self.down = False

    def touch(self, predicate: TenantPredicate, read_at: Mapping[str, datetime]) -> frozenset[str]:
        if self.down:
            raise ProviderUnavailableError("control plane")
        self.calls.append(len(read_at))
        held = frozenset(self.held & read_at.keys())
        self.held -= held
        self.times.update(((predicate.tenant_id, key), at) for key, at in read_at.items() if key not in held)
        return held


def read_times(ledger: Ledger, **options: int) -> ReadTimes:
    return ReadTimes(cast("ManagedLedger", ledger), interval_s=3600, **options)


def test_many_reads_of_one_memory_are_one_note_of_the_latest() -> None:
    ledger = Ledger()
    notes = read_times(ledger)
    acme = system_predicate("acme", "test")
    for hours in (1, 3, 2):
        notes.note(acme, "alice", ["a", "b"], NOON + timedelta(hours=hours))
    assert (ledger.calls, notes.pending()) == ([], 2)
    notes.close()
    assert ledger.calls == [2]
    assert ledger.times == dict.fromkeys([("acme", "a"), ("acme", "b")], NOON + timedelta(hours=3))


def test_people_of_one_tenant_share_a_statement_and_tenants_do_not() -> None:
    ledger = Ledger()
    notes = read_times(ledger, batch=10)
    for tenant in ("acme", "umbra"):
        for person in range(5):
            notes.note(system_predicate(tenant, "test"), f"person {person}", [f"{tenant} {person}"], NOON)
    assert notes.flush(tenant_id="acme")
    assert (ledger.calls, notes.pending()) == ([5], 5)
    notes.close()
    assert ledger.calls == [5, 5]
    assert len(ledger.times) == 10


def test_what_a_writer_holds_is_written_another_time() -> None:
    ledger = Ledger()
    notes = read_times(ledger)
    notes.note(system_predicate("acme", "test"), "alice", ["a", "b"], NOON)
    ledger.held = {"a"}
    assert not notes.flush()
    assert (ledger.times.keys(), notes.pending()) == ({("acme", "b")}, 1)
    ledger.held = {"a"}
    notes.close()
    assert ledger.times.keys() == {("acme", "a"), ("acme", "b")}


def test_an_outage_loses_nothing_but_what_is_too_much() -> None:
    ledger = Ledger()
    ledger.down = True
    notes = read_times(ledger, capacity=3, batch=100)
    for number in range(5):
        notes.note(system_predicate("acme", "test"), f"person {number}", [f"m{number}"], NOON)
    assert notes.pending() == 3
    with pytest.raises(ProviderUnavailableError):
        notes.flush()
    assert notes.pending() == 3
    ledger.down = False
    notes.close()
    assert {memory_id for _, memory_id in ledger.times} == {"m2", "m3", "m4"}


def test_an_erased_persons_notes_are_dropped() -> None:
    ledger = Ledger()
    notes = read_times(ledger)
    acme = system_predicate("acme", "test")
    notes.note(acme, "alice", ["a"], NOON)
    notes.note(acme, "bob", ["b"], NOON)
    notes.drop("acme", "alice")
    assert (notes.noted("acme", "alice"), notes.noted("acme", "bob"), notes.pending()) == (0, 1, 1)
    notes.close()
    assert ledger.times.keys() == {("acme", "b")}


async def test_reads_write_nothing_and_a_flush_writes_once(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    notes = runtime.pixeltable_config.read_times
    query = "SELECT last_accessed_at FROM memories WHERE tenant_id = :tenant ORDER BY memory_id"
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        began = datetime.now(UTC)
        with statements_of(onlooker.installation.engines.app) as sent:
            for _ in range(3):
                await runtime.memory.retrieve("tabs", "alice")
        assert not [statement for _, statement, _ in sent if "lc_touch" in statement]
    assert onlooker.rows(query, tenant=tenant_id) == [(None,), (None,)]
    with statements_of(onlooker.installation.engines.app) as sent:
        assert notes.flush(tenant_id=tenant_id)
    assert [parameters["tenant"] for _, _, parameters in sent] == [tenant_id]
    ((read,), (unread,)) = onlooker.rows(query, tenant=tenant_id)
    assert unread is None
    assert began - timedelta(seconds=1) <= read <= datetime.now(UTC) + timedelta(seconds=1)


def test_one_tenants_notes_touch_no_memory_of_another(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    ((foreign, before),) = onlooker.rows(
        "SELECT memory_id::text, last_accessed_at FROM memories WHERE tenant_id <> :tenant LIMIT 1", tenant=tenant_id
    )
    ledger = runtime.pixeltable_config.ledger
    assert ledger.touch(system_predicate(tenant_id, "test"), {foreign: datetime.now(UTC)}) == frozenset()
    after = onlooker.rows("SELECT last_accessed_at FROM memories WHERE memory_id::text = :id", id=foreign)
    assert after == [(before,)]
