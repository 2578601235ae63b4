"""Load that lasts, on this project alone: one process, eight callers over eight tenants.

Started by the suite as `python -m tests.bench.throughput HOME PLAN`; says each part's name and figures as a line of
JSON once it is measured.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from tests.bench.contender import LIMIT
from tests.bench.contenders.ours import memory
from tests.bench.data import items, person, queries
from tests.bench.embedding import refuse_the_network
from tests.bench.figures import SHARES, percentile
from tests.bench.plan import Plan
from tests.bench.processes import resident_bytes

TENANTS = 8
_HOT = person(0)
"""Whose memories are read; everybody else's are written."""
_COLD_PEOPLE = 6


class Load:
    """An installation with eight tenants, and what is done to it."""

    def __init__(self, runtime: CloudRuntime, plan: Plan) -> None:
        self._runtime = runtime
        self._memory = runtime.memory
        self._plan = plan
        self._tenants = [f"tenant-{number}" for number in range(TENANTS)]

    async def fill(self) -> None:
        """Somebody with memories in every tenant; several in the one of cold reads."""
        for tenant_id in [*self._tenants, "cold", "batches", "import"]:
            self._runtime.tenants.create(tenant_id, plan="enterprise")
        for tenant_id in self._tenants:
            await self._fill(tenant_id, _HOT)
        for number in range(_COLD_PEOPLE):
            await self._fill("cold", person(number))
        await self._runtime.drain(timeout_s=1_800)

    async def hot_memory(self) -> dict[str, Any]:
        """What the process grows by for each memory that becomes hot; before anybody else is, and with all leavings."""
        await self._retrieve(self._tenants[0], _HOT, "loads the model")
        gc.collect()
        before = resident_bytes([os.getpid()])
        others = [(tenant_id, _HOT) for tenant_id in self._tenants[1:]]
        others += [("cold", person(number)) for number in range(_COLD_PEOPLE)]
        for tenant_id, user_id in others:
            await self._retrieve(tenant_id, user_id, "loads a person")
        gc.collect()
        grown = resident_bytes([os.getpid()]) - before
        memories = len(others) * self._plan.each
        return {"memories": memories, "bytes_per_memory": round(grown / memories, 1)}

    async def stores(self) -> dict[str, Any]:
        """Eight callers store for so long; how many memories wait to be materialized meanwhile."""
        backlog: list[int] = []
        stop = asyncio.Event()
        sampler = asyncio.create_task(self._sampled(backlog, stop))
        figures = await self._lasting(self._store_in)
        stop.set()
        await sampler
        begun = time.perf_counter()
        await self._runtime.drain(timeout_s=1_800)
        return figures | {"backlog": backlog, "drained_s": round(time.perf_counter() - begun, 3)}

    async def retrieves(self) -> dict[str, Any]:
        """Eight callers retrieve for so long, what is hot."""
        for tenant_id in self._tenants:
            await self._retrieve(tenant_id, _HOT, "warm")
        return await self._lasting(self._retrieve_in)

    async def beside(self) -> dict[str, Any]:
        """Reads of one caller: alone, with so many stores a second beside them, and so with the worker held, too.

        What the last two differ by is what the work in the background costs the reads.
        """
        took: dict[str, list[float]] = {"alone": [], "beside_stores": [], "beside_stores_worker_held": []}
        paced: list[tuple[int, float]] = []
        for _ in range(self._plan.pace_windows):
            took["alone"] += await self._window()
            took["beside_stores"] += await self._window_beside_stores(paced)
            await self._runtime.drain(timeout_s=600)
            with self._worker_held():
                took["beside_stores_worker_held"] += await self._window_beside_stores(paced)
            await self._runtime.drain(timeout_s=600)
        stored, stored_s = (sum(column) for column in zip(*paced, strict=True))
        return {name: _figures(times) for name, times in took.items()} | {"stores_per_s": round(stored / stored_s, 1)}

    async def _window_beside_stores(self, paced: list[tuple[int, float]]) -> list[float]:
        stop = asyncio.Event()
        begun = time.perf_counter()
        pacers = [asyncio.create_task(self._paced(number, stop)) for number in range(1, TENANTS)]
        took = await self._window()
        stop.set()
        paced.append((sum(await asyncio.gather(*pacers)), time.perf_counter() - begun))
        return took

    @contextmanager
    def _worker_held(self) -> Iterator[None]:
        pid = self._runtime.worker_pid
        if pid is None:
            raise RuntimeError("no worker is running")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def cold(self) -> dict[str, Any]:
        """Cold loads of one caller, hot reads of another person beside them, and eight callers for one cold person."""
        alone = await self._window()
        stop, loads = asyncio.Event(), list[float]()
        loader = asyncio.create_task(self._cold_loads(stop, loads))
        beside = await self._window()
        stop.set()
        await loader
        together: list[float] = []
        for _ in range(5):
            self._runtime.pixeltable_config.hot.drop_tenant("cold")
            begun = time.perf_counter()
            await asyncio.gather(*(self._retrieve("cold", person(0), f"question {n}") for n in range(8)))
            together.append((time.perf_counter() - begun) * 1000)
        return {
            "load": _figures(loads),
            "hot_alone": _figures(alone),
            "hot_beside_loads": _figures(beside),
            "eight_callers": _figures(together),
        }

    async def store_many(self) -> dict[str, Any]:
        """Batches, one after the other, each of one person."""
        plan = self._plan
        source = items("batches")
        given = [
            [memory(person(number), item) for item in itertools.islice(source, plan.batch)]
            for number in range(plan.batches)
        ]
        with request_context(tenant_id="batches", roles={"service"}):
            begun = time.perf_counter()
            for batch in given:
                await self._memory.store_many(batch, {})
            accepted_s = time.perf_counter() - begun
        await self._runtime.drain(timeout_s=1_800)
        return _rates(plan.batch * plan.batches, accepted_s, time.perf_counter() - begun)

    async def imported(self) -> dict[str, Any]:
        """A file of JSON Lines of several people, as an operator imports it."""
        count = self._plan.batch * self._plan.batches
        source = items("import")
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "memories.jsonl"
            lines = (
                memory(person(number % 20), next(source)).model_dump_json(include=_IMPORTED) for number in range(count)
            )
            file.write_text("".join(f"{line}\n" for line in lines))
            with request_context(tenant_id="import", roles={"tenant_admin", "service"}):
                begun = time.perf_counter()
                report = await self._runtime.transfer.import_file(file, format="jsonl")
                accepted_s = time.perf_counter() - begun
        if report.stored != count:
            raise RuntimeError(f"{report.stored} of {count} memories were imported")
        await self._runtime.drain(timeout_s=1_800)
        return _rates(count, accepted_s, time.perf_counter() - begun)

    async def _fill(self, tenant_id: str, user_id: str) -> None:
        theirs = [memory(user_id, item) for item in itertools.islice(items(f"{tenant_id}/{user_id}"), self._plan.each)]
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await self._memory.store_many(theirs, {})

    async def _lasting(self, work: Callable[[int, Callable[[], None]], Awaitable[None]]) -> dict[str, Any]:
        took: list[float] = []
        until = time.perf_counter() + self._plan.throughput_s

        async def caller(number: int) -> None:
            begun = time.perf_counter()

            def done() -> None:
                nonlocal begun
                took.append((time.perf_counter() - begun) * 1000)
                begun = time.perf_counter()
                if begun >= until:
                    raise _TimeIsUp

            try:
                await work(number, done)
            except _TimeIsUp:
                return

        started = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(TENANTS)))
        wall_s = time.perf_counter() - started
        return _figures(took) | {"per_s": round(len(took) / wall_s, 1), "seconds": round(wall_s, 2)}

    async def _store_in(self, number: int, done: Callable[[], None]) -> None:
        source = items(f"lasting/{number}")
        with request_context(tenant_id=self._tenants[number], roles={"service"}):
            for item in source:
                await self._memory.store(memory(person(1), item), {})
                done()

    async def _retrieve_in(self, number: int, done: Callable[[], None]) -> None:
        with request_context(tenant_id=self._tenants[number], roles={"service"}):
            for query in queries(f"lasting/{number}"):
                await self._memory.retrieve(query, _HOT, limit=LIMIT)
                done()

    async def _paced(self, number: int, stop: asyncio.Event) -> int:
        """Stores at an even pace, as far as they are fast enough; how many."""
        source, step_s, count = items(f"paced/{number}"), (TENANTS - 1) / self._plan.pace_per_s, 0
        # One after the other, not all at once and then none.
        due = time.perf_counter() + (number - 1) / self._plan.pace_per_s
        await asyncio.sleep(due - time.perf_counter())
        with request_context(tenant_id=self._tenants[number], roles={"service"}):
            while not stop.is_set():
                await self._memory.store(memory(person(2), next(source)), {})
                count += 1
                due += step_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return count

    async def _cold_loads(self, stop: asyncio.Event, took: list[float]) -> None:
        for number in itertools.cycle(range(_COLD_PEOPLE)):
            self._runtime.pixeltable_config.hot.drop_tenant("cold")
            begun = time.perf_counter()
            await self._retrieve("cold", person(number), "which lantern?")
            took.append((time.perf_counter() - begun) * 1000)
            if stop.is_set():
                return

    async def _window(self) -> list[float]:
        """Milliseconds of hot retrieves, one caller, in the first tenant."""
        took = []
        await self._retrieve(self._tenants[0], _HOT, "warm")
        until = time.perf_counter() + self._plan.pace_s
        for query in queries("window"):
            begun = time.perf_counter()
            await self._retrieve(self._tenants[0], _HOT, query)
            took.append((time.perf_counter() - begun) * 1000)
            if time.perf_counter() >= until:
                break
        return took

    async def _retrieve(self, tenant_id: str, user_id: str, query: str) -> None:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            if len(await self._memory.retrieve(query, user_id, limit=LIMIT)) < LIMIT:
                raise RuntimeError("found less than there is")

    async def _sampled(self, backlog: list[int], stop: asyncio.Event) -> None:
        """What waits in intake, once a second."""
        engine = self._runtime._installation.engines.worker
        while not stop.is_set():
            (row,) = await asyncio.to_thread(engine.rows, sa.text("SELECT count(*) FROM intake"))
            backlog.append(int(row[0]))
            await asyncio.sleep(1)


