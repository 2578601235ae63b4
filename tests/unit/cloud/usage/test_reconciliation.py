"""Laws of reconciling: every counter that is not what ledger and memories say is found, and mended when asked."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud import CloudRuntime, request_context
from cloud.kernel.access import Action
from cloud.kernel.errors import PermissionDeniedError, UnknownTenantError
from cloud.tenancy.system import system_predicate
from cloud.usage.books import PostgresUsageBooks
from cloud.usage.model import LEDGER_METERS, Kind, Meter
from cloud.usage.reconciliation import STOCK_PERIOD, Books, differences
from src.testing.samples import sample_memory
from tests.support.ledgers import as_owner, counters, events, ledger
from tests.support.lost_commits import lost_commit

MARCH = date(2031, 3, 1)
UNITS = st.integers(0, 3)


async def used(runtime: CloudRuntime, tenant_id: str) -> None:
    """Something on every meter."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("alice"), sample_memory("bob")], {})
        for _ in range(3):
            await runtime.memory.retrieve("tabs?", "alice")
        runtime.usage.track("generate", 50, {})


@given(counted=UNITS, ledgered=UNITS, there=UNITS)
def test_a_stock_agrees_if_all_three_books_do_and_a_flow_if_two_do(counted: int, ledgered: int, there: int) -> None:
    def books(meter: Meter, period: date) -> Books:
        return Books({(meter, period): counted}, {(meter, period): ledgered}, {meter: there}, {})

    stock = differences("acme", books(Meter.MEMORIES, STOCK_PERIOD))
    assert bool(stock) is not (counted == ledgered == there)
    assert all(one.expected == there for one in stock)
    flow = differences("acme", books(Meter.READS, MARCH))
    assert bool(flow) is (counted != ledgered)
    assert all((one.expected, one.period) == (ledgered, MARCH) for one in flow)


async def test_books_that_nobody_touched_agree(runtime: CloudRuntime, tenant_id: str) -> None:
    await used(runtime, tenant_id)
    assert runtime.usage.reconcile(tenant_id) == []
    assert tenant_id not in {one.tenant_id for one in runtime.usage.reconcile()}


@pytest.mark.parametrize("by", [1, -1, 5])
@pytest.mark.parametrize("meter", LEDGER_METERS)
async def test_a_tampered_counter_is_found_and_mended(
    runtime: CloudRuntime, tenant_id: str, meter: Meter, by: int
) -> None:
    await used(runtime, tenant_id)
    before = counters(runtime, tenant_id)
    as_owner(
        runtime,
        "UPDATE usage_counters SET used = used + :by WHERE ctid = (SELECT ctid FROM usage_counters"
        " WHERE tenant_id = :tenant AND meter = :meter ORDER BY shard LIMIT 1)",
        tenant=tenant_id,
        meter=meter.value,
        by=by,
    )
    (found,) = runtime.usage.reconcile(tenant_id)
    assert (found.meter, found.counted, found.ledger) == (meter, before[meter] + by, before[meter])
    assert (found.period is None) is (meter.kind is Kind.STOCK)
    assert counters(runtime, tenant_id)[meter] == before[meter] + by, "a report changes nothing"
    assert runtime.usage.reconcile(tenant_id, repair=True) == [found]
    assert counters(runtime, tenant_id) == before
    assert runtime.usage.reconcile(tenant_id) == []
    (event,) = events(runtime, tenant_id, "usage.reconcile")
    assert event["counts"] == {"repaired": 1}


