"""Calls a contender from so many callers at a time, each as soon as its last call returned, and times every call."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

from tests.bench.contender import Contender, MaybeLater

_T = TypeVar("_T")
Call = Callable[[], MaybeLater[object]]


@dataclass(slots=True)
class Timed:
    """What one round's callers saw.

    Attributes:
        took_ms: Of each call that succeeded, by caller.
        failed: Calls that failed in a way that the contender lists.
        errors: Names of those.
        wall_s: From the first call's begin to the last one's end.
    """

    took_ms: list[float] = field(default_factory=list)
    failed: int = 0
    errors: set[str] = field(default_factory=set)
    wall_s: float = 0.0


class Driver:
    """Drives one contender as its users would: tasks of one event loop, or threads that stay.

    Args:
        contender: What is measured.
        callers: The most callers there will be at a time.
    """

    def __init__(self, contender: Contender, callers: int) -> None:
        self._contender = contender
        self._runner = asyncio.Runner()
        self._threads = ThreadPoolExecutor(callers, thread_name_prefix="caller")

    def once(self, made: MaybeLater[_T]) -> _T:
        """What a single call returns."""
        if inspect.isawaitable(made):
            return self._runner.run(_awaited(cast("Awaitable[_T]", made)))
        return cast("_T", made)

    def round(self, calls: list[Iterator[Call]], *, seconds: float) -> Timed:
        """Each caller makes its calls one after the other, until they are done or the time is up."""
        timed = Timed()
        begun = time.perf_counter()
        if self._contender.callers == "tasks":
            self._runner.run(self._tasks(calls, begun + seconds, timed))
        else:
            self._in_threads(calls, seconds, timed)
        timed.wall_s = time.perf_counter() - begun
        return timed

    def close(self) -> None:
        """No more callers."""
        self._threads.shutdown()
        self._runner.close()

    async def _tasks(self, calls: list[Iterator[Call]], until: float, timed: Timed) -> None:
        async def caller(mine: Iterator[Call]) -> None:
            for call in mine:
                begun = time.perf_counter()
                try:
                    await cast("Awaitable[object]", call())
                except self._contender.failures as error:
                    self._failed(timed, error)
                else:
                    timed.took_ms.append((time.perf_counter() - begun) * 1000)
                if time.perf_counter() >= until:
                    return

        await asyncio.gather(*(caller(mine) for mine in calls))

    def _in_threads(self, calls: list[Iterator[Call]], seconds: float, timed: Timed) -> None:
        # All begin together: without that the first thread is done before the last one runs.
        together = threading.Barrier(len(calls))

        def caller(mine: Iterator[Call]) -> None:
            together.wait()
            until = time.perf_counter() + seconds
            for call in mine:
                begun = time.perf_counter()
                try:
                    call()
                except self._contender.failures as error:
                    self._failed(timed, error)
                else:
                    timed.took_ms.append((time.perf_counter() - begun) * 1000)
                if time.perf_counter() >= until:
                    return

        for done in [self._threads.submit(caller, mine) for mine in calls]:
            done.result()

    def _failed(self, timed: Timed, error: Exception) -> None:
        timed.failed += 1
        timed.errors.add(type(error).__name__)


def at_most(calls: Iterator[Call], most: int) -> Iterator[Call]:
    """No more than so many of them."""
    return itertools.islice(calls, most)


async def _awaited(made: Awaitable[_T]) -> _T:
    return await made
