"""One span and its metrics for each operation, through OpenTelemetry's API: whoever sets up its SDK gets them.

An operation is framed where it enters a service: every public method that is one is marked with `operation`, and the
memories' own, which run on threads, go through `observed`. Its span begins at tenancy's door (`begin`), where it has a
name and, soon after, a tenant; what passes no door brings its name along. On the way it notes facts: numbers, codes and
flags. Without an SDK nothing is recorded and nothing leaves the process.
"""

from __future__ import annotations

import functools
import inspect
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

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
from cloud.kernel.ids import is_tenant_id
from cloud.kernel.telemetry_names import Metric

_P = ParamSpec("_P")
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
    """An operation that is going on.

    Attributes:
        name: Its name, where no door gives it one.
        about: The tenant that an operator's call names.
        outer: The operation that it is a part of.
        stopped_by: What ended it early where its answer says so and nothing is raised.
    """

    name: str | None = None
    about: str | None = None
    outer: _Frame | None = None
    stopped_by: BaseException | None = None
    token: Token[_Frame | None] | None = None
    began_ns: int = field(default_factory=time.time_ns)
    began_s: float = field(default_factory=time.perf_counter)
    action: str | None = None
    span: Span = trace.INVALID_SPAN
    before: Context | None = None
    counted: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> None:
        self.outer = _frame.get()
        self.token = _frame.set(self)
        if self.name is not None:
            begin(self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.token is not None:
            _frame.reset(self.token)
        if self.before is not None:
            otel_context.attach(self.before)
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the span and count the operation, if it got as far as having a name."""
        if self.action is None:
            return
        error = error or self.stopped_by
        outcome, code = _outcome(error)
        labels = {names.OPERATION: self.action, names.OUTCOME: outcome}
        _bound.instruments.duration.record(time.perf_counter() - self.began_s, labels)
        _bound.instruments.operations.add(1, labels if code is None else {**labels, names.ERROR_TYPE: code})
        if isinstance(error, QuotaExceededError):
            _bound.instruments.quota_denials.add(1, {names.METER: error.meter})
        if self.span.is_recording():
            self.span.set_attributes({**self.counted, names.OUTCOME: outcome})
            if self.about is not None and outcome != "denied":
                self.of_tenant(self.about)
            if code is not None:
                # Neither the message nor the stack: what raised may have been given anything.
                self.span.set_attribute(names.ERROR_TYPE, code)
                self.span.set_status(Status(StatusCode.ERROR, code))
                reason = getattr(error, "reason", None)
                if isinstance(reason, str) and reason.isascii() and reason.replace("_", "").isalnum():
                    self.span.set_attribute(names.REASON, reason)
        self.span.end()

    def of_tenant(self, tenant_id: str) -> None:
        """Put the tenant on the span."""
        self.span.set_attributes({names.TENANT: tenant_id, names.GEN_AI_STORE: tenant_id})


_frame: Final[ContextVar[_Frame | None]] = ContextVar("luminescent_operation", default=None)


def observed(work: Callable[[], _T]) -> _T:
    """What `work` returns: one operation, with one span from its admission to its end."""
    with _Frame():
        return work()


def named(action: str, tenant_id: str | None, work: Callable[[], _T]) -> _T:
    """As `observed`, for what the service itself does: no door names it."""
    with _Frame(action, about=tenant_id):
        return work()


def operation(action: str | None = None) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Marks a public method each of whose calls is an operation.

    An operator's call names the tenant that it is about as `tenant_id`; the span has it unless the call is denied.

    Args:
        action: Its name, where no door gives it one.
    """

    def mark(method: Callable[_P, _T]) -> Callable[_P, _T]:
        parameters = list(inspect.signature(method).parameters)
        place = parameters.index("tenant_id") if "tenant_id" in parameters else len(parameters)

        def framed(given: tuple[object, ...], by_name: dict[str, object]) -> _Frame:
            about = given[place] if place < len(given) else by_name.get("tenant_id")
            return _Frame(action, about if isinstance(about, str) and is_tenant_id(about) else None)

        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def awaited(*given: _P.args, **by_name: _P.kwargs) -> Any:
                with framed(given, by_name):
                    return await cast(Awaitable[Any], method(*given, **by_name))

            return cast(Callable[_P, _T], awaited)

        @functools.wraps(method)
        def called(*given: _P.args, **by_name: _P.kwargs) -> _T:
            with framed(given, by_name):
                return method(*given, **by_name)

        return called

    return mark


def begin(action: str) -> None:
    """Begin the span of the operation that is going on: it is the current one until the operation ends."""
    frame = _frame.get()
    if frame is None or frame.action is not None:
        return
    frame.action = action
    attributes = {names.OPERATION: action}
    if (gen_ai := names.GEN_AI_OPERATIONS.get(action)) is not None:
        attributes[names.GEN_AI_OPERATION] = gen_ai
    present = otel_context.get_current()
    outer = frame.outer
    # The outer one's door may have been on another thread, where alone its span is the current one.
    parent = trace.set_span_in_context(outer.span) if outer is not None and outer.before is present else None
    frame.span = _bound.tracer.start_span(
        action, context=parent, kind=SpanKind.INTERNAL, attributes=attributes, start_time=frame.began_ns
    )
    if frame.span.is_recording():
        # So that the audit event, and whatever else the operation starts, belongs to it.
        frame.before = present
        otel_context.attach(trace.set_span_in_context(frame.span))


def of_tenant(tenant_id: str) -> None:
    """Say whose operation it is, once that is established."""
    frame = _frame.get()
    if frame is not None:
        frame.of_tenant(tenant_id)


def stopped_by(error: BaseException) -> None:
    """Say what ended the operation early, if its answer says so and it raises nothing."""
    frame = _frame.get()
    if frame is not None:
        frame.stopped_by = error


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
            # Noted and raised again, whatever it is.
            _failed(span, error)
            raise
    _bound.instruments.batches.add(1)
    _bound.instruments.batch_duration.record(time.perf_counter() - began_s)


def ended(name: str, error: BaseException) -> None:
    """A span that says that something which should go on for ever ended, and with which error."""
    span = _bound.tracer.start_span(name)
    _failed(span, error)
    span.end()


def _failed(span: Span, error: BaseException) -> None:
    _, code = _outcome(error)
    span.set_attribute(names.ERROR_TYPE, code or "unknown")
    span.set_status(Status(StatusCode.ERROR, code))


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "allowed", None
    code = error.code if isinstance(error, LuminescentError) else type(error).__name__
    return ("denied" if isinstance(error, _DENIED) else "failed"), code


bind()
