"""What one audited commit costs: at 1, 8 and 32 callers, within one tenant and across tenants, and where the time goes.

    python -m tests.bench.commits --seconds 10

Everything is on: quota, audit, sealing, sequencing, materializing. The bare committed INSERT is measured in turns with
the stores of one caller, so that both meet the same noise; ratios are the result, absolute times depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.storage.embedded import EmbeddedPostgres
from tests.bench.contenders.ours import memory
from tests.bench.data import items, queries
from tests.bench.figures import percentile
from tests.support.homes import temporary_home

CALLERS = (1, 8, 32)
PER_PERSON = 1_000
OTHERS = 100
BLOCK = 25
BATCH = 1_000
BATCHES = 6


@dataclass(slots=True)
class Cost:
    """What calls cost.

    Attributes:
        took_ms: Milliseconds of each.
        wall_s: Seconds of all together.
        process_s: Seconds of processor time of this process, its child not counted.
        server_s: The same of all processes of the server, the materializer's connections among them.
    """

    took_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    process_s: float = 0.0
    server_s: float = 0.0

    def line(self, name: str) -> str:
        """As a row of the table."""
        calls = len(self.took_ms)
        return (
            f"{name:<34}{percentile(self.took_ms, 0.5):>8.2f}{percentile(self.took_ms, 0.95):>8.2f}"
            f"{calls / self.wall_s:>9.0f}{self.process_s / calls * 1000:>10.3f}{self.server_s / calls * 1000:>10.3f}"
        )


HEADER = f"{'':<34}{'p50 ms':>8}{'p95 ms':>8}{'calls/s':>9}{'own cpu':>10}{'pg cpu':>10}"


class Meter:
    """Measures calls against the clocks of this process and of the server's.

    Args:
        server_pid: The server's first process.
    """

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid

    def server_s(self) -> float:
        """Seconds of processor time of the server's processes so far."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == self._server_pid:
                total += int(fields[11]) + int(fields[12])
            elif stat.parent.name == str(self._server_pid):
                # With those of its children that ended.
                total += sum(map(int, fields[11:15]))
        return total / os.sysconf("SC_CLK_TCK")

    async def run(self, callers: int, seconds: float, call: Callable[[int], Awaitable[object]]) -> Cost:
        """What calls of so many callers cost, each with one at a time."""
        cost = Cost()
        begun_s, process_s, server_s = time.perf_counter(), time.process_time(), self.server_s()

        async def caller(number: int) -> None:
            while time.perf_counter() - begun_s < seconds:
                at = time.perf_counter()
                await call(number)
                cost.took_ms.append((time.perf_counter() - at) * 1000)

        await asyncio.gather(*(caller(number) for number in range(callers)))
        cost.wall_s = time.perf_counter() - begun_s
        cost.process_s = time.process_time() - process_s
        cost.server_s = self.server_s() - server_s
        return cost


