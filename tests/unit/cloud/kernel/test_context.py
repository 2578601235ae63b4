"""Laws of the ambient context: it belongs to one task or thread, and ends with its block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.sdk.trace import TracerProvider

from cloud.kernel.context import current_context, current_trace_id, request_context


def tenant() -> str | None:
    ambient = current_context()
    return ambient.tenant_id if ambient else None


async def test_concurrent_tasks_see_their_own_caller_only() -> None:
    async def one(number: int) -> set[str | None]:
        seen = set()
        with request_context(tenant_id=f"tenant-{number}"):
            for _ in range(20):
                await asyncio.sleep(0)
                seen.add(tenant())
        return seen

    assert await asyncio.gather(*(one(n) for n in range(50))) == [{f"tenant-{n}"} for n in range(50)]
    assert tenant() is None


def test_a_thread_of_its_own_has_no_caller() -> None:
    with request_context(tenant_id="acme"), ThreadPoolExecutor(1) as threads:
        assert threads.submit(tenant).result() is None


def test_concurrent_threads_see_their_own_caller_only() -> None:
    together = threading.Barrier(8)

    def one(number: int) -> str | None:
        with request_context(tenant_id=f"tenant-{number}"):
            together.wait(10)
            seen = tenant()
            together.wait(10)
        return seen

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(8))) == [f"tenant-{n}" for n in range(8)]


async def test_work_handed_to_a_thread_takes_its_caller_along() -> None:
    with request_context(tenant_id="acme"):
        assert await asyncio.to_thread(tenant) == "acme"


def test_an_inner_block_hides_the_outer_and_gives_it_back_whatever_happens() -> None:
    with request_context(tenant_id="acme", user_id="alice", roles={"member"}) as outer:
        with contextlib.suppress(RuntimeError), request_context(tenant_id="globex") as inner:
            assert current_context() is inner
            assert (inner.user_id, inner.roles) == (None, frozenset()), "an inner caller inherited something"
            raise RuntimeError
        assert current_context() is outer
    assert current_context() is None


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    with request_context(tenant_id="acme") as one:
        pass
    with request_context(tenant_id="acme") as two:
        pass
    assert one.request_id != two.request_id
    with request_context(tenant_id="acme", request_id="edge-7f3a:12") as named:
        assert named.request_id == "edge-7f3a:12"


@pytest.mark.parametrize("token", ["", "a\0b", "a\nb", "\ud800", "id of José", "x" * 129, "alice@example.com said", 7])
@pytest.mark.parametrize("place", ["request_id", "operator"])
def test_what_audit_events_quote_is_a_token(place: str, token: object) -> None:
    with pytest.raises(ValueError, match=place), request_context(**{place: token}):  # type: ignore[arg-type]
        raise AssertionError("entered")


def test_no_text_of_a_context_shows_caller_or_credential() -> None:
    with request_context(tenant_id="acme", user_id="alice", authorization="Bearer lc_1_secret") as ambient:
        assert "alice" not in repr(ambient)
        assert "secret" not in str(ambient)


def test_the_trace_is_that_of_the_present_span() -> None:
    assert current_trace_id() is None
    tracer = TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("request") as span:
        assert current_trace_id() == format(span.get_span_context().trace_id, "032x")
    assert current_trace_id() is None
