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

ROOT = Path(__file__).resolve().parents[2]


class ChildEndedError(RuntimeError):
    """A contender's process ended instead of answering; its log says why.

    Attributes:
        code: Its exit code, or a negative signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Side:
    """One contender in a process of its own.

    Args:
        name: As `tests.bench.contenders` knows it.
        place: What it is given.
        log: Where it says what is not an answer.

    Attributes:
        ended: What ended its process, if it is out.
    """

    def __init__(self, name: str, place: Place, log: Path) -> None:
        self.name, self.ended = name, ""
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
            ChildEndedError: It ended instead.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": what, **given}) + "\n")
            self._process.stdin.flush()
        return self._answer(f"ended at {what}")

    def round(self, operation: str, *, callers: int, seconds: float, most: int) -> Round:
        """One turn at an operation; nobody else has one meanwhile."""
        return Round(**self.do("round", operation=operation, callers=callers, seconds=seconds, most=most))

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
        if kind is None and not self.ended:
            self.close()
        else:
            self.kill()

    def _answer(self, otherwise: str) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ChildEndedError(f"{self.name} {otherwise} ({code}): see {self._log.name}", code)
        answer: dict[str, Any] = json.loads(line)
        return answer
