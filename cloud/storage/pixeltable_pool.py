"""The threads on which Pixeltable is called: few, always the same, none of them an event loop's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Callable
from typing import Final, TypeVar

from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.pixeltable_env import COMPONENT

THREADS_MAX: Final = 4
"""More make it slower: with 32 threads, single inserts took seconds."""

_T = TypeVar("_T")


class PixeltablePool:
    """Runs blocking calls on at most four threads, each with a deadline that includes the wait for a thread.

    Pixeltable keeps a catalog and an event loop per thread, so the threads are kept too. A call that misses its
    deadline is not run if it had not begun; if it had, it goes on, and its thread is busy until it returns.
    """

    def __init__(self, *, threads: int = THREADS_MAX, deadline_s: float = 30.0) -> None:
        """Start with no thread; they come with the calls.

        Args:
            threads: How many at most, 1 to 4.
            deadline_s: Seconds that a call may take, unless it brings its own.
        """
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError(f"threads must be 1 to {THREADS_MAX}")
        self._threads = threads
        self._deadline_s = deadline_s
        self._executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="pixeltable")
        self._closed = False

    async def run(self, call: Callable[[], _T], *, deadline_s: float | None = None) -> _T:
        """Return what `call` returns, without blocking the event loop.

        Raises:
            ProviderUnavailableError: The deadline passed, or the pool is closed.
        """
        future = self._submit(call)
        wrapped = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait({wrapped}, timeout=deadline_s or self._deadline_s)
        finally:
            # Also when the caller was cancelled. A call that runs cannot be stopped; what it returns is dropped.
            future.cancel()
            wrapped.cancel()
        if not done:
            raise ProviderUnavailableError(COMPONENT)
        return wrapped.result()

    def run_blocking(self, call: Callable[[], _T], *, deadline_s: float | None = None) -> _T:
        """Return what `call` returns. Not for use on an event loop, nor from within a call of this pool.

        Raises:
            ProviderUnavailableError: The deadline passed, or the pool is closed.
        """
        future = self._submit(call)
        done, _ = concurrent.futures.wait({future}, timeout=deadline_s or self._deadline_s)
        if not done:
            future.cancel()
            raise ProviderUnavailableError(COMPONENT)
        return future.result()

    def close(self) -> None:
        """Wait for the calls that run, and end the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        runtime = sys.modules.get("pixeltable.runtime")
        if runtime is not None:
            # Only the thread itself can close the event loop that Pixeltable keeps in it.
            runtime.close_threadpool_runtimes(self._executor, self._threads)
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, call: Callable[[], _T]) -> concurrent.futures.Future[_T]:
        if self._closed:
            raise ProviderUnavailableError(COMPONENT, reason="was closed by this process")
        return self._executor.submit(call)
