"""A worker in a thread goes on after an error that nobody named, as a child process does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cloud import CloudRuntime, request_context
from cloud.audit.archiving import Archiver
from cloud.audit.sequencing import Sequencing
from cloud.kernel import telemetry
from cloud.memory.materializer import Materializer
from cloud.memory.worker import WorkerThread
from cloud.startup import working
from src.memory.schemas import Memory, MemoryType

WITHIN_S = 20.0


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.bind(provider)
    yield exporter
    telemetry.bind()


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.01)


def test_a_round_that_fails_is_followed_by_another_and_said_without_its_text(
    spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[threading.Event] = []

    def work(stop: threading.Event) -> None:
        rounds.append(stop)
        if len(rounds) < 3:
            stop.set()
            raise RuntimeError("about alice@example.com")
        stop.wait()

    worker = WorkerThread(work, restart_s=0.01)
    with caplog.at_level(logging.ERROR):
        worker.start()
        eventually(lambda: len(rounds) == 3)
        worker.stop()
    assert [record.message for record in caplog.records] == [
        "the worker ended with RuntimeError; starting it again"
    ] * 2
    assert "alice" not in caplog.text
    ended = [span for span in spans.get_finished_spans() if span.name == "worker"]
    assert [dict(span.attributes or {}) for span in ended] == [{"error.type": "RuntimeError"}] * 2
    assert not any(span.events for span in ended), "an event would hold the error's text"


def test_rounds_that_fail_at_once_come_less_and_less_often() -> None:
    began_s: list[float] = []

    def work(_: threading.Event) -> None:
        began_s.append(time.monotonic())
        raise RuntimeError

    worker = WorkerThread(work, restart_s=0.05)
    worker.start()
    eventually(lambda: len(began_s) == 4)
    worker.stop()
    pauses = [later - earlier for earlier, later in zip(began_s, began_s[1:], strict=False)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=False):
        assert pause >= least


def test_a_worker_is_stopped_in_the_pause_after_a_failure() -> None:
    begun = threading.Event()

    def work(_: threading.Event) -> None:
        begun.set()
        raise RuntimeError

    worker = WorkerThread(work, restart_s=600)
    worker.start()
    begun.wait(WITHIN_S)
    began_s = time.monotonic()
    worker.stop()
    assert time.monotonic() - began_s < WITHIN_S


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Sequencing, "run"),
        (Archiver, "work"),
        (working, "go_on_with_erasures"),
        (working, "_finish_moves"),
    ],
)
def test_what_ends_by_an_error_beside_the_materializer_ends_the_worker(
    runtime: CloudRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: object,
    name: str,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("about alice@example.com")

    monkeypatch.setattr(owner, name, fail)
    stop = threading.Event()
    gives_up = threading.Timer(WITHIN_S, stop.set)
    gives_up.start()
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError):
        working.work(runtime._installation, stop)
    gives_up.cancel()
    assert any(record.message.endswith("ended with RuntimeError, and the worker with it") for record in caplog.records)
    assert "alice" not in caplog.text


async def test_what_waits_is_materialized_after_the_materializer_failed(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own worker is a thread: its materializer breaks, and the audit log's sequencer ends with it."""
    failed = threading.Event()
    real = Materializer.round

    def round_(self: Materializer, stop: threading.Event | None = None) -> int:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("nobody named this")
        return real(self, stop)

    monkeypatch.setattr(Materializer, "round", round_)
    eventually(failed.is_set)
    memory = Memory(user_id="alice", content="she drinks tea", memory_type=MemoryType.FACT, source="test")
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(memory, {})
    await runtime.drain(timeout_s=60)
