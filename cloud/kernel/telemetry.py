"""One span and its metrics for each operation, through OpenTelemetry's API: whoever sets up its SDK gets them.

An operation is framed where it enters a service (`observed`), and its span begins at tenancy's door (`begin`), where
it has a name and, soon after, a tenant. On the way it notes facts: numbers, codes and flags. Without an SDK nothing is
recorded and nothing leaves the process.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from cloud.kernel import telemetry_names as names
from cloud.kernel.errors import (
    AuthenticationError,
    LuminescentError,
    PermissionDeniedError,
    QuotaExceededError,
    TenantIsolationError,
)
from cloud.kernel.telemetry_names import Metric

_T = TypeVar("_T")
_DENIED: Final = (AuthenticationError, PermissionDeniedError, QuotaExceededError, TenantIsolationError)


class Sized(Protocol):
    """Something whose size is observed."""

    def size_bytes(self) -> int:
        """What it holds, about."""
        ...


class _Instruments:
    """The instruments of one meter; those that are counted by hand are attributes."""

    def __init__(self, meter: Meter) -> None:
        def counter(metric: Metric) -> Counter:
            return meter.create_counter(metric.name, metric.unit, metric.meaning)

        def histogram(metric: Metric) -> Histogram:
            return meter.create_histogram(
                metric.name,
                metric.unit,
                metric.meaning,
                explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS_S,
            )

        self.operations = counter(names.OPERATIONS)
        self.duration = histogram(names.DURATION)
        self.quota_denials = counter(names.QUOTA_DENIALS)
        self.hot_reads = counter(names.HOT_READS)
        self.hot_evictions = counter(names.HOT_EVICTIONS)
        self.key_reads = counter(names.KEY_READS)
        self.batches = counter(names.BATCHES)
        self.rows = counter(names.ROWS)
        self.batch_duration = histogram(names.BATCH_DURATION)
        self.backlog = meter.create_gauge(names.BACKLOG.name, names.BACKLOG.unit, names.BACKLOG.meaning)
        self.backlog_age = meter.create_gauge(names.BACKLOG_AGE.name, names.BACKLOG_AGE.unit, names.BACKLOG_AGE.meaning)
        meter.create_observable_gauge(names.HOT_BYTES.name, [_hot_bytes], names.HOT_BYTES.unit, names.HOT_BYTES.meaning)


class _Bound:
    """What spans and metrics go to: by default whatever the process has set up for all."""

    tracer: Tracer
    instruments: _Instruments


_bound: Final = _Bound()
_hot_tiers: Final[weakref.WeakSet[Sized]] = weakref.WeakSet()


def bind(tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Send spans and metrics to these providers; `None` is the process's own, set up before or after this."""
    _bound.tracer = trace.get_tracer(names.SCOPE, tracer_provider=tracer_provider)
    _bound.instruments = _Instruments(metrics.get_meter(names.SCOPE, meter_provider=meter_provider))


def instruments() -> _Instruments:
    """The instruments that are bound."""
    return _bound.instruments


def watch_hot_tier(tier: Sized) -> None:
    """Observe the size of a hot tier for as long as it exists."""
    _hot_tiers.add(tier)


def _hot_bytes(_: CallbackOptions) -> Iterable[Observation]:
    yield Observation(sum(tier.size_bytes() for tier in list(_hot_tiers)))


@dataclass(slots=True)
class _Frame:
    """An operation that is going on."""

    began_ns: int = field(default_factory=time.time_ns)
    began_s: float = field(default_factory=time.perf_counter)
    action: str | None = None
    span: Span = trace.INVALID_SPAN
    before: Context | None = None
    counted: dict[str, int] = field(default_factory=dict)

    def end(self, error: BaseException | None) -> None:
        """End the span and count the operation, if it got as far as having a name."""
        if self.action is None:
            return
        outcome, code = _outcome(error)
        labels = {names.OPERATION: self.action, names.OUTCOME: outcome}
        _bound.instruments.duration.record(time.perf_counter() - self.began_s, labels)
        _bound.instruments.operations.add(1, labels if code is None else {**labels, names.ERROR_TYPE: code})
        if isinstance(error, QuotaExceededError):
            _bound.instruments.quota_denials.add(1, {names.METER: error.meter})
        if self.span.is_recording():
            self.span.set_attributes({**self.counted, names.OUTCOME: outcome})
            if code is not None:
                # Neither the message nor the stack: what raised may have been given anything.
                self.span.set_attribute(names.ERROR_TYPE, code)
                self.span.set_status(Status(StatusCode.ERROR, code))
                reason = getattr(error, "reason", None)
                if isinstance(reason, str) and reason.isascii() and reason.replace("_", "").isalnum():
                    self.span.set_attribute(names.REASON, reason)
        self.span.end()


_frame: Final[ContextVar[_Frame | None]] = ContextVar("luminescent_operation", default=None)


def observed(work: Callable[[], _T]) -> _T:
    """What `work` returns: one operation, with one span from its admission to its end."""
    frame = _Frame()
    token = _frame.set(frame)
    failed: BaseException | None = None
    try:
        return work()
    except BaseException as error:
        failed = error
        raise
    finally:
        _frame.reset(token)
        if frame.before is not None:
            otel_context.attach(frame.before)
        frame.end(failed)


def begin(action: str) -> None:
    """Begin the span of the operation that is going on: it is the current one until the operation ends."""
    frame = _frame.get()
    if frame is None or frame.action is not None:
        return
    frame.action = action
    attributes = {names.OPERATION: action}
    if (gen_ai := names.GEN_AI_OPERATIONS.get(action)) is not None:
        attributes[names.GEN_AI_OPERATION] = gen_ai
    frame.span = _bound.tracer.start_span(
        action, kind=SpanKind.INTERNAL, attributes=attributes, start_time=frame.began_ns
    )
    if frame.span.is_recording():
        # So that the audit event, and whatever else the operation starts, belongs to it.
        frame.before = otel_context.get_current()
        otel_context.attach(trace.set_span_in_context(frame.span))


def of_tenant(tenant_id: str) -> None:
    """Say whose operation it is, once that is established."""
    frame = _frame.get()
    if frame is not None:
        frame.span.set_attributes({names.TENANT: tenant_id, names.GEN_AI_STORE: tenant_id})


def note(name: str, value: int) -> None:
    """Note a fact about the operation that is going on, if one is; the last one of a name counts."""
    frame = _frame.get()
    if frame is not None:
        frame.counted[name] = value


def count(name: str) -> None:
    """Count something that the operation that is going on did, if one is."""
    frame = _frame.get()
    if frame is not None:
        frame.counted[name] = frame.counted.get(name, 0) + 1


@contextmanager
def batch(placement: str) -> Iterator[Span]:
    """A span and the metrics of one batch of the materializer."""
    began_s = time.perf_counter()
    with _bound.tracer.start_as_current_span(
        names.MATERIALIZE,
        attributes={names.PLACEMENT: placement},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            _, code = _outcome(error)
            span.set_attribute(names.ERROR_TYPE, code or "unknown")
            span.set_status(Status(StatusCode.ERROR, code))
            raise
    _bound.instruments.batches.add(1)
    _bound.instruments.batch_duration.record(time.perf_counter() - began_s)


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "allowed", None
    code = error.code if isinstance(error, LuminescentError) else type(error).__name__
    return ("denied" if isinstance(error, _DENIED) else "failed"), code


bind()
