"""Threads that work for event loops: what an executor does, at two thirds of what it costs.

An executor makes a future of its own beside the loop's, chains the two, and takes four locks on the way. Here the
loop's future is all there is. A call is answered in its own loop. Whoever gave up waiting is not told, and what nobody
waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from cloud.kernel.wanted import Undo, WhileWanted

_T = TypeVar("_T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", contextvars.Context, Callable[[], Any]]


class LoopThreads:
    """Runs work off the event loops that ask, each in the caller's context. Threads are started as they are needed.

    Args:
        most: How many threads there may be.
        name: What they are called, with a number.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most: Final = most
        self._name: Final = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        # Asked for and not taken yet, less those that wait for work: above zero one more thread is of use.
        self._wanted = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises, on a thread.

        Raises:
            RuntimeError: The threads are closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        # The caller's context travels along: who is calling is decided on the thread.
        job: _Job = (loop, future, contextvars.copy_context(), work)
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads are closed")
            self._wanted += 1
            if self._wanted > 0 and len(self._threads) < self._most:
                self._start()
            self._jobs.put(job)
        return await future

    def close(self) -> None:
        """Let the threads end once all work is done."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._wanted -= 1
            job = self._jobs.get()
            if job is None:
                return
            _work_on(*job)
            # A thread that waits for work must not keep what it worked on.
            del job


def _work_on(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    context: contextvars.Context,
    work: Callable[[], Any],
) -> None:
    if future.cancelled():
        # Given up before it was begun: whoever repeats it must not find it done twice.
        return
    answer: Any = None
    error: BaseException | None = None
    try:
        answer = context.run(work)
    except StopIteration as raised:
        # A future takes any error but this one.
        error = RuntimeError("work ended by StopIteration")
        error.__cause__ = raised
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it is the caller's
        error = raised
    try:
        loop.call_soon_threadsafe(_settle, future, answer, error)
    except RuntimeError:
        # The loop is closed: nobody waits.
        return
    finally:
        # Its traceback holds this frame.
        del error


def _settle(future: asyncio.Future[Any], answer: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)


_SHORT_TURN_S: Final = 0.0002


def _shortened() -> Undo:
    before_s = sys.getswitchinterval()
    if before_s > _SHORT_TURN_S:
        sys.setswitchinterval(_SHORT_TURN_S)
    set_s = sys.getswitchinterval()

    def restore() -> None:
        # Whatever the application has set meanwhile stays.
        if sys.getswitchinterval() == set_s:
            sys.setswitchinterval(before_s)

    return restore


_turns: Final = WhileWanted(_shortened)


def short_turns() -> AbstractContextManager[None]:
    """For long work in Python: while the block runs, other threads get the interpreter after 0.2 ms instead of 5.

    A request gives the interpreter up at each wait and each large array, so beside a thread that never waits it would
    take many times 5 ms. The interval is the process's; the application's own is back when the last block ends.
    """
    return _turns.held()
