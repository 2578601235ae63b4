"""Laws of the meters over a real installation: what each charges, what fills, what is given back, what is recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import InvalidFilterError, QuotaExceededError
from cloud.kernel.ids import new_event_id
from cloud.usage.model import Meter, next_month
from src.testing.samples import sample_memory
from tests.support.ledgers import as_owner, counters, events, ledger, present

JANUARY = datetime(2031, 1, 31, 23, 59, 58, tzinfo=UTC)
FEBRUARY = datetime(2031, 2, 1, 0, 0, 1, tzinfo=UTC)


def made(runtime: CloudRuntime, tenant_id: str, **limits: int) -> str:
    """A tenant with these limits and no other."""
    return runtime.tenants.create(f"{tenant_id}-m", plan="enterprise", limits=limits).tenant_id


def sizes(runtime: CloudRuntime, tenant_id: str) -> int:
    query = "SELECT coalesce(sum(size_bytes), 0) FROM memories WHERE tenant_id = :tenant AND state = 'active'"
    return int(as_owner(runtime, query, tenant=tenant_id)[0][0])


async def test_each_operation_leaves_one_ledger_row_and_the_counters_are_their_sums(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        one = await runtime.memory.store(sample_memory("alice"), {})
        first = sizes(runtime, tenant_id)
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        whole = sizes(runtime, tenant_id)
        await runtime.memory.retrieve("tabs?", "alice")
        await runtime.memory.search("nobody known", {})
        await runtime.memory.get_by_id(one)
        await runtime.memory.delete(one)
    assert ledger(runtime, tenant_id) == [
        {"operation": "memory.store", "memories": 1, "stored_bytes": first, "writes": 1},
        {"operation": "memory.store_many", "memories": 2, "stored_bytes": whole - first, "writes": 2},
        {"operation": "memory.retrieve", "reads": 1},
        {"operation": "memory.search", "reads": 1},
        {"operation": "memory.get", "reads": 1},
        {"operation": "memory.delete", "memories": -1, "stored_bytes": -first},
    ]
    assert counters(runtime, tenant_id) == {"memories": 2, "stored_bytes": whole - first, "writes": 3, "reads": 3}
    people = as_owner(runtime, "SELECT memories FROM subjects WHERE tenant_id = :tenant", tenant=tenant_id)
    assert sorted(people) == [(1,), (1,)]


async def test_an_entry_is_the_operations_own_event_so_a_replay_cannot_charge_twice(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "once"})
        await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "once"})
    assert len(ledger(runtime, tenant_id)) == 1
    query = (
        "SELECT count(*) FROM usage_events u JOIN audit_events a USING (event_id) WHERE u.tenant_id = :tenant"
        " AND a.event->>'action' = u.operation"
    )
    assert as_owner(runtime, query, tenant=tenant_id) == [(1,)]


@pytest.mark.parametrize(
    ("meter", "limit", "used", "requested"),
    [("memories", 2, 2, 1), ("writes", 2, 2, 1), ("memories_per_subject", 2, 2, 1), ("memories", 0, 0, 1)],
)
async def test_a_full_meter_refuses_with_all_its_facts_and_writes_nothing(
    runtime: CloudRuntime, tenant_id: str, meter: str, limit: int, used: int, requested: int
) -> None:
    name = made(runtime, tenant_id, **{meter: limit})
    with request_context(tenant_id=name, roles={"service"}):
        for _ in range(limit):
            await runtime.memory.store(sample_memory("alice"), {})
        before = counters(runtime, name), ledger(runtime, name)
        # Advice may refuse first; with a key, which a repeated request would have, the transaction decides.
        for context in ({}, {"idempotency_key": "k"}):
            with pytest.raises(QuotaExceededError) as full:
                await runtime.memory.store(sample_memory("alice"), context)
            error = full.value
            assert (error.meter, error.limit, error.used, error.requested) == (meter, limit, used, requested)
            assert error.resets_at == (next_month(datetime.now(UTC)) if meter == "writes" else None)
        assert (counters(runtime, name), ledger(runtime, name)) == before
    for event in events(runtime, name, "memory.store")[-2:]:
        assert (event["outcome"], event["reason"]) == ("denied", "quota_exceeded")
        assert event["counts"] == {"requested": requested, "used": used, "limit": limit}
        assert event["details"]["meter"] == meter
        assert (event["details"]["resets_at"] is not None) == (meter == "writes")


async def test_bytes_are_limited_to_the_byte_and_deleting_gives_them_back(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
    size = sizes(runtime, tenant_id)
    name = made(runtime, tenant_id, stored_bytes=2 * size)
    with request_context(tenant_id=name, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.store(sample_memory("alice"), {})
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.store(sample_memory("alice"), {})
        error = full.value
        assert (error.meter, error.limit, error.used, error.requested) == ("stored_bytes", 2 * size, 2 * size, size)
        await runtime.memory.delete(first)
        await runtime.memory.store(sample_memory("bob"), {})
    assert counters(runtime, name)["stored_bytes"] == sizes(runtime, name)


async def test_a_persons_limit_is_that_persons_alone(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, memories_per_subject=2)
    with request_context(tenant_id=name, roles={"service"}):
        first = await runtime.memory.store(sample_memory("alice"), {})
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.store_many([sample_memory("bob"), *[sample_memory("alice")] * 2], {})
        error = full.value
        assert (error.meter, error.used, error.requested) == ("memories_per_subject", 1, 2)
        await runtime.memory.store_many([sample_memory("bob"), sample_memory("alice"), sample_memory("bob")], {})
        with pytest.raises(QuotaExceededError):
            await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.delete(first)
        await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.store(sample_memory("carol"), {})
    assert counters(runtime, name)["memories"] == 5


async def test_limited_reads_are_refused_and_a_stale_attempt_costs_nothing(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    name = made(runtime, tenant_id, reads=3)
    with request_context(tenant_id=name, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice"), {})
        for call in (
            lambda: runtime.memory.retrieve("tabs?", "alice"),
            lambda: runtime.memory.search("alice", {}),
            lambda: runtime.memory.get_by_id(memory_id),
        ):
            await call()
        assert runtime.usage.check_quota(name, "memory.retrieve")[0] is False
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.retrieve("tabs?", "alice")
    error = full.value
    assert (error.meter, error.limit, error.used, error.requested) == ("reads", 3, 3, 1)
    assert error.resets_at == next_month(datetime.now(UTC))
    assert counters(runtime, name)["reads"] == 3
    refused = events(runtime, name, "memory.retrieve")[-1]
    assert (refused["outcome"], refused["reason"], refused["details"]["meter"]) == (
        "denied",
        "quota_exceeded",
        "reads",
    )


async def test_flows_start_anew_in_the_next_month_and_stocks_do_not(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, writes=1, reads=1, memories=2)
    with present(runtime, name) as now, request_context(tenant_id=name, roles={"service"}):
        now.set(JANUARY)
        await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.retrieve("tabs?", "alice")
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "a"})
        assert (full.value.meter, full.value.resets_at) == ("writes", datetime(2031, 2, 1, tzinfo=UTC))
        with pytest.raises(QuotaExceededError):
            await runtime.memory.retrieve("tabs?", "alice")
        now.set(FEBRUARY)
        await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "b"})
        await runtime.memory.retrieve("tabs?", "alice")
        with pytest.raises(QuotaExceededError) as full:
            await runtime.memory.store(sample_memory("alice"), {"idempotency_key": "c"})
        assert full.value.meter == "memories", "the stock did not start anew"
        # A clock that jumps back charges the month that it says; no month is charged for another.
        now.set(JANUARY - timedelta(hours=1))
        with pytest.raises(QuotaExceededError):
            await runtime.memory.retrieve("tabs?", "alice")
    months = runtime.usage.monthly(name, datetime(2031, 1, 1), datetime(2031, 3, 1))
    assert [
        (month.start.month, month.operations, month.deltas["writes"], month.deltas["reads"]) for month in months
    ] == [  # type: ignore[index]
        (1, 2, 1, 1),
        (2, 2, 1, 1),
    ]
    days = runtime.usage.daily(name, datetime(2031, 1, 31), datetime(2031, 2, 2))
    assert [day.start for day in days] == [datetime(2031, 1, 31, tzinfo=UTC), datetime(2031, 2, 1, tzinfo=UTC)]
    assert runtime.usage.reconcile(name) == []


async def test_what_expires_or_is_erased_is_given_back_on_every_meter(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        await runtime.memory.store(sample_memory("alice", expires_at=soon), {})
        await runtime.memory.store(sample_memory("bob"), {})
    as_owner(runtime, "SELECT pg_sleep(0.1)")
    runtime._installation.materializer().expire()
    with request_context(tenant_id=tenant_id, roles={"tenant_admin"}):
        await runtime.gdpr.delete_user_data("bob", tenant_id, confirmed=True, reason="request")
    assert counters(runtime, tenant_id) == {"memories": 0, "stored_bytes": 0, "writes": 2}
    assert [entry["operation"] for entry in ledger(runtime, tenant_id)][2:] == ["memory.expire", "gdpr.erase"]
    assert runtime.usage.reconcile(tenant_id) == []


# Thresholds


def passed(runtime: CloudRuntime, tenant_id: str) -> list[tuple[Any, ...]]:
    return [
        (event["details"]["meter"], event["details"]["percent"], event["details"]["used"], event["details"]["limit"])
        for event in events(runtime, tenant_id, "usage.threshold")
    ]


async def test_each_threshold_leaves_one_event_and_a_stock_leaves_it_again_after_it_fell(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    name = made(runtime, tenant_id, memories=5, writes=100)
    with request_context(tenant_id=name, roles={"service"}):
        ids = await runtime.memory.store_many([sample_memory("alice")] * 3, {})
        assert passed(runtime, name) == []
        await runtime.memory.store(sample_memory("alice"), {})
        assert passed(runtime, name) == [("memories", 80, 4, 5)]
        await runtime.memory.store(sample_memory("alice"), {})
        assert passed(runtime, name) == [("memories", 80, 4, 5), ("memories", 100, 5, 5)]
        with pytest.raises(QuotaExceededError):
            await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.delete(ids[0])
        assert len(passed(runtime, name)) == 2
        await runtime.memory.store(sample_memory("alice"), {})
        assert passed(runtime, name)[2:] == [("memories", 100, 5, 5)]
        await runtime.memory.delete(ids[1])
        await runtime.memory.delete(ids[2])
        await runtime.memory.store_many([sample_memory("alice")] * 2, {})
    assert passed(runtime, name)[3:] == [("memories", 80, 5, 5), ("memories", 100, 5, 5)]


async def test_flows_and_persons_pass_thresholds_too_and_the_event_names_who_did_it(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    name = made(runtime, tenant_id, reads=5, memories_per_subject=5, tokens=100)
    with request_context(tenant_id=name, roles={"service"}, request_id="r-1"):
        await runtime.memory.store_many([*[sample_memory("alice")] * 4, sample_memory("bob")], {})
        for _ in range(4):
            await runtime.memory.retrieve("tabs?", "alice")
        runtime.usage.track("generate", 250, {})
    assert passed(runtime, name) == [
        ("memories_per_subject", 80, 4, 5),
        ("reads", 80, 4, 5),
        ("tokens", 80, 250, 100),
        ("tokens", 100, 250, 100),
    ]
    person, reading, *_ = events(runtime, name, "usage.threshold")
    stored = events(runtime, name, "memory.store_many")[0]
    assert person["subject_id"] in stored["subject_ids"]
    assert reading["subject_id"] is None
    assert {event["request_id"] for event in events(runtime, name, "usage.threshold")} == {"r-1"}


# What was used already


def test_a_report_with_an_event_id_counts_once_and_its_id_is_kept_nowhere(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    for _ in range(3):
        runtime.usage.track("generate", 7, {"tenant_id": tenant_id, "event_id": "alice@example.com run 1"})
    runtime.usage.track("generate", 7, {"tenant_id": tenant_id, "event_id": "alice@example.com run 2"})
    runtime.usage.track("generate", 7, {"tenant_id": f"{tenant_id}", "event_id": new_event_id()})
    other = made(runtime, tenant_id)
    runtime.usage.track("generate", 7, {"tenant_id": other, "event_id": "alice@example.com run 1"})
    assert counters(runtime, tenant_id)["tokens"] == 21
    assert counters(runtime, other)["tokens"] == 7
    rows = as_owner(runtime, "SELECT usage_events::text FROM usage_events WHERE tenant_id = :t", t=tenant_id)
    assert "alice" not in repr(rows)
    reasons = [event["reason"] for event in events(runtime, tenant_id, "usage.track")]
    assert reasons == [None, "repeated", "repeated", None, None]


def test_a_report_that_is_repeated_after_a_rotation_of_the_tenants_key_counts_once(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    for _ in range(3):
        runtime.usage.track("generate", 7, {"tenant_id": tenant_id, "event_id": "run 1"})
        runtime.keyring.rotate_tenant(tenant_id)
    assert counters(runtime, tenant_id)["tokens"] == 7
    reasons = [event["reason"] for event in events(runtime, tenant_id, "usage.track")]
    assert reasons == [None, "repeated", "repeated"]


@pytest.mark.parametrize("event_id", ["", "x" * 257, 5, b"x", ["x"]])
def test_an_event_id_that_is_none_is_refused_and_recorded(
    runtime: CloudRuntime, tenant_id: str, event_id: object
) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        runtime.usage.track("generate", 7, {"tenant_id": tenant_id, "event_id": event_id})
    assert refused.value.place == "metadata.event_id"
    assert ledger(runtime, tenant_id) == []
    assert [event["outcome"] for event in events(runtime, tenant_id, "usage.track")] == ["failed"]


def test_a_report_is_a_fact_that_no_limit_refuses(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=10)
    runtime.usage.track("generate", 25, {"tenant_id": name})
    runtime.usage.track("generate", 5, {"tenant_id": name})
    assert runtime.usage.get_usage_summary(name)["meters"]["tokens"]["used"] == 30  # type: ignore[index]
    assert runtime.usage.check_quota(name, "generate") == (False, "quota 'tokens' exceeded: 30 of 10 used")


async def test_a_summary_shows_every_meter_with_its_limit_and_the_day_it_starts_anew(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    name = made(runtime, tenant_id, tokens=100, memories=7)
    with request_context(tenant_id=name, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice")] * 2 + [sample_memory("bob")], {})
        await runtime.memory.retrieve("tabs?", "alice")
        runtime.usage.track("generate", 5, {})
        runtime.usage.reserve(name, "tokens", 20)
    summary: dict[str, Any] = runtime.usage.get_usage_summary(name)
    meters = summary["meters"]
    soon = next_month(datetime.now(UTC))
    assert {meter: (m["used"], m["held"], m["limit"], m["resets_at"]) for meter, m in meters.items()} == {
        "memories": (3, 0, 7, None),
        "stored_bytes": (sizes(runtime, name), 0, None, None),
        "memories_per_subject": (2, 0, None, None),
        "writes": (3, 0, None, soon),
        "reads": (1, 0, None, soon),
        "tokens": (5, 20, 100, soon),
    }
    assert (summary["total_queries"], summary["total_ingests"], summary["total_tokens"]) == (1, 1, 5)


async def test_a_write_tells_this_process_how_the_meters_stand_after_it(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
    seen = runtime.usage._seen.last(tenant_id)
    stock = runtime.usage._store.balances(tenant_id, (Meter.MEMORIES, Meter.STORED_BYTES))
    assert stock is not None
    assert {meter: seen[meter].used for meter in stock} == {meter: one.used for meter, one in stock.items()}
    assert seen[Meter.MEMORIES].used == 2