class _TimeIsUp(Exception):  # noqa: N818 - never leaves this module
    """The load has lasted long enough."""


_IMPORTED = {"user_id", "content", "memory_type", "source", "confidence", "metadata", "created_at"}


def _figures(took_ms: list[float]) -> dict[str, Any]:
    return {"calls": len(took_ms)} | {name: round(percentile(took_ms, share), 3) for name, share in SHARES.items()}


def _rates(count: int, accepted_s: float, settled_s: float) -> dict[str, Any]:
    """Memories a second until all were acknowledged, and until all were materialized."""
    return {
        "memories": count,
        "per_s": round(count / accepted_s, 1),
        "materialized_per_s": round(count / settled_s, 1),
    }


async def measure(home: Path, plan: Plan, told: Callable[[str, dict[str, Any]], None]) -> None:
    """Every part."""
    with init_cloud_extensions(CloudSettings(home=home)) as runtime:
        load = Load(runtime, plan)
        await load.fill()
        told("hot_memory", await load.hot_memory())
        told("retrieves", await load.retrieves())
        told("cold", await load.cold())
        told("beside", await load.beside())
        told("stores", await load.stores())
        told("store_many", await load.store_many())
        told("import", await load.imported())
        told("done", {"tenants": TENANTS})


def main() -> None:
    """Measure in the home that the suite names."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    refuse_the_network()
    given = json.loads(sys.argv[2])

    def told(part: str, figures: dict[str, Any]) -> None:
        answers.write(json.dumps([part, figures]) + "\n")
        answers.flush()

    asyncio.run(measure(Path(sys.argv[1]), Plan(**given | {"callers": tuple(given["callers"])}), told))


if __name__ == "__main__":
    main()
