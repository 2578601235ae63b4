"""Every operation has one span and is counted once; nothing personal is in any of it, and no tenant on a metric."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints, telemetry
from cloud.kernel import telemetry_names as names
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from src.testing.samples import sample_memory
from tests.isolation.operations import OPERATIONS, Operation, staged
from tests.isolation.probes import Onlooker
from tests.isolation.services import CLASSIFIED, SERVICE_OPERATIONS, ServiceOperation, public_methods

PERSON = "zuleika.quartermain@example.org"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was exported."""

    spans: InMemorySpanExporter
    reader: InMemoryMetricReader
    tenant_id: str

    def operations(self) -> list[ReadableSpan]:
        """The spans of this test's operations: neither the materializer's, nor what the upkeep finishes for others."""
        others = self.others()
        return [
            span
            for span in self.spans.get_finished_spans()
            if span.name != names.MATERIALIZE and format(span.context.trace_id, "032x") not in others
        ]

    def others(self) -> set[str]:
        """Traces of operations in tenants of other tests, which leave erasures unfinished on purpose."""
        return {
            format(span.context.trace_id, "032x")
            for span in self.spans.get_finished_spans()
            if span.parent is None and (span.attributes or {}).get(names.TENANT, self.tenant_id) != self.tenant_id
        }

    def points(self) -> list[tuple[str, dict[str, object], float]]:
        """Every point of every metric: its name, its labels, and its value or count."""
        data = self.reader.get_metrics_data()
        return [
            (metric.name, dict(point.attributes or {}), getattr(point, "value", None) or getattr(point, "count", 0))
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]

    def counted(self, action: str, outcome: str = "allowed") -> int:
        """How many operations of a name ended so."""
        return sum(
            int(value)
            for name, labels, value in self.points()
            if name == names.OPERATIONS.name and (labels[names.OPERATION], labels[names.OUTCOME]) == (action, outcome)
        )

    def text(self) -> str:
        """All of it."""
        return " ".join(span.to_json() for span in self.spans.get_finished_spans()) + repr(self.points())


@pytest.fixture
def seen(tenant_id: str) -> Iterator[Seen]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.bind(tracers, MeterProvider([reader]))
    try:
        yield Seen(exporter, reader, tenant_id)
    finally:
        telemetry.bind()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
async def test_every_operation_has_one_span_and_is_counted_once_without_anything_personal(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path, seen: Seen
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, user_id=PERSON, operation=operation)
    seen.spans.clear()
    before = seen.counted(operation.action)
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={operation.role}):
        await operation.call(runtime.memory, runtime.gdpr, stage)
    (span,) = seen.operations()
    attributes = dict(span.attributes or {})
    assert span.name == attributes[names.OPERATION] == operation.action
    assert (attributes[names.TENANT], attributes[names.OUTCOME]) == (tenant_id, "allowed")
    assert attributes.get(names.GEN_AI_OPERATION) == names.GEN_AI_OPERATIONS.get(operation.action)
    assert int(str(attributes[names.STATEMENTS])) >= 1
    assert set(attributes) <= {attribute.name for attribute in names.ATTRIBUTES}
    assert {event["trace_id"] for event in events} - seen.others() == {format(span.context.trace_id, "032x")}
    assert seen.counted(operation.action) == before + 1
    for personal in (PERSON, stage.memory_id, "tabs", sample_memory(PERSON).content, "somebody else", "request 17"):
        assert personal not in seen.text()


def test_every_public_method_of_the_runtimes_services_is_an_operation_or_known_not_to_be(runtime: CloudRuntime) -> None:
    assert set(public_methods(runtime)) == CLASSIFIED


@pytest.mark.parametrize("operation", SERVICE_OPERATIONS, ids=lambda operation: operation.label)
async def test_every_operation_of_the_services_has_one_span_and_is_counted_once_without_anything_personal(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: ServiceOperation, tmp_path: Path, seen: Seen
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, user_id=PERSON)
    prepared = operation.prepare(runtime, stage)
    seen.spans.clear()
    before = seen.counted(operation.action, operation.outcome)
    with contextlib.ExitStack() as stack:
        events = stack.enter_context(onlooker.new_events())
        if operation.role is not None:
            stack.enter_context(request_context(tenant_id=tenant_id, roles={operation.role}))
        if operation.outcome == "failed":
            stack.enter_context(pytest.raises(ConfigurationError))
        answer = operation.call(runtime, stage, prepared)
        if inspect.isawaitable(answer):
            await answer
    # An operation may be made of others: theirs are within its own.
    (span,) = [found for found in seen.operations() if found.parent is None]
    attributes = dict(span.attributes or {})
    assert span.name == attributes[names.OPERATION] == operation.action
    assert attributes[names.OUTCOME] == operation.outcome
    assert attributes.get(names.TENANT) == (tenant_id if operation.names_tenant else None)
    assert {found.context.trace_id for found in seen.operations()} == {span.context.trace_id}
    assert {event["trace_id"] for event in events} - seen.others() == {format(span.context.trace_id, "032x")}
    ended = [event["outcome"] for event in events if event["action"] == operation.action]
    assert ended == [operation.outcome], "one event, beside those of its steps and parts"
    assert seen.counted(operation.action, operation.outcome) == before + 1
    assert all(tenant_id not in repr(labels) for _, labels, _ in seen.points())
    for found in seen.operations():
        assert set(found.attributes or {}) <= {attribute.name for attribute in names.ATTRIBUTES}
    for personal in (PERSON, stage.memory_id, "tabs", sample_memory(PERSON).content):
        assert personal not in seen.text()


