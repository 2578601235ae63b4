"""Threads for event loops: answers, errors, contexts, loops that are gone, no more threads than asked for."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from cloud.kernel.threads import LoopThreads, short_turns

WITHIN_S = 10.0


@pytest.fixture
def threads() -> Iterator[LoopThreads]:
    made = LoopThreads(4, "tested")
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tested")]


async def test_an_answer_and_an_error_are_the_callers(threads: LoopThreads) -> None:
    async def failing() -> None:
        def fail() -> None:
            raise LookupError("nothing there")

        await threads.run(fail)

    assert await threads.run(lambda: threading.current_thread().name) == "tested_0"
    with pytest.raises(LookupError, match="nothing there"):
        await failing()
    assert await threads.run(lambda: 1) == 1, "the thread lives on"


async def test_one_caller_has_one_thread_and_many_have_no_more_than_there_may_be(threads: LoopThreads) -> None:
    for _ in range(50):
        await threads.run(lambda: time.sleep(0.001))
    assert len(threads._threads) <= 2
    together = threading.Barrier(4, timeout=WITHIN_S)
    await asyncio.gather(*(threads.run(together.wait) for _ in range(40)))
    assert len(threads._threads) == 4


async def test_work_has_the_callers_context(threads: LoopThreads) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def caller(name: str) -> str:
        who.set(name)
        return await threads.run(who.get)

    names = [f"caller {number}" for number in range(20)]
    assert await asyncio.gather(*map(caller, names)) == names


def test_several_loops_are_each_answered_in_their_own(threads: LoopThreads) -> None:
    wrong: list[object] = []

    def serve(number: int) -> None:
        async def ask() -> None:
            for count in range(200):
                asked = (number, count)
                found = await threads.run(partial(tuple, asked))
                if found != asked:
                    wrong.append(found)

        asyncio.run(ask())

    servers = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for server in servers:
        server.start()
    for server in servers:
        server.join(WITHIN_S)
    assert not any(server.is_alive() for server in servers)
    assert not wrong


def test_work_of_a_loop_that_is_gone_is_done_and_told_to_nobody(threads: LoopThreads) -> None:
    done, may_end = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(WITHIN_S)
        done.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.run(work), 0.01)

    asyncio.run(give_up())
    may_end.set()
    assert done.wait(WITHIN_S)
    assert asyncio.run(threads.run(lambda: 2)) == 2


async def test_a_thread_that_waits_keeps_nothing_of_what_it_did(threads: LoopThreads) -> None:
    class Secret:
        pass

    secret = Secret()
    gone = weakref.ref(secret)
    await threads.run(lambda held=secret: None)  # type: ignore[misc]
    del secret
    await asyncio.sleep(0.05)
    gc.collect()
    assert gone() is None


async def test_after_the_end_nothing_is_taken(threads: LoopThreads) -> None:
    ended: list[int] = []
    running = asyncio.ensure_future(threads.run(lambda: (time.sleep(0.1), ended.append(1))))
    await asyncio.sleep(0.02)
    await asyncio.get_running_loop().run_in_executor(None, threads.close)
    assert ended == [1], "what was begun is finished"
    await running
    with pytest.raises(RuntimeError, match="closed"):
        await threads.run(lambda: 1)


@pytest.fixture
def interval_s() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield sys.getswitchinterval()
    sys.setswitchinterval(before)


def test_turns_are_short_until_the_last_block_ends(interval_s: float) -> None:
    with short_turns():
        with pytest.raises(ZeroDivisionError), short_turns():
            raise ZeroDivisionError
        assert sys.getswitchinterval() == pytest.approx(0.0002)
    assert sys.getswitchinterval() == interval_s


@pytest.mark.parametrize("own_s", [0.0001, 0.02])
def test_what_the_application_sets_itself_stays(interval_s: float, own_s: float) -> None:
    with short_turns():
        sys.setswitchinterval(own_s)
    assert sys.getswitchinterval() == pytest.approx(own_s, abs=2e-6)
    sys.setswitchinterval(0.0001)
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(0.0001, abs=2e-6)
    assert sys.getswitchinterval() == pytest.approx(0.0001, abs=2e-6)


async def test_work_that_nobody_waits_for_any_more_is_not_begun() -> None:
    threads = LoopThreads(1, "tested")
    busy, done = threading.Event(), []
    first = asyncio.create_task(threads.run(lambda: busy.wait(WITHIN_S)))
    given_up = [asyncio.create_task(threads.run(partial(done.append, number))) for number in range(3)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    busy.set()
    assert await first
    await threads.run(lambda: None)
    assert done == []
    threads.close()


async def test_work_that_ends_by_stop_iteration_is_an_error_too(threads: LoopThreads) -> None:
    nothing: Iterator[int] = iter(())
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(threads.run(lambda: next(nothing)), WITHIN_S)