async def test_a_repair_that_was_committed_unanswered_is_done_once_and_told(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await used(runtime, tenant_id)
    before = counters(runtime, tenant_id)
    tamper = "UPDATE usage_counters SET used = used + 1 WHERE tenant_id = :tenant AND meter = 'memories'"
    as_owner(runtime, tamper, tenant=tenant_id)
    (found,) = runtime.usage.reconcile(tenant_id)
    engine, audit = runtime._installation.engines.maintenance, runtime.audit
    draft = audit.draft(system_predicate(tenant_id, "test").scope, Action.USAGE_RECONCILE)
    with lost_commit(engine):
        assert PostgresUsageBooks(engine).repair(tenant_id, draft) == [found]
    assert counters(runtime, tenant_id) == before
    (event,) = events(runtime, tenant_id, "usage.reconcile")
    assert event["counts"] == {"repaired": 1}


@pytest.mark.parametrize("meter", LEDGER_METERS)
async def test_a_tampered_ledger_is_found(runtime: CloudRuntime, tenant_id: str, meter: Meter) -> None:
    await used(runtime, tenant_id)
    rows = len(ledger(runtime, tenant_id))
    before = counters(runtime, tenant_id)
    as_owner(
        runtime,
        f"UPDATE usage_events SET {meter.value} = {meter.value} + 2 WHERE event_id = (SELECT event_id FROM usage_events"
        f" WHERE tenant_id = :tenant AND {meter.value} > 0 LIMIT 1)",
        tenant=tenant_id,
    )
    (found,) = runtime.usage.reconcile(tenant_id)
    assert (found.meter, found.counted, found.ledger) == (meter, before[meter], before[meter] + 2)
    runtime.usage.reconcile(tenant_id, repair=True)
    assert runtime.usage.reconcile(tenant_id) == []
    if meter.kind is Kind.STOCK:
        assert counters(runtime, tenant_id) == before, "the memories themselves say what is there"
        assert ledger(runtime, tenant_id)[rows:] == [{"operation": "usage.reconcile", meter.value: -2}]
    else:
        assert counters(runtime, tenant_id)[meter] == before[meter] + 2


async def test_a_deleted_entry_is_found(runtime: CloudRuntime, tenant_id: str) -> None:
    await used(runtime, tenant_id)
    as_owner(runtime, "DELETE FROM usage_events WHERE tenant_id = :t AND operation = 'memory.store_many'", t=tenant_id)
    found = runtime.usage.reconcile(tenant_id)
    assert {one.meter for one in found} == {Meter.MEMORIES, Meter.STORED_BYTES, Meter.WRITES}
    runtime.usage.reconcile(tenant_id, repair=True)


async def test_a_person_miscounted_is_found_and_mended(runtime: CloudRuntime, tenant_id: str) -> None:
    await used(runtime, tenant_id)
    as_owner(runtime, "UPDATE subjects SET memories = 9 WHERE tenant_id = :t AND memories = 2", t=tenant_id)
    (found,) = runtime.usage.reconcile(tenant_id)
    assert (found.meter, found.counted, found.actual) == (Meter.MEMORIES_PER_SUBJECT, 9, 2)
    assert found.subject_id is not None
    runtime.usage.reconcile(tenant_id, repair=True)
    assert runtime.usage.reconcile(tenant_id) == []


async def test_reads_counted_in_many_shards_are_mended_without_one_below_nothing(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await used(runtime, tenant_id)
    month = datetime.now(UTC).date().replace(day=1)
    as_owner(
        runtime,
        "INSERT INTO usage_counters SELECT :t, 'reads', 0, :month, shard FROM generate_series(17, 20) shard",
        "UPDATE usage_counters SET used = 4 WHERE tenant_id = :t AND meter = 'reads' AND shard > 16",
        t=tenant_id,
        month=month,
    )
    (found,) = runtime.usage.reconcile(tenant_id, repair=True)
    assert (found.counted, found.ledger) == (19, 3)
    assert counters(runtime, tenant_id)["reads"] == 3


def test_operators_alone_reconcile_and_it_is_recorded(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"tenant_admin"}), pytest.raises(PermissionDeniedError):
        runtime.usage.reconcile(tenant_id)
    with pytest.raises(UnknownTenantError):
        runtime.usage.reconcile("nobody-here")
    runtime.usage.reconcile(tenant_id)
    last = events(runtime, "_system", "usage.reconcile")
    assert [event["outcome"] for event in last[-2:]] == ["failed", "allowed"]
    assert last[-1]["counts"] == {"tenants": 1, "differences": 0, "repaired": 0}
