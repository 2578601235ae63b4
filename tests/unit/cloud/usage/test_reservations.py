"""Laws of reservations: never more held than fits, nothing held for ever, what was used is booked once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import (
    AuthenticationError,
    InvalidFilterError,
    PermissionDeniedError,
    QuotaExceededError,
    ReservationClosedError,
)
from cloud.kernel.ids import new_event_id
from cloud.usage.model import Meter, next_month
from src.testing.samples import sample_memory
from tests.support.ledgers import as_owner, counters, events, ledger, present

NOON = datetime(2031, 5, 10, 12, tzinfo=UTC)


def made(runtime: CloudRuntime, tenant_id: str, **limits: int) -> str:
    return runtime.tenants.create(f"{tenant_id}-r", plan="enterprise", limits=limits).tenant_id


def held(runtime: CloudRuntime, tenant_id: str, meter: str = "tokens") -> int:
    summary: dict[str, Any] = runtime.usage.get_usage_summary(tenant_id)
    return int(summary["meters"][meter]["held"])


def states(runtime: CloudRuntime, tenant_id: str) -> list[str]:
    query = "SELECT state FROM usage_reservations WHERE tenant_id = :tenant ORDER BY created_at"
    return [row[0] for row in as_owner(runtime, query, tenant=tenant_id)]


def test_what_is_used_and_held_and_requested_never_exceeds_the_limit(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=100)
    runtime.usage.track("generate", 10, {"tenant_id": name})
    runtime.usage.reserve(name, "tokens", 60)
    with pytest.raises(QuotaExceededError) as full:
        runtime.usage.reserve(name, "tokens", 31)
    error = full.value
    assert (error.meter, error.limit, error.used, error.requested) == ("tokens", 100, 70, 31)
    assert error.resets_at == next_month(datetime.now(UTC))
    runtime.usage.reserve(name, Meter.TOKENS, 30)
    assert held(runtime, name) == 90
    assert counters(runtime, name)["tokens"] == 10, "held is not used"
    outcomes = [(event["outcome"], event["reason"]) for event in events(runtime, name, "usage.reserve")]
    assert outcomes == [("allowed", None), ("denied", "quota_exceeded"), ("allowed", None)]


def test_a_commit_books_what_was_used_once_and_gives_the_rest_back(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=100)
    hold = runtime.usage.reserve(name, "tokens", 80)
    assert [runtime.usage.commit(hold, 30) for _ in range(2)] == [30, 30]
    assert runtime.usage.commit(hold) == 30, "what is booked stays booked"
    runtime.usage.release(hold)
    assert (counters(runtime, name)["tokens"], held(runtime, name)) == (30, 0)
    whole = runtime.usage.reserve(name, "tokens", 70)
    assert runtime.usage.commit(whole) == 70
    assert ledger(runtime, name) == [
        {"operation": "usage.commit", "tokens": 30},
        {"operation": "usage.commit", "tokens": 70},
    ]
    reasons = [event["reason"] for event in events(runtime, name, "usage.commit")]
    assert reasons == [None, "repeated", "repeated", None]


def test_what_is_released_is_free_at_once_and_cannot_be_committed(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=100)
    hold = runtime.usage.reserve(name, "tokens", 100)
    for _ in range(2):
        runtime.usage.release(hold)
    with pytest.raises(ReservationClosedError) as closed:
        runtime.usage.commit(hold)
    assert closed.value.reason == "released"
    runtime.usage.reserve(name, "tokens", 100)
    assert ledger(runtime, name) == []


def test_a_hold_whose_time_is_over_holds_nothing_before_anybody_swept_it(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=100)
    with present(runtime, name) as now:
        now.set(NOON)
        hold = runtime.usage.reserve(name, "tokens", 100, ttl_s=60)
        assert hold.expires_at == NOON + timedelta(seconds=60)
        now.set(NOON + timedelta(seconds=59))
        with pytest.raises(QuotaExceededError):
            runtime.usage.reserve(name, "tokens", 1)
        now.set(NOON + timedelta(seconds=60))
        runtime.usage.reserve(name, "tokens", 100, ttl_s=60)
        assert states(runtime, name) == ["held", "held"], "nobody swept"
        # A clock set back an hour keeps holds for longer and never for ever; one set forward ends them sooner.
        now.set(NOON - timedelta(hours=1))
        with pytest.raises(QuotaExceededError):
            runtime.usage.reserve(name, "tokens", 1)
        now.set(NOON + timedelta(hours=1))
        runtime.usage.reserve(name, "tokens", 100)


def test_a_late_commit_is_booked_for_it_tells_what_was_used(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=100)
    hold = runtime.usage.reserve(name, "tokens", 80, ttl_s=0.05)
    as_owner(runtime, "SELECT pg_sleep(0.1)")
    assert runtime._installation.materializer().sweep() >= 1
    assert states(runtime, name) == ["expired"]
    runtime.usage.commit(runtime.usage.reserve(name, "tokens", 100))
    assert runtime.usage.commit(hold, 90) == 90
    assert runtime.usage.commit(hold, 90) == 90
    assert counters(runtime, name)["tokens"] == 190, "spent is spent; the next reservation is refused instead"
    with pytest.raises(QuotaExceededError):
        runtime.usage.reserve(name, "tokens", 1)
    assert [event["reason"] for event in events(runtime, name, "usage.commit")] == [None, "late", "repeated"]


def test_a_settled_reservation_is_forgotten_after_a_month_and_books_nothing_then(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    hold = runtime.usage.reserve(tenant_id, "tokens", 5)
    runtime.usage.commit(hold)
    as_owner(
        runtime,
        "UPDATE usage_reservations SET expires_at = now() - interval '31 days' WHERE tenant_id = :tenant",
        tenant=tenant_id,
    )
    runtime._installation.materializer().sweep()
    assert states(runtime, tenant_id) == []
    for settle in (runtime.usage.commit, runtime.usage.release):
        with pytest.raises(ReservationClosedError):
            settle(hold)
    assert counters(runtime, tenant_id)["tokens"] == 5


def test_another_tenants_reservation_is_an_absent_one(runtime: CloudRuntime, tenant_id: str) -> None:
    other = made(runtime, tenant_id)
    hold = runtime.usage.reserve(other, "tokens", 5)
    for stolen in (
        replace(hold, tenant_id=tenant_id),
        replace(hold, tenant_id=tenant_id, reservation_id=new_event_id()),
    ):
        for settle in (runtime.usage.commit, runtime.usage.release):
            with pytest.raises(ReservationClosedError) as closed:
                settle(stolen)
            assert closed.value.reason == "absent"
    assert (held(runtime, other), ledger(runtime, tenant_id)) == (5, [])


@pytest.mark.parametrize("roles", [{"service"}, {"member"}, {"tenant_admin"}])
def test_who_may_use_memories_may_hold_units_in_the_own_tenant_alone(
    runtime: CloudRuntime, tenant_id: str, roles: set[str]
) -> None:
    other = made(runtime, tenant_id)
    with request_context(tenant_id=tenant_id, user_id="alice", roles=roles):
        hold = runtime.usage.reserve(tenant_id, "tokens", 5)
        runtime.usage.commit(hold)
        with pytest.raises(PermissionDeniedError):
            runtime.usage.reserve(other, "tokens", 5)
        with pytest.raises(PermissionDeniedError):
            runtime.usage.commit(replace(hold, tenant_id=other))
    with request_context(tenant_id=tenant_id, roles={"auditor"}), pytest.raises(PermissionDeniedError):
        runtime.usage.reserve(tenant_id, "tokens", 5)
    assert held(runtime, other) == 0


def test_a_suspended_tenant_reserves_nothing_and_what_it_spent_is_booked(runtime: CloudRuntime, tenant_id: str) -> None:
    hold = runtime.usage.reserve(tenant_id, "tokens", 5)
    runtime.tenants.suspend(tenant_id)
    with pytest.raises(PermissionDeniedError):
        runtime.usage.reserve(tenant_id, "tokens", 5)
    assert runtime.usage.commit(hold) == 5
    with pytest.raises(AuthenticationError):
        runtime.usage.reserve("nobody-here", "tokens", 5)


@pytest.mark.parametrize(
    ("meter", "amount", "ttl_s", "place"),
    [
        ("memories", 1, 60, "meter"),
        ("stored_bytes", 1, 60, "meter"),
        ("token", 1, 60, "meter"),
        ("tokens", 0, 60, "amount"),
        ("tokens", -1, 60, "amount"),
        ("tokens", 1.5, 60, "amount"),
        ("tokens", True, 60, "amount"),
        ("tokens", 2**53, 60, "amount"),
        ("tokens", 1, 0, "ttl_s"),
        ("tokens", 1, -1, "ttl_s"),
        ("tokens", 1, 86_401, "ttl_s"),
        ("tokens", 1, float("nan"), "ttl_s"),
        ("tokens", 1, "60", "ttl_s"),
    ],
)
def test_what_cannot_be_held_is_refused_and_recorded(
    runtime: CloudRuntime, tenant_id: str, meter: str, amount: Any, ttl_s: Any, place: str
) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        runtime.usage.reserve(tenant_id, meter, amount, ttl_s=ttl_s)
    assert refused.value.place == place
    assert [event["outcome"] for event in events(runtime, tenant_id, "usage.reserve")] == ["failed"]
    assert states(runtime, tenant_id) == []


async def test_reserved_writes_and_reads_are_missing_to_those_who_reserved_none(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    name = made(runtime, tenant_id, writes=2, reads=1)
    writes = runtime.usage.reserve(name, "writes", 2)
    reads = runtime.usage.reserve(name, "reads", 1)
    with request_context(tenant_id=name, roles={"service"}):
        for call in (runtime.memory.store(sample_memory("alice"), {}), runtime.memory.retrieve("tabs?", "alice")):
            with pytest.raises(QuotaExceededError):
                await call
        runtime.usage.commit(writes, 1)
        runtime.usage.release(reads)
        await runtime.memory.store(sample_memory("alice"), {})
        await runtime.memory.retrieve("tabs?", "alice")
    assert runtime.usage.reconcile(name) == []


def test_many_threads_hold_exactly_what_there_is(runtime: CloudRuntime, tenant_id: str) -> None:
    name = made(runtime, tenant_id, tokens=70)

    def attempt(_: int) -> bool:
        try:
            runtime.usage.reserve(name, "tokens", 7)
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(24))) == 10
    assert held(runtime, name) == 70
