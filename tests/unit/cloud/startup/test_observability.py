"""Nothing is exported unless configured, results stay on standard output, and an application's own set-up stays."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
SETUP = """
import sys
from opentelemetry import metrics, trace
from cloud.kernel import telemetry
from cloud.settings import CloudSettings
from cloud.startup.observability import export_telemetry
"""
WORK = """
def work():
    telemetry.begin("memory.retrieve")
    telemetry.of_tenant("acme")
telemetry.observed(work)
print("a result")
"""
DEFAULT = "print(type(trace.get_tracer_provider()).__name__, 'opentelemetry.sdk' in sys.modules)"


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "\n".join((SETUP, *lines))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_by_default_no_provider_is_set_and_the_sdk_is_not_even_loaded() -> None:
    done = run("import cloud", "export_telemetry(CloudSettings())", WORK, DEFAULT)
    assert done.stdout == "a result\nProxyTracerProvider False\n", done.stderr
    assert "memory.retrieve" not in done.stderr


def test_the_console_is_standard_error_and_gets_spans_and_metrics_at_the_end() -> None:
    done = run("export_telemetry(CloudSettings(otel_exporter='console'))", WORK)
    assert (done.returncode, done.stdout) == (0, "a result\n"), done.stderr
    assert '"name": "memory.retrieve"' in done.stderr
    assert '"luminescent.tenant.id": "acme"' in done.stderr
    assert '"service.name": "luminescent-cloud"' in done.stderr
    assert '"luminescent.operation.duration"' in done.stderr


def test_an_applications_own_providers_are_left_alone_and_get_the_spans() -> None:
    done = run(
        "from opentelemetry.sdk.trace import TracerProvider",
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor",
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter",
        "mine, spans = TracerProvider(), InMemorySpanExporter()",
        "mine.add_span_processor(SimpleSpanProcessor(spans))",
        "trace.set_tracer_provider(mine)",
        "export_telemetry(CloudSettings(otel_exporter='console'))",
        WORK,
        "print(trace.get_tracer_provider() is mine, [span.name for span in spans.get_finished_spans()])",
    )
    assert done.stdout == "a result\nTrue ['memory.retrieve']\n", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("opentelemetry.exporter") is not None, reason="the extra is installed")
def test_without_its_extra_otlp_is_refused_and_says_what_to_install() -> None:
    done = run("export_telemetry(CloudSettings(otel_exporter='otlp'))")
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "luminescent-cloud[otlp]" in done.stderr
