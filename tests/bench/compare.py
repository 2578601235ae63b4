"""Store and retrieve of two trees of this project beside each other: in turns, so that both meet the same noise.

    python -m tests.bench.compare ../before --runs 10

Each run has two new homes and two processes, which do ten stores and ten retrieves in turns. Printed are the medians
of each run and their ratio, this tree by the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
BLOCK = 10
WARM_UP = 10


class Side:
    """One tree at work in a process and a home of its own."""

    def __init__(self, tree: Path, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", str(home)],
            env=os.environ | {"PYTHONPATH": str(tree)},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.took: dict[str, list[float]] = {"store": [], "retrieve": []}
        self.block()  # Has it started?

    def block(self) -> dict[str, list[float]]:
        """Milliseconds of ten stores and ten retrieves."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self._process.wait()}")
        found: dict[str, list[float]] = json.loads(line)
        return found

    def measure(self) -> None:
        """Add one block."""
        for name, took in self.block().items():
            self.took[name] += took

    def end(self) -> None:
        """Let it close its home."""
        self._process.communicate()


def compared(other: Path, blocks: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of this tree and the other, by operation."""
    with tempfile.TemporaryDirectory(prefix="lum-", dir="/tmp") as directory:  # noqa: S108 - sockets need a short path
        sides = (Side(HERE, Path(directory) / "a"), Side(other, Path(directory) / "b"))
        try:
            for number in range(blocks + WARM_UP):
                if number == WARM_UP:
                    for side in sides:
                        side.took = {name: [] for name in side.took}
                for side in sides if number % 2 else reversed(sides):
                    side.measure()
        finally:
            for side in sides:
                side.end()
    here, there = sides
    return {name: (statistics.median(here.took[name]), statistics.median(there.took[name])) for name in here.took}


async def child(home: Path) -> None:
    """Does a block for every line of standard input."""
    from cloud import CloudSettings, init_cloud_extensions, request_context
    from src.memory.schemas import Memory, MemoryType

    def memory(number: int) -> Memory:
        text = f"fact number {number} about tea, tabs and the deploy of friday, which waits for review"
        return Memory(user_id="alice", content=text, memory_type=MemoryType.FACT, source="bench")

    with init_cloud_extensions(CloudSettings(home=home, embedder="hashing")) as runtime:
        runtime.tenants.create("acme", plan="enterprise")
        number = 0
        with request_context(tenant_id="acme", user_id="alice", roles={"service"}):
            for _ in sys.stdin:
                took: dict[str, list[float]] = {"store": [], "retrieve": []}
                for _ in range(BLOCK):
                    number += 1
                    begun = time.perf_counter()
                    await runtime.memory.store(memory(number), {})
                    stored = time.perf_counter()
                    await runtime.memory.retrieve("tea?", "alice", limit=5)
                    took["store"].append((stored - begun) * 1000)
                    took["retrieve"].append((time.perf_counter() - stored) * 1000)
                print(json.dumps(took), flush=True)


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare")
    parser.add_argument("other", type=Path, help="another checkout of this project")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=40)
    arguments = parser.parse_args()
    ratios: dict[str, list[float]] = {"store": [], "retrieve": []}
    for run in range(arguments.runs):
        for name, (here, there) in compared(arguments.other.resolve(), arguments.blocks).items():
            ratios[name].append(here / there)
            print(
                f"run {run + 1:2}  {name:9} {here:6.2f} ms here  {there:6.2f} ms there  {here / there:5.2f}", flush=True
            )
    for name, values in ratios.items():
        print(f"{name}: median ratio {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(child(Path(sys.argv[2])))
    else:
        main()
