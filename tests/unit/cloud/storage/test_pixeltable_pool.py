"""Laws of the threads on which Pixeltable is called."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.pixeltable_pool import THREADS_MAX, PixeltablePool


@pytest.fixture
def pool() -> Iterator[PixeltablePool]:
    made = PixeltablePool()
    yield made
    made.close()


async def test_a_call_returns_its_result_from_a_thread_of_the_pool(pool: PixeltablePool) -> None:
    assert (await pool.run(lambda: threading.current_thread().name)).startswith("pixeltable")
    assert pool.run_blocking(lambda: 7) == 7


async def test_a_call_raises_its_own_error_even_one_like_that_of_a_deadline(pool: PixeltablePool) -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await pool.run(fail)
    with pytest.raises(TimeoutError, match="its own"):
        pool.run_blocking(fail)


async def test_no_more_than_four_run_at_once_and_always_on_the_same_threads(pool: PixeltablePool) -> None:
    running: list[int] = []
    most = 0
    lock = threading.Lock()

    def call() -> int:
        nonlocal most
        with lock:
            running.append(1)
            most = max(most, len(running))
        time.sleep(0.01)
        with lock:
            running.pop()
        return threading.get_ident()

    threads = await asyncio.gather(*(pool.run(call) for _ in range(24)))
    assert most == THREADS_MAX
    assert len(set(threads)) == THREADS_MAX
    with pytest.raises(ValueError, match="1 to 4"):
        PixeltablePool(threads=5)


async def test_a_late_call_fails_in_time_and_one_that_had_not_begun_never_runs() -> None:
    pool = PixeltablePool(threads=1)
    release = threading.Event()
    ran: list[str] = []
    try:
        started = time.monotonic()
        with pytest.raises(ProviderUnavailableError) as late:
            await pool.run(release.wait, deadline_s=0.05)
        with pytest.raises(ProviderUnavailableError):
            await pool.run(lambda: ran.append("queued"), deadline_s=0.05)
        with pytest.raises(ProviderUnavailableError):
            pool.run_blocking(lambda: ran.append("queued"), deadline_s=0.05)
        assert time.monotonic() - started < 2
        assert late.value.component == "pixeltable"
        release.set()
        assert await pool.run(lambda: "again") == "again"
        assert ran == []
    finally:
        release.set()
        pool.close()


async def test_a_cancelled_caller_takes_its_waiting_call_along() -> None:
    pool = PixeltablePool(threads=1)
    release = threading.Event()
    ran: list[str] = []
    try:
        first = asyncio.ensure_future(pool.run(release.wait))
        second = asyncio.ensure_future(pool.run(lambda: ran.append("queued")))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        await first
        assert await pool.run(lambda: "again") == "again"
        assert ran == []
    finally:
        release.set()
        pool.close()


async def test_a_closed_pool_runs_nothing() -> None:
    pool = PixeltablePool()
    pool.close()
    pool.close()
    with pytest.raises(ProviderUnavailableError, match="was closed"):
        await pool.run(lambda: 1)
    with pytest.raises(ProviderUnavailableError, match="was closed"):
        pool.run_blocking(lambda: 1)
