"""Laws of the usage tracker: advice that never says yes to a full quota, exact summaries, and who may see them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    PermissionDeniedError,
    QuotaExceededError,
    TenantIsolationError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG
from cloud.storage.metadata import usage_events
from cloud.usage.advice import WRITE_METERS
from cloud.usage.model import Balance, Meter
from cloud.usage.ports import TransactionalUsageTracker, UsageStore
from cloud.usage.service import CloudUsageTracker
from src.extensions import UsageTracker
from src.testing.samples import sample_memory

SUMMARY = {
    "total_tokens": int,
    "total_queries": int,
    "total_ingests": int,
    "storage_bytes": int,
    "quota_remaining": int,
    "period_start": datetime,
    "period_end": datetime,
    "memories": dict,
    "meters": dict,
}


class Counter:
    """Balances of every meter, all alike, counting how often they are asked for."""

    def __init__(self, used: int, limit: int | None) -> None:
        self.used = used
        self.limit = limit
        self.asked = 0

    def balances(self, tenant_id: str, meters: Collection[Meter]) -> dict[Meter, Balance] | None:
        self.asked += 1
        if tenant_id == "ghost":
            return None
        return {meter: Balance(meter, used=self.used, limit=self.limit) for meter in meters}


def tracker_on(store: Counter) -> CloudUsageTracker:
    return CloudUsageTracker(cast("UsageStore", store), system_clock)


def seen(used: int, limit: int | None) -> list[Balance]:
    """What a write would say of its meters."""
    return [Balance(meter, used=used, limit=limit) for meter in WRITE_METERS]


def usage_rows(runtime: CloudRuntime, tenant_id: str) -> Sequence[Any]:
    return runtime._installation.engines.maintenance.rows(
        usage_events.select().where(usage_events.c.tenant_id == tenant_id)
    )


def test_it_offers_the_published_protocol_and_takes_part_in_transactions(runtime: CloudRuntime) -> None:
    assert isinstance(runtime.usage, UsageTracker)
    assert isinstance(runtime.usage, TransactionalUsageTracker)


# Advice


@pytest.mark.parametrize(("used", "allowed"), [(0, True), (9, True), (10, False), (11, False)])
@pytest.mark.parametrize("operation", ["memory.store", "memory.store_many", "store", "ingest", "write"])
def test_advice_on_a_write_is_what_the_balance_says(used: int, allowed: bool, operation: str) -> None:
    verdict, reason = tracker_on(Counter(used, 10)).check_quota("acme", operation)
    assert verdict is allowed
    if allowed:
        assert reason is None
    else:
        assert reason == f"quota 'memories' exceeded: {used} of 10 used"


@pytest.mark.parametrize("operation", ["memory.delete", "gdpr.erase", "tidy up"])
def test_what_uses_nothing_is_not_limited(operation: str) -> None:
    store = Counter(10, 10)
    assert tracker_on(store).check_quota("acme", operation) == (True, None)
    assert store.asked == 0


@pytest.mark.parametrize("operation", ["memory.retrieve", "memory.search", "memory.get", "query", "retrieve"])
def test_advice_on_a_read_asks_for_the_reads_of_the_month(operation: str) -> None:
    assert tracker_on(Counter(9, 10)).check_quota("acme", operation) == (True, None)
    assert tracker_on(Counter(10, 10)).check_quota("acme", operation) == (
        False,
        "quota 'reads' exceeded: 10 of 10 used",
    )


def test_a_refusal_for_bytes_is_left_to_the_write_that_knows_how_many_it_takes() -> None:
    tracker = tracker_on(Counter(0, None))
    tracker.observed("acme", [Balance(Meter.MEMORIES, 1, None), Balance(Meter.STORED_BYTES, 10, 10)])
    assert tracker.denied("acme", requested=1) is None
    tracker.observed("acme2", [Balance(Meter.STORED_BYTES, 9, 10), Balance(Meter.WRITES, 10, 10)])
    error = tracker.denied("acme2", requested=3)
    assert error is not None
    assert (error.meter, error.used, error.limit, error.requested) == ("writes", 10, 10, 3)
    assert error.resets_at is not None


@pytest.mark.parametrize("tenant_id", ["ghost", "", "_system", "ACME", None])
def test_an_unknown_tenant_has_no_quota(tenant_id: Any) -> None:
    tracker = tracker_on(Counter(0, None))
    assert tracker.check_quota(tenant_id, "memory.store") == (False, "unknown tenant")


def test_a_remembered_balance_answers_only_while_a_thousand_units_are_left() -> None:
    room = 10 * 64 * 2**20
    store = Counter(0, room)
    tracker = tracker_on(store)
    tracker.observed("acme", [*seen(9_000, room), Balance(Meter.MEMORIES, used=9_000, limit=10_000)])
    assert tracker.check_quota("acme", "memory.store") == (True, None)
    assert store.asked == 0, "with room enough nobody needs to ask"
    store.used = room
    tracker.observed("acme", [Balance(Meter.MEMORIES, used=9_001, limit=10_000)])
    assert not tracker.check_quota("acme", "memory.store")[0], "999 left as remembered, and full in fact"
    assert store.asked == 1


def test_a_remembered_balance_is_old_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("cloud.usage.advice.time.monotonic", lambda: now[0])
    store = Counter(5_000, 5_000)
    tracker = tracker_on(store)
    tracker.observed("acme", seen(0, None))
    now[0] += 0.9
    assert tracker.check_quota("acme", "memory.store")[0]
    now[0] += 0.2
    assert not tracker.check_quota("acme", "memory.store")[0]


def test_one_tenants_balance_says_nothing_about_another(runtime: CloudRuntime) -> None:
    tracker = tracker_on(Counter(10, 10))
    tracker.observed("acme", seen(0, None))
    assert tracker.check_quota("acme", "memory.store")[0]
    assert not tracker.check_quota("acme2", "memory.store")[0]


async def test_a_full_quota_refuses_with_its_facts_and_deleting_gives_back(runtime: CloudRuntime) -> None:
    tenant_id = runtime.tenants.create("usage-full", plan="team", limits={"memories": 2}).tenant_id
    with request_context(tenant_id=tenant_id, roles={"service"}):
        first, _ = await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
        assert runtime.usage.check_quota(tenant_id, "memory.store") == (
            False,
            "quota 'memories' exceeded: 2 of 2 used",
        )
        for requested in (1, 3):
            with pytest.raises(QuotaExceededError) as full:
                await runtime.memory.store_many([sample_memory("carol")] * requested, {})
            error = full.value
            assert (error.meter, error.limit, error.used, error.requested) == ("memories", 2, 2, requested)
            assert error.resets_at is None
            assert not error.retryable
        assert await runtime.memory.delete(first)
        assert runtime.usage.check_quota(tenant_id, "memory.store") == (True, None)
        await runtime.memory.store(sample_memory("carol"), {})
    assert runtime.usage.get_usage_summary(tenant_id)["quota_remaining"] == 0


# Metering after the fact


def test_what_is_tracked_is_summed_up_in_its_period(runtime: CloudRuntime, tenant_id: str) -> None:
    before = datetime.now(UTC)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        runtime.usage.track("search", 150, {"user_id": "alice", "model": "m"})
        runtime.usage.track("semantic_search", 0, {})
    runtime.usage.track("ingest", 7, {"tenant_id": tenant_id})
    runtime.usage.track("transcribe", 3, {"tenant_id": tenant_id})
    after = datetime.now(UTC)
    summary = runtime.usage.get_usage_summary(tenant_id, before, after + timedelta(seconds=1))
    assert (summary["total_tokens"], summary["total_queries"], summary["total_ingests"]) == (160, 2, 1)
    assert runtime.usage.get_usage_summary(tenant_id, end_date=before)["total_tokens"] == 0
    assert runtime.usage.get_usage_summary(tenant_id, start_date=after + timedelta(seconds=1))["total_tokens"] == 0


def test_a_period_begins_at_its_first_moment_and_ends_before_its_last(runtime: CloudRuntime, tenant_id: str) -> None:
    runtime.usage.track("query", 5, {"tenant_id": tenant_id})
    (row,) = usage_rows(runtime, tenant_id)
    moment = row.occurred_at
    naive = moment.replace(tzinfo=None)
    summary = runtime.usage.get_usage_summary
    assert summary(tenant_id, moment, moment + timedelta(microseconds=1))["total_tokens"] == 5
    assert summary(tenant_id, moment - timedelta(days=1), moment)["total_tokens"] == 0
    assert summary(tenant_id, naive, naive + timedelta(microseconds=1))["total_tokens"] == 5, "naive is UTC"


@pytest.mark.parametrize(
    ("operation", "tokens", "place"),
    [
        ("query", -1, "tokens"),
        ("query", 2**53, "tokens"),
        ("query", 1.5, "tokens"),
        ("query", "5", "tokens"),
        ("query", True, "tokens"),
        ("query", None, "tokens"),
        ("", 1, "operation"),
        ("q" * 65, 1, "operation"),
        ("a\nb", 1, "operation"),
        ("a\0b", 1, "operation"),
        ("\ud800", 1, "operation"),
        (None, 1, "operation"),
        (b"query", 1, "operation"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    runtime: CloudRuntime, tenant_id: str, operation: Any, tokens: Any, place: str
) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        runtime.usage.track(operation, tokens, {"tenant_id": tenant_id})
    assert refused.value.place == place
    assert runtime.usage.get_usage_summary(tenant_id)["total_tokens"] == 0


@pytest.mark.parametrize("metadata", [{}, {"tenant_id": None}, {"tenant_id": ""}, {"tenant_id": "_system"}])
def test_usage_of_nobody_is_refused(runtime: CloudRuntime, metadata: dict[str, object]) -> None:
    with pytest.raises(AuthenticationError):
        runtime.usage.track("query", 1, metadata)


def test_usage_of_an_unknown_tenant_is_refused(runtime: CloudRuntime) -> None:
    with pytest.raises(UnknownTenantError):
        runtime.usage.track("query", 1, {"tenant_id": "ghost"})
    with request_context(tenant_id="ghost"), pytest.raises(UnknownTenantError):
        runtime.usage.track("query", 1, {})


@pytest.mark.parametrize("how", ["tenant", "key"])
def test_a_caller_of_one_tenant_uses_up_nothing_of_another(runtime: CloudRuntime, tenant_id: str, how: str) -> None:
    other = runtime.tenants.create(f"{tenant_id}-other", limits={"tokens": 10}).tenant_id
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    who = {"tenant_id": tenant_id} if how == "tenant" else {"authorization": f"Bearer {key}"}
    with request_context(request_id=f"{tenant_id}-1", **who):  # type: ignore[arg-type]
        with pytest.raises(TenantIsolationError) as refused:
            runtime.usage.track("generate", 10**12, {"tenant_id": other})
        assert refused.value.reason == "conflict"
        with pytest.raises(AuthenticationError):
            runtime.usage.track("generate", 10**12, {"tenant_id": ""})
        assert usage_rows(runtime, other) == usage_rows(runtime, tenant_id) == []
        assert runtime.usage.check_quota(other, "generate") == (True, None)
        runtime.usage.track("generate", 3, {})
        runtime.usage.track("generate", 4, {"tenant_id": tenant_id})
    assert runtime.usage.get_usage_summary(tenant_id)["total_tokens"] == 7
    told = [
        (event["category"], event["outcome"], event["reason"])
        for event in runtime.audit._store.events(SYSTEM_LOG, since=None, until=None)
        if event.get("request_id") == f"{tenant_id}-1"
    ]
    assert told == [
        ("security", "denied", "tenant_isolation:conflict"),
        ("security", "denied", "authentication:malformed_context"),
    ]


def test_a_credential_that_does_not_hold_books_nothing(runtime: CloudRuntime, tenant_id: str) -> None:
    credential = "Bearer lc_0123456789ab_" + "0" * 64
    with request_context(authorization=credential), pytest.raises(AuthenticationError):
        runtime.usage.track("generate", 5, {"tenant_id": tenant_id})
    assert usage_rows(runtime, tenant_id) == []


def test_what_is_said_beside_a_tracked_operation_is_kept_nowhere(runtime: CloudRuntime, tenant_id: str) -> None:
    runtime.usage.track("query", 1, {"tenant_id": tenant_id, "user_id": "alice@example.com", "query": "my diary"})
    rows = usage_rows(runtime, tenant_id)
    assert "alice" not in repr(rows)
    assert "diary" not in repr(rows)
    assert len(rows) == 1


# Summaries


async def test_a_summary_has_the_published_keys_and_types(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
    summary = runtime.usage.get_usage_summary(tenant_id)
    assert {name: type(value) for name, value in summary.items()} == SUMMARY
    assert summary["memories"] == {"used": 1, "limit": 100_000}
    assert summary["quota_remaining"] == 99_999
    assert isinstance(summary["storage_bytes"], int)
    assert summary["storage_bytes"] > len("Prefers tabs over spaces")


def test_a_summary_is_of_this_month_in_utc_unless_it_says_otherwise(runtime: CloudRuntime, tenant_id: str) -> None:
    summary = runtime.usage.get_usage_summary(tenant_id)
    start, end = summary["period_start"], summary["period_end"]
    assert isinstance(start, datetime)
    assert isinstance(end, datetime)
    assert end - datetime.now(UTC) < timedelta(seconds=5)
    assert start == end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert start.utcoffset() == timedelta(0)


@pytest.mark.parametrize("role", ["service", "member", "auditor"])
def test_usage_is_shown_to_administrators_and_operators_alone(runtime: CloudRuntime, tenant_id: str, role: str) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={role}):
        with pytest.raises(PermissionDeniedError) as refused:
            runtime.usage.get_usage_summary(tenant_id)
        assert refused.value.reason == "role_missing"
    for allowed in ("tenant_admin", "operator"):
        with request_context(tenant_id=tenant_id, user_id="dana", roles={allowed}):
            runtime.usage.get_usage_summary(tenant_id)
    events = [
        (event["outcome"], event["actor"]["roles"])  # type: ignore[index]
        for event in runtime.audit._store.events(tenant_id, since=None, until=None)
        if event["action"] == "usage.read"
    ]
    assert events == [("denied", [role]), ("allowed", ["tenant_admin"]), ("allowed", ["operator"])]


def test_a_tracker_without_tenancy_shows_nothing() -> None:
    with pytest.raises(ConfigurationError):
        tracker_on(Counter(0, None)).get_usage_summary("acme")