async def test_what_is_finished_for_a_process_that_died_is_an_operation_too(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path, seen: Seen
) -> None:
    def die() -> None:
        raise ProviderUnavailableError("a part")

    await staged(runtime, tenant_id, tmp_path, user_id=PERSON)
    failpoints.arm("erase.key_destroyed", die)
    try:
        with pytest.raises(ProviderUnavailableError):
            await runtime.gdpr.delete_user_data(PERSON, tenant_id, confirmed=True)
    finally:
        failpoints.disarm_all()
    # Erasures that other tests left are finished too.
    assert runtime.gdpr.resume() >= 1
    died, finished = [span for span in seen.operations() if span.name == "gdpr.erase"]
    for span, outcome in ((died, "failed"), (finished, "allowed")):
        attributes = dict(span.attributes or {})
        assert (span.name, attributes[names.TENANT], attributes[names.OUTCOME]) == ("gdpr.erase", tenant_id, outcome)
    assert PERSON not in seen.text()


async def test_an_import_that_had_to_stop_is_seen_as_failed(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path, seen: Seen
) -> None:
    runtime.tenants.change(tenant_id, limits={"memories": 1})
    path = tmp_path / "three.jsonl"
    line = sample_memory(PERSON).model_dump_json(exclude={"id"})
    path.write_text(f"{line}\n{line}\n{line}\n")
    with request_context(tenant_id=tenant_id, roles={"service"}):
        assert (await runtime.transfer.import_file(path)).stopped is not None
    (span,) = [found for found in seen.operations() if found.name == "memory.import"]
    attributes = dict(span.attributes or {})
    assert (attributes[names.OUTCOME], attributes[names.ERROR_TYPE]) == ("denied", "quota_exceeded")


def test_a_refused_administrator_is_seen_in_the_own_tenant(runtime: CloudRuntime, tenant_id: str, seen: Seen) -> None:
    with (
        request_context(tenant_id=tenant_id, user_id=PERSON, roles={"member"}),
        pytest.raises(PermissionDeniedError),
    ):
        runtime.tenants.suspend("somebody-elses-tenant")
    (span,) = seen.operations()
    attributes = dict(span.attributes or {})
    assert (span.name, attributes[names.OUTCOME], attributes[names.TENANT]) == ("tenant.suspend", "denied", tenant_id)
    assert "somebody-elses-tenant" not in seen.text()


async def test_reads_say_how_they_were_answered(runtime: CloudRuntime, tenant_id: str, seen: Seen) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory(PERSON), {})
        seen.spans.clear()
        for _ in range(2):
            await runtime.memory.retrieve("tabs", PERSON)
    cold, hot = (dict(span.attributes or {}) for span in seen.operations())
    assert (cold[names.HOT], hot[names.HOT]) == (False, True)
    assert hot[names.CANDIDATES] == hot[names.RETURNED] == hot[names.ATTEMPTS] == hot[names.STATEMENTS] == 1


async def test_refusals_are_seen_with_their_code_and_without_their_text(
    runtime: CloudRuntime, tenant_id: str, seen: Seen
) -> None:
    with pytest.raises(AuthenticationError):
        await runtime.memory.retrieve("tabs", PERSON)
    with (
        request_context(tenant_id=tenant_id, user_id="another", roles={"member"}),
        pytest.raises(PermissionDeniedError),
    ):
        await runtime.memory.search(PERSON, {})
    stranger, member = seen.operations()
    for span, code, reason in ((stranger, "authentication", "no_scope"), (member, "permission_denied", "other_user")):
        attributes = dict(span.attributes or {})
        assert (attributes[names.OUTCOME], attributes[names.ERROR_TYPE], attributes[names.REASON]) == (
            "denied",
            code,
            reason,
        )
        assert span.events == ()
        assert span.status.description == code
    assert names.TENANT not in dict(stranger.attributes or {})
    assert PERSON not in seen.text()


async def test_a_full_quota_is_counted_by_its_meter(runtime: CloudRuntime, seen: Seen) -> None:
    runtime.tenants.create("telemetry-full", limits={"memories": 0})
    with request_context(tenant_id="telemetry-full", roles={"service"}), pytest.raises(QuotaExceededError):
        await runtime.memory.store(sample_memory(PERSON), {})
    assert (names.QUOTA_DENIALS.name, {names.METER: "memories"}, 1) in seen.points()


async def test_metrics_are_those_of_the_table_and_no_label_tells_a_tenant(
    runtime: CloudRuntime, tenant_id: str, seen: Seen
) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory(PERSON), {})
        await runtime.memory.search(PERSON, {})
    await runtime.drain()
    runtime._installation.materializer().look()
    known = {metric.name: metric for metric in names.METRICS}
    points = seen.points()
    for name, labels, _ in points:
        assert set(labels) <= set(known[name].labels)
        assert tenant_id not in repr(labels)
    expected = set(known) - {names.QUOTA_DENIALS.name, names.HOT_EVICTIONS.name}
    assert expected <= {name for name, _, _ in points}
    (batch, *_) = [span for span in seen.spans.get_finished_spans() if span.name == names.MATERIALIZE]
    assert dict(batch.attributes or {})[names.ROWS_INSERTED] == 1
    assert all(names.TENANT not in metric.labels for metric in names.METRICS)
