"""Each operation leaves exactly one committed event before its result is there, whatever becomes of it."""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from opentelemetry import trace

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import MemoryNotFoundError, ProviderUnavailableError
from cloud.kernel.ids import parse_memory_id
from src.memory.lifecycle import MemoryPage
from src.testing.samples import sample_memory
from tests.isolation.operations import OPERATIONS, PROVIDER_OPERATIONS, Operation, staged
from tests.isolation.probes import Event, Onlooker

_TRACE = trace.SpanContext(trace_id=0xABC, span_id=0xD, is_remote=False, trace_flags=trace.TraceFlags(1))
_FIELDS = {
    "schema",
    "event_id",
    "log_id",
    "occurred_at",
    "category",
    "action",
    "actor",
    "subject_id",
    "request_id",
    "trace_id",
    "details",
    "outcome",
    "reason",
    "resource_ids",
    "counts",
    "latency_us",
}
COUNTS: dict[str, dict[str, int]] = {
    "store": {"stored": 1},
    "store_many": {"stored": 2},
    "retrieve": {"returned": 1},
    "search": {"returned": 1},
    "search:ranked": {"returned": 1},
    "get_by_id": {"returned": 1},
    "delete": {"deleted": 1},
    "update": {"updated": 1},
    "supersede": {"stored": 1, "superseded": 1},
    "undelete": {"undeleted": 1},
    "history": {"returned": 1},
    "list": {"returned": 1},
    "count": {"returned": 0},
}


def final(events: list[Event], operation: Operation) -> Event:
    """The one event of an operation; an erasure also leaves its intent."""
    if operation.label in ("delete_user_data:confirmed", "confirm"):
        intent, *events = events
        assert (intent["action"], intent["reason"]) == ("gdpr.erase.step", "intent")
    (event,) = events
    return event


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
async def test_an_event_says_who_did_what_to_which_memories_and_how_it_ended(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    began = datetime.now(UTC)
    with (
        trace.use_span(trace.NonRecordingSpan(_TRACE)),
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, user_id="caller", roles={operation.role}, request_id="request/17"),
    ):
        result = await operation.call(runtime.memory, runtime.gdpr, stage)
    event = final(events, operation)
    keyring = runtime.pixeltable_config.keyring
    caller = keyring.resolve_subject(tenant_id, "caller", create=False)
    assert caller is not None
    several = operation.label == "store_many"
    assert set(event) == (_FIELDS | {"subject_ids"} if several else _FIELDS)
    assert event["actor"] == {"kind": "subject", "id": caller.subject_id, "roles": [operation.role]}
    assert (event["log_id"], event["action"]) == (tenant_id, operation.action)
    assert (event["outcome"], event["reason"]) == ("allowed", None)
    assert (event["request_id"], event["trace_id"]) == ("request/17", f"{0xABC:032x}")
    assert 0 < event["latency_us"] < 60_000_000
    assert began <= datetime.fromisoformat(event["occurred_at"]) <= datetime.now(UTC)
    assert UUID(event["event_id"]).version == 7
    if operation in PROVIDER_OPERATIONS:
        person = keyring.resolve_subject(tenant_id, stage.user_id, create=False)
        assert person is not None
        assert person.subject_id in (event["subject_ids"] if several else [event["subject_id"]])
        assert event["counts"] == COUNTS[operation.label]
        match result:
            case _ if operation.label in ("update", "history"):
                assert event["resource_ids"] == [stage.memory_id]
            case _ if operation.label == "undelete":
                assert event["resource_ids"] == [stage.deleted_id]
            case _ if operation.label == "supersede":
                assert event["resource_ids"] == [result, stage.memory_id]
            case bool() | None:
                assert event["resource_ids"] == [stage.memory_id]
            case str():
                assert event["resource_ids"] == [result]
            case list():
                assert event["resource_ids"] == [getattr(one, "id", one) for one in result]
            case MemoryPage():
                assert event["resource_ids"] == [one.id for one in result.memories]
            case int():
                # Which memories were counted is not told, how many is.
                assert (event["resource_ids"], event["details"]) == ([], {"counted": result})
            case _:
                assert event["resource_ids"] == [getattr(result, "id", None)]
        assert all(parse_memory_id(memory_id) for memory_id in event["resource_ids"])


@pytest.mark.parametrize("operation", PROVIDER_OPERATIONS, ids=lambda operation: operation.label)
async def test_every_repetition_is_an_operation_of_its_own(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    for _ in range(3):
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=tenant_id, user_id="alice", roles={operation.role}),
            # A memory is superseded once; asking again is an operation all the same.
            contextlib.suppress(MemoryNotFoundError),
        ):
            await operation.call(runtime.memory, runtime.gdpr, stage)
        assert len(events) == 1


async def test_a_read_that_finds_nothing_is_recorded_too(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={"service"}):
        assert await runtime.memory.retrieve("anything?", "a stranger") == []
        assert await runtime.memory.search("a stranger", {}) == []
        assert await runtime.memory.store_many([], {}) == []
    assert [(e["action"], e["outcome"], e["counts"]) for e in events] == [
        ("memory.retrieve", "allowed", {"returned": 0}),
        ("memory.search", "allowed", {"returned": 0}),
        ("memory.store_many", "allowed", {"stored": 0}),
    ]
    assert runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "a stranger", create=False) is None


async def test_a_part_that_fails_is_recorded_before_its_error_is_raised(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    def fail() -> None:
        raise ProviderUnavailableError("a part")

    failpoints.arm("store.sealed", fail)
    try:
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=tenant_id, roles={"service"}),
            pytest.raises(ProviderUnavailableError),
        ):
            await runtime.memory.store(sample_memory("alice"), {})
    finally:
        failpoints.disarm_all()
    assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [("memory.store", "failed", "unavailable")]
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 0


async def test_an_event_that_cannot_be_committed_in_time_is_an_operation_that_fails_in_time(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str
) -> None:
    installation = runtime._installation
    server, settings = installation.server._server, installation.settings  # type: ignore[attr-defined]
    with (
        server.cluster.connect("luminescent_control") as blocker,
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, roles={"service"}),
    ):
        # The database is there and hangs: nobody can write an event while this lock is held.
        blocker.execute(b"BEGIN; LOCK TABLE audit_events IN SHARE ROW EXCLUSIVE MODE")
        begun_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            await runtime.memory.store(sample_memory("alice"), {})
        # Once for the operation and once for the event that it failed.
        assert time.monotonic() - begun_s < 2 * (settings.deadline_s + settings.statement_s + 0.5) + 1.0
        blocker.execute(b"ROLLBACK")
    assert [event for event in events if event["log_id"] == tenant_id] == []
    assert onlooker.ledger(tenant_id) == onlooker.used(tenant_id) == 0


async def test_reasons_are_codes(runtime: CloudRuntime, onlooker: Onlooker) -> None:
    reasons = {event["reason"] for event in onlooker.events()} - {None}
    assert reasons
    assert all(re.fullmatch(r"[a-z_]+(:[a-z_]+)?", reason) for reason in reasons), reasons
