"""Sets up OpenTelemetry's SDK as the settings say; without them, and beside an application's own, it does nothing."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics, trace

from cloud.kernel import telemetry_names as names
from cloud.kernel.errors import ConfigurationError
from cloud.settings import CloudSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

_OTLP: Final = "opentelemetry.exporter.otlp.proto.http"

_log = logging.getLogger(__name__)


def export_telemetry(settings: CloudSettings) -> None:
    """Export spans and metrics of this process, once, if the settings say where to.

    Raises:
        ConfigurationError: The extra that the exporter needs is not installed.
    """
    if settings.otel_exporter == "none":
        return
    # The API's default hands on to whatever is set later; anything else is an application's, which decides.
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _log.info("OpenTelemetry is set up in this process already; otel_exporter is left to that")
        return
    # Only now: it takes a tenth of a second to load.
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    spans, measures = _console() if settings.otel_exporter == "console" else _otlp()
    resource = Resource.create()
    # OTEL_SERVICE_NAME, where it is set, has said already which service this is.
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": names.SCOPE}))
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(measures)], resource))


def _console() -> tuple[SpanExporter, MetricExporter]:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    # Standard output is for results.
    return ConsoleSpanExporter(out=sys.stderr), ConsoleMetricExporter(out=sys.stderr)


def _otlp() -> tuple[SpanExporter, MetricExporter]:
    try:
        spans = importlib.import_module(f"{_OTLP}.trace_exporter")
        measures = importlib.import_module(f"{_OTLP}.metric_exporter")
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "otel_exporter=otlp needs the extra otlp: pip install 'luminescent-cloud[otlp]'; where to send to is what"
            " OTEL_EXPORTER_OTLP_ENDPOINT says"
        ) from missing
    return spans.OTLPSpanExporter(), measures.OTLPMetricExporter()
