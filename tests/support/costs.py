"""What operations cost, counted and not timed: statements, round trips, transactions, bytes of its log.

Run as `python -m tests.support.costs HOME`: in a process and an installation of its own, without a worker, so that all
that is counted is the operations'. Says one JSON object: by operation, the figures per call.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.storage.calling import Calls
from cloud.storage.connections import BoundedConnection
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE
from src.memory.schemas import Memory, MemoryType

TENANT = "acme"
CALLS = 40
WARM_UP = 10
BATCH = 100
_READ = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


class Counts:
    """What this process asked for, and what the server wrote for it."""

    def __init__(self, runtime: CloudRuntime) -> None:
        url = runtime._installation.server.url(APP_ROLE, CONTROL_DATABASE).set(drivername="postgresql")
        self._watch = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        self._asked = Counter[str]()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        sent, answered = Calls._sent, Calls._result

        def send(calls: Calls, *given: Any) -> Any:
            self._asked["statements"] += 1
            return sent(calls, *given)

        def answer(calls: Calls, *given: Any) -> Any:
            self._asked["round_trips"] += 1
            return answered(calls, *given)

        Calls._sent, Calls._result = send, answer  # type: ignore[method-assign]
        waited = BoundedConnection.wait

        def wait(connection: BoundedConnection, gen: Any, *given: Any, **named: Any) -> Any:
            return waited(connection, self._counted(gen), *given, **named)

        BoundedConnection.wait = wait  # type: ignore[method-assign]

    async def of(self, calls: int, call: Callable[[int], Awaitable[object]]) -> dict[str, float]:
        """Figures per call, of so many calls one after the other: of what was asked for the mean, of what was written
        the middle one, because after a checkpoint the server writes whole pages, whoever touches them first."""
        for number in range(WARM_UP):
            await call(number)
        self._asked.clear()
        written = [self._written()]
        for number in range(WARM_UP, WARM_UP + calls):
            await call(number)
            written.append(self._written())
        steps = list(itertools.pairwise(written))
        return {
            "statements": self._asked["statements"] / calls,
            "keyring_statements": self._asked["keyring"] / calls,
            "round_trips": self._asked["round_trips"] / calls,
            "transactions": statistics.median(after[0] - before[0] for before, after in steps),
            "wal_bytes": statistics.median(after[1] - before[1] for before, after in steps),
        }

    def close(self) -> None:
        """Stop watching the server."""
        self._watch.close()

    def _counted(self, gen: Any) -> Generator[Any, Any, Any]:
        """The driver's step, counted if it had to wait for the server: most of them only look at its state."""
        try:
            wanted = next(gen)
        except StopIteration as done:
            return done.value
        self._asked["round_trips"] += 1
        while True:
            ready = yield wanted
            try:
                wanted = gen.send(ready)
            except StopIteration as done:
                return done.value

    def _statement(self, connection: sa.Connection, *_: object) -> None:
        self._asked["keyring" if connection.dialect.name == "sqlite" else "statements"] += 1

    def _written(self) -> tuple[int, int]:
        """Transactions that wrote so far, and where the write-ahead log ends. Reading writes nothing."""
        row = self._watch.execute(_READ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


async def counted(runtime: CloudRuntime) -> dict[str, dict[str, float]]:
    """Figures per call, by operation."""
    runtime.tenants.create(TENANT, plan="enterprise")
    counts, provider = Counts(runtime), runtime.memory
    stored: list[str] = []

    async def store(number: int) -> None:
        stored.append(await provider.store(_memory("alice", number), {}))

    with request_context(tenant_id=TENANT, roles={"service"}):
        await provider.store_many([_memory("alice", number) for number in range(200)], {})
        await provider.retrieve("tea", "alice")
        costs = {
            "store": await counts.of(CALLS, store),
            "retrieve": await counts.of(CALLS, lambda _: provider.retrieve("where is the tea?", "alice", limit=5)),
            "search": await counts.of(CALLS, lambda _: provider.search("alice", {"min_confidence": 0.5}, limit=10)),
            "search_text": await counts.of(
                CALLS, lambda _: provider.search("alice", {"min_confidence": 0.5, "query": "tea"}, limit=10)
            ),
            "delete": await counts.of(CALLS, lambda number: provider.delete(stored[number])),
        }
        batch = [_memory("bert", number) for number in range(BATCH)]
        costs["store_many"] = await counts.of(10, lambda _: provider.store_many(batch, {}))
    counts.close()
    return costs


def _memory(user_id: str, number: int) -> Memory:
    text = f"note {number}: the kettle is in the second cupboard of the tea house, beside the lantern and the timetable"
    return Memory(user_id=user_id, content=text, memory_type=MemoryType.FACT, source="conversation")


if __name__ == "__main__":
    with init_cloud_extensions(CloudSettings(home=Path(sys.argv[1]), worker="off", embedder="hashing")) as opened:
        print(json.dumps(asyncio.run(counted(opened))))
