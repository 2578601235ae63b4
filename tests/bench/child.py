"""A process that holds one contender and does what its parent says, one line of JSON after the other.

Started as `python -m tests.bench.child NAME`. Its memory and its processor time are the contender's own. What libraries
print goes to standard error, so that standard output has answers alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.contender import LIMIT, NothingFoundError, Place
from tests.bench.contenders import contender_class
from tests.bench.data import items, person, queries
from tests.bench.driver import Call, Driver, Timed, at_most
from tests.bench.embedding import refuse_the_network
from tests.bench.processes import cpu_ms, family_cpu_ms, resident_bytes

_LEFTOVERS_S = 600.0


class Child:
    """The contender and what it holds."""

    def __init__(self, name: str) -> None:
        self._contender = contender_class(name)()
        self._numbers = itertools.count()
        self._stored: dict[str, str] = {}
        self._people: list[str] = []
        self._asked: list[str] = []
        self._empty_bytes = 0
        self._short = 0
        self._server_pid = 0

    def set_up(self, place: dict[str, Any]) -> dict[str, Any]:
        """Ready, and empty."""
        made = Place(**place | {name: Path(place[name]) for name in ("directory", "home")})
        self._server_pid = made.server_pid
        self._driver = Driver(self._contender, made.callers)
        self._contender.set_up(made)
        self._empty_bytes = self._contender.disk_bytes()
        packages = {name: importlib.metadata.version(name) for name in self._contender.packages}
        return {"versions": packages, "memory_bytes": self._memory()}

    def load(self, people: int, each: int, asked: int) -> dict[str, Any]:
        """So many people with so many memories each; how long that took.

        Args:
            people: How many.
            each: Memories of each.
            asked: Of how many of them, evenly spread, memories are stored and read; cold reads are of everybody's.
        """
        self._people = [person(number) for number in range(people)]
        self._asked = self._people[:: max(1, people // asked)][:asked]
        loaded_s = 0.0
        for name in self._people:
            theirs = {name: list(itertools.islice(items(name), each))}
            begun = time.perf_counter()
            self._driver.once(self._contender.load(theirs))
            loaded_s += time.perf_counter() - begun
        begun = time.perf_counter()
        self._driver.once(self._contender.settle())
        settled_s = loaded_s + time.perf_counter() - begun
        # Now, and not after the rounds: those leave records of reading, and what was deleted again.
        grown = self._contender.disk_bytes() - self._empty_bytes
        return {
            "memories": people * each,
            "loaded_s": round(loaded_s, 3),
            "settled_s": round(settled_s, 3),
            "disk_bytes": grown,
            "disk_bytes_per_memory": round(grown / (people * each), 1),
        }

    def sizes(self) -> dict[str, Any]:
        """What the processes take after all that was asked of them."""
        return {"memory_bytes": self._memory()}

    def round(self, operation: str, callers: int, seconds: float, most: int) -> dict[str, Any]:
        """One turn at one operation."""
        self._short = 0
        timed, spent = Timed(), dict.fromkeys(("own", "worker", "server"), 0.0)
        if operation == "retrieve_cold":
            self._cold(callers, seconds, most, timed, spent)
        else:
            calls = [at_most(each, most) for each in self._calls(operation, callers)]
            with self._spent(spent):
                timed = self._driver.round(calls, seconds=seconds)
                # Work that a call leaves to the background is the call's.
                self._driver.once(self._contender.settle())
        if operation == "delete":
            self._remove_leftovers()
        return {
            "took_ms": [round(ms, 4) for ms in timed.took_ms],
            "failed": timed.failed,
            "errors": sorted(timed.errors),
            "short": self._short,
            "wall_s": timed.wall_s,
            "cpu_ms": spent,
        }

    def close(self) -> dict[str, Any]:
        """Everything down."""
        self._contender.close()
        self._driver.close()
        return {}

    def _calls(self, operation: str, callers: int) -> list[Iterator[Call]]:
        """Each caller's calls; callers are spread over the people."""
        match operation:
            case "delete":
                stored = list(self._stored)
                return [
                    iter([partial(self._delete, memory_id) for memory_id in stored[caller::callers]])
                    for caller in range(callers)
                ]
            case "store":
                return [self._stores(caller) for caller in range(callers)]
            case "retrieve" | "search" | "search_text":
                for name in self._asked:
                    self._driver.once(self._contender.retrieve(name, "who keeps the lantern?"))
                return [self._reads(operation, caller) for caller in range(callers)]
            case _:
                raise ValueError(f"unknown operation {operation}")

    def _stores(self, caller: int) -> Iterator[Call]:
        source = items(f"stored/{next(self._numbers)}")
        while True:
            for name in self._rotated(caller):
                yield partial(self._store, name, next(source))

    def _reads(self, operation: str, caller: int) -> Iterator[Call]:
        asked = queries(f"{operation}/{next(self._numbers)}")
        while True:
            for name in self._rotated(caller):
                yield partial(self._read, operation, name, next(asked))

    def _rotated(self, caller: int) -> list[str]:
        at = caller % len(self._asked)
        return self._asked[at:] + self._asked[:at]

    # Plain functions that return what they await keep one code for tasks and threads.
    def _store(self, name: str, item: Any) -> Any:
        made = self._contender.store(name, item)
        if isinstance(made, str):
            self._stored[made] = name
            return made
        return self._noted(name, made)

    async def _noted(self, name: str, made: Any) -> str:
        memory_id: str = await made
        self._stored[memory_id] = name
        return memory_id

    def _delete(self, memory_id: str) -> Any:
        return self._contender.delete(self._stored.pop(memory_id), memory_id)

    def _read(self, operation: str, name: str, query: str) -> Any:
        match operation:
            case "retrieve":
                made = self._contender.retrieve(name, query)
            case "search":
                made = self._contender.search(name)
            case _:
                made = self._contender.search_text(name, query)
        return self._found(made) if isinstance(made, int) else self._found_later(made)

    def _found(self, count: int) -> int:
        if count == 0:
            raise NothingFoundError
        self._short += count < LIMIT
        return count

    async def _found_later(self, made: Any) -> int:
        return self._found(await made)

    def _cold(self, callers: int, seconds: float, most: int, whole: Timed, spent: dict[str, float]) -> None:
        """Bursts: everything is cooled, then each caller retrieves once. Cooling is in no figure."""
        until = time.perf_counter() + seconds
        asked = queries(f"cold/{next(self._numbers)}")
        for burst in range(most):
            self._contender.cool()
            calls: list[Iterator[Call]] = [
                iter([partial(self._read, "retrieve", self._cold_one(burst * callers + caller), next(asked))])
                for caller in range(callers)
            ]
            with self._spent(spent):
                timed = self._driver.round(calls, seconds=seconds)
            whole.took_ms += timed.took_ms
            whole.failed += timed.failed
            whole.errors |= timed.errors
            whole.wall_s += timed.wall_s
            if time.perf_counter() >= until:
                break
        with self._spent(spent):
            self._driver.once(self._contender.settle())

    def _cold_one(self, number: int) -> str:
        return self._people[number % len(self._people)]

    @contextmanager
    def _spent(self, spent: dict[str, float]) -> Iterator[None]:
        """Adds the processor time of the block, by where it was spent. Nobody else has a turn meanwhile."""
        before = self._cpu_ms()
        yield
        for where, ms in self._cpu_ms().items():
            spent[where] += ms - before[where]

    def _cpu_ms(self) -> dict[str, float]:
        return {
            "own": time.process_time() * 1000,
            "worker": sum(cpu_ms(pid) for pid in self._contender.helpers()),
            "server": family_cpu_ms(self._server_pid),
        }

    def _remove_leftovers(self) -> None:
        """What was stored and not deleted in time goes now, so that every round meets as many memories."""
        until = time.perf_counter() + _LEFTOVERS_S
        while self._stored and time.perf_counter() < until:
            # One that failed before may fail again; what counts was counted.
            with contextlib.suppress(*self._contender.failures):
                self._driver.once(self._delete(next(iter(self._stored))))
        self._driver.once(self._contender.settle())

    def _memory(self) -> int:
        return resident_bytes([os.getpid(), *self._contender.helpers()])


def main() -> None:
    """Answer until the parent says `close` or is gone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    refuse_the_network()
    child = Child(sys.argv[1])
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked.pop("do")
        answers.write(json.dumps(getattr(child, what)(**asked)) + "\n")
        answers.flush()
        if what == "close":
            return
    child.close()


if __name__ == "__main__":
    main()
