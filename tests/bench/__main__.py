"""Latency of each operation, one caller, 1,000 memories per person, everything on: quota, audit, sealing.

Run with `make bench`. Exits 1 if a bar of the provider guide does not hold. Absolute times depend on the machine;
the bare committed INSERT measured in the same run is what to compare with.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import sqlalchemy as sa

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.storage.embedded import EmbeddedPostgres
from src.memory.schemas import Memory, MemoryType
from tests.support.homes import temporary_home

WORDS = """
editor vim emacs tabs spaces deploy friday review branch release latency budget invoice tea coffee berlin lisbon cache
index schema migration python rust service queue worker alert pager runbook dashboard quota tenant memory
""".split()


@dataclass(frozen=True, slots=True)
class Bar:
    """What the provider guide promises for an operation, p95 in milliseconds."""

    name: str
    p95_ms: float


BARS = {
    "store": Bar("store", 10),
    "retrieve": Bar("retrieve, hot", 50),
    "search": Bar("search, filtered", 200),
    "search_text": Bar("search, with text", 200),
    "delete": Bar("delete", 10),
}


def sentence(random_: random.Random) -> str:
    """A text of about 100 characters."""
    return " ".join(random_.choices(WORDS, k=16))


async def timed(rounds: int, call: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds of each of `rounds` calls, one after the other."""
    took = []
    for number in range(rounds):
        begun = time.perf_counter()
        await call(number)
        took.append((time.perf_counter() - begun) * 1000)
    return took


def bare_insert(home_server: EmbeddedPostgres, rounds: int) -> list[float]:
    """Milliseconds of a committed one-row INSERT through a plain connection, as the floor of any write."""
    engine = sa.create_engine(home_server.url("luminescent_owner", "luminescent_control"), isolation_level="AUTOCOMMIT")
    took = []
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE bench_floor (id bigint PRIMARY KEY, body bytea)"))
        for number in range(rounds):
            begun = time.perf_counter()
            connection.execute(sa.text("INSERT INTO bench_floor VALUES (:n, :b)"), {"n": number, "b": b"x" * 300})
            took.append((time.perf_counter() - begun) * 1000)
        connection.execute(sa.text("DROP TABLE bench_floor"))
    engine.dispose()
    return took


async def measure(runtime: CloudRuntime, *, per_subject: int, subjects: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per call of each operation."""
    random_ = random.Random(7)
    runtime.tenants.create("bench", plan="enterprise")
    people = [f"person-{number}" for number in range(subjects)]

    def memory(user_id: str) -> Memory:
        return Memory(
            user_id=user_id,
            content=sentence(random_),
            memory_type=random_.choice(list(MemoryType)),
            source="conversation",
            confidence=random_.random(),
            metadata={"project": random_.choice(WORDS)},
        )

    provider, results = runtime.memory, {}
    with request_context(tenant_id="bench", roles={"service"}):
        for person in people:
            await provider.store_many([memory(person) for _ in range(per_subject)], {})
        await runtime.drain(timeout_s=600)
        one = people[0]
        runtime.pixeltable_config.hot.clear()
        results["retrieve_cold"] = await timed(1, lambda _: provider.retrieve("first use loads the model", one))
        colds = []
        for person in people[1:6] or [one]:
            runtime.pixeltable_config.hot.clear()
            colds += await timed(1, lambda _, person=person: provider.retrieve("which editor", person))  # type: ignore[misc]
        results["retrieve_cold"] = colds
        await provider.retrieve("warm", one)
        stored: list[str] = []

        async def store(_: int) -> None:
            stored.append(await provider.store(memory(one), {}))

        results["store"] = await timed(rounds, store)
        results["retrieve"] = await timed(rounds, lambda _: provider.retrieve(sentence(random_), one, limit=5))
        results["search"] = await timed(
            rounds, lambda _: provider.search(one, {"memory_type": "fact", "min_confidence": 0.5}, limit=10)
        )
        results["search_text"] = await timed(
            rounds, lambda _: provider.search(one, {"memory_type": "fact", "query": sentence(random_)}, limit=10)
        )
        results["delete"] = await timed(rounds, lambda number: provider.delete(stored[number]))
    return results


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def report(results: dict[str, list[float]], floor: list[float]) -> bool:
    """Print the table; whether every bar holds."""
    held = True
    base = statistics.median(floor)
    print(f"{'operation':<22}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'x insert':>10}{'bar p95':>9}")
    for name, values in {"bare_insert": floor, **results}.items():
        bar = BARS.get(name)
        p50, p95, p99 = (percentile(values, share) for share in (0.5, 0.95, 0.99))
        ok = bar is None or p95 < bar.p95_ms
        held = held and ok
        limit = f"{bar.p95_ms:>9.0f}" if bar else f"{'':>9}"
        mark = "" if ok else "  MISSED"
        print(f"{(bar.name if bar else name):<22}{p50:>9.2f}{p95:>9.2f}{p99:>9.2f}{p50 / base:>10.1f}{limit}{mark}")
    return held


def main() -> int:
    """Measure on a home of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-subject", type=int, default=1_000)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    # Opening the installation checks that fsync, full_page_writes and synchronous_commit are on.
    with (
        temporary_home() as home,
        EmbeddedPostgres.open(home) as server,
        init_cloud_extensions(CloudSettings(home=home)) as runtime,
    ):
        results = asyncio.run(
            measure(runtime, per_subject=options.per_subject, subjects=options.subjects, rounds=options.rounds)
        )
        floor = bare_insert(server, options.rounds)
    return 0 if report(results, floor) else 1


if __name__ == "__main__":
    sys.exit(main())