class Bench:
    """Measures one installation."""

    def __init__(self, runtime: CloudRuntime, server: EmbeddedPostgres, seconds: float, plan: str) -> None:
        self._runtime = runtime
        self._server = server
        self._seconds = seconds
        self._items = items("commits")
        self._asked = queries("commits")
        self._tenants = [f"bench-{number}" for number in range(max(CALLERS))]
        for tenant_id in self._tenants:
            runtime.tenants.create(tenant_id, plan=plan)
        pid = server.pid()
        assert pid is not None
        self._meter = Meter(pid)

    async def run(self) -> None:
        """Measure and print."""
        await self._fill()
        await self._one_caller()
        print("\n" + HEADER)
        for callers, across in itertools.product(CALLERS, (False, True)):
            if callers == 1 and across:
                continue
            where = "over as many tenants" if across else "in one tenant"
            for name, call in (("store", self._store), ("retrieve", self._retrieve)):
                cost = await self._meter.run(callers, self._seconds, lambda n, c=call, a=across: c(n if a else 0))  # type: ignore[misc]
                print(cost.line(f"{name}, {callers} {where}"), flush=True)
                if name == "store":
                    await self._drained(callers)
        await self._batches()

    async def _fill(self) -> None:
        for tenant_id in self._tenants:
            with request_context(tenant_id=tenant_id, roles={"service"}):
                count = PER_PERSON if tenant_id == self._tenants[0] else OTHERS
                await self._runtime.memory.store_many([memory("person", next(self._items)) for _ in range(count)], {})
        await self._runtime.drain(timeout_s=600)
        for number in range(len(self._tenants)):
            await self._retrieve(number)

    async def _store(self, tenant: int) -> None:
        with request_context(tenant_id=self._tenants[tenant], roles={"service"}):
            await self._runtime.memory.store(memory("person", next(self._items)), {})

    async def _retrieve(self, tenant: int) -> None:
        with request_context(tenant_id=self._tenants[tenant], roles={"service"}):
            await self._runtime.memory.retrieve(next(self._asked), "person", limit=5)

    async def _drained(self, callers: int) -> None:
        (row,) = self._runtime._installation.engines.worker.rows(sa.text("SELECT count(*) FROM intake"))
        begun_s = time.perf_counter()
        await self._runtime.drain(timeout_s=600)
        took_s = time.perf_counter() - begun_s
        print(f"    {row[0]} waited for Pixeltable when the {callers} stopped, and were there after {took_s:.1f} s")

    async def _one_caller(self) -> None:
        """Where the time of one store goes: each part in turns with all the others."""
        parts: dict[str, list[float]] = {}
        engine = sa.create_engine(
            self._server.url("luminescent_owner", "luminescent_control"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE bench_floor (id bigint PRIMARY KEY, body bytea)"))
            cursor = connection.connection.cursor()
            numbers = itertools.count()

            def insert() -> None:
                cursor.execute("INSERT INTO bench_floor VALUES (%s, %s)", (next(numbers), b"x" * 300), prepare=True)  # type: ignore[call-arg]

            def round_trip() -> None:
                cursor.execute("SELECT 1", prepare=True)  # type: ignore[call-arg]

            calls = self._runtime._installation.engines.app._calls
            real, exchanged_ms = calls._exchanged, parts.setdefault("store: the statement", [])

            def exchange(*given: object) -> object:
                begun_s = time.perf_counter()
                answer = real(*given)  # type: ignore[arg-type]
                exchanged_ms.append((time.perf_counter() - begun_s) * 1000)
                return answer

            threads = self._runtime.memory._calls._threads
            end_s = time.perf_counter() + 3 * self._seconds
            while time.perf_counter() < end_s:
                _timed(parts, "a round trip", round_trip)
                _timed(parts, "a bare committed INSERT", insert)
                for _ in range(BLOCK):
                    begun_s = time.perf_counter()
                    await threads.run(lambda: None)
                    parts.setdefault("to a thread and back", []).append((time.perf_counter() - begun_s) * 1000)
                calls._exchanged = exchange  # type: ignore[method-assign]
                for _ in range(BLOCK):
                    begun_s = time.perf_counter()
                    await self._store(0)
                    parts.setdefault("store", []).append((time.perf_counter() - begun_s) * 1000)
                calls._exchanged = real  # type: ignore[method-assign]
                for _ in range(BLOCK):
                    begun_s = time.perf_counter()
                    await self._retrieve(0)
                    parts.setdefault("retrieve, a store before each 25th", []).append(
                        (time.perf_counter() - begun_s) * 1000
                    )
            connection.execute(sa.text("DROP TABLE bench_floor"))
        engine.dispose()
        floor = statistics.median(parts["a bare committed INSERT"])
        print(f"{'one caller, in turns':<34}{'p50 ms':>8}{'p95 ms':>8}{'x INSERT':>10}")
        for name in sorted(parts, key=lambda name: statistics.median(parts[name])):
            p50, p95 = percentile(parts[name], 0.5), percentile(parts[name], 0.95)
            print(f"{name:<34}{p50:>8.2f}{p95:>8.2f}{p50 / floor:>10.1f}", flush=True)

    async def _batches(self) -> None:
        begun_s = time.perf_counter()
        with request_context(tenant_id=self._tenants[0], roles={"service"}):
            for number in range(BATCHES):
                batch = [memory(f"person-{number}", next(self._items)) for _ in range(BATCH)]
                await self._runtime.memory.store_many(batch, {})
        rate = BATCH * BATCHES / (time.perf_counter() - begun_s)
        print(f"\nstore_many, {BATCH} at once: {rate:.0f} memories/s")
        await self._drained(1)


def _timed(parts: dict[str, list[float]], name: str, call: Callable[[], None]) -> None:
    for _ in range(BLOCK):
        begun_s = time.perf_counter()
        call()
        parts.setdefault(name, []).append((time.perf_counter() - begun_s) * 1000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on a home of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.commits")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row of the table")
    parser.add_argument("--plan", default="enterprise", help="of every tenant: enterprise has no limits, team has")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, plan {options.plan}")
    # Opening the installation checks that fsync, full_page_writes and synchronous_commit are on.
    with (
        temporary_home() as home,
        EmbeddedPostgres.open(home) as server,
        init_cloud_extensions(CloudSettings(home=home)) as runtime,
    ):
        asyncio.run(Bench(runtime, server, options.seconds, options.plan).run())


if __name__ == "__main__":
    main()
