"""A contender's process, as the parent holds it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from tests.bench.contender import Place
from tests.bench.figures import Round
from tests.bench.processes import family_cpu_ms

ROOT = Path(__file__).resolve().parents[2]


class Side:
    """One contender in a process of its own.

    Args:
        name: As `tests.bench.contenders` knows it.
        place: What it is given.
        server_pid: The PostgreSQL server, whose processor time counts as whoever's turn it is.
        log: Where it says what is not an answer.
    """

    def __init__(self, name: str, place: Place, server_pid: int, log: Path) -> None:
        self.name = name
        self._server_pid = server_pid
        self._log: IO[bytes] = log.open("ab")
        quiet = {"PYTHONPATH": str(ROOT), "HOME": str(place.directory), "MEM0_DIR": str(place.directory / "mem0")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.child", name],
            env=os.environ | quiet,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answer("could not be imported")
        given = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(place).items()}
        self.about = self.do("set_up", place=given)

    def do(self, what: str, **given: Any) -> dict[str, Any]:
        """What the child answers.

        Raises:
            RuntimeError: It ended instead; its log says why.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": what, **given}) + "\n")
            self._process.stdin.flush()
        return self._answer(f"ended at {what} {given}")

    def round(self, operation: str, *, callers: int, seconds: float, most: int) -> Round:
        """One turn at an operation; nobody else has one meanwhile."""
        before = family_cpu_ms(self._server_pid)
        told = self.do("round", operation=operation, callers=callers, seconds=seconds, most=most)
        told["cpu_ms"]["server"] = family_cpu_ms(self._server_pid) - before
        return Round(**told)

    def close(self) -> None:
        """Let it take itself down."""
        self.do("close")
        self._process.communicate()
        self._log.close()

    def kill(self) -> None:
        """End it where it stands; nothing for one that has ended."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _answer(self, otherwise: str) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} {otherwise} ({self._process.wait()}): see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer
