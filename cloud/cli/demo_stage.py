"""Where the demo is played: prints scenes and checks, and keeps count of what was done and whether it held."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from cloud.audit.model import Outcome
from cloud.cli.output import printable
from cloud.kernel.access import Action
from cloud.kernel.errors import LuminescentError

_MARGIN: Final = 3
_COLUMNS: Final = 80
_TIME_COLUMNS: Final = 8

Operation = tuple[str, Action, Outcome]
"""The log an operation belongs to, what was asked for, and how it ended."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the demo looked at.

    Attributes:
        scene: Title of its scene.
        what: What was looked at.
        held: Whether it was as it should be.
        expected: What should have been, where it was not.
        found: What was instead.
    """

    scene: str
    what: str
    held: bool
    expected: str | None = None
    found: str | None = None


class Stage:
    """Shows the demo and remembers it.

    Args:
        console: Where it is shown.

    Attributes:
        checks: What was looked at.
        done: How often each operation was done, counted where it was done.
    """

    def __init__(self, console: Console) -> None:
        self.checks: list[Check] = []
        self.done: Counter[Operation] = Counter()
        self._console = console
        self._scene = ""
        self._number = 0
        unicode = (console.encoding or "").lower().startswith("utf")
        self._marks = ("✓", "✗") if unicode else ("ok", "FAILED")

    @property
    def held(self) -> bool:
        """Whether everything looked at was as it should be."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def title(self, title: str, *lines: str) -> None:
        """Open the demo."""
        self._console.print(Text(title, style="bold"))
        for line in lines:
            self._console.print(Text(line, style="dim"), soft_wrap=True)

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._number, self._scene = self._number + 1, title
        self._console.print()
        self._console.print(Text(f"{self._number}  {title}", style="bold cyan"), soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show on a terminal that something takes its time."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(Text(what, style="dim")):
            yield

    def did(self, log_id: str, action: Action, outcome: Outcome = Outcome.ALLOWED, *, times: int = 1) -> None:
        """Count an operation that the audit log must know."""
        self.done[log_id, action, outcome] += times

    def check(
        self, what: str, held: bool, *, expected: str, found: object = "something else", took_s: float | None = None
    ) -> None:
        """Look at something, and show whether it is as it should be."""
        self.checks.append(Check(self._scene, what, held, None if held else expected, None if held else str(found)))
        line = Text(f"{'':{_MARGIN}}")
        line.append(self._marks[0 if held else 1], style="green" if held else "bold red").append(f" {what}")
        if took_s is not None:
            gap = max(1, _COLUMNS - _TIME_COLUMNS - line.cell_len)
            line.append(" " * gap).append(f"{_duration(took_s):>{_TIME_COLUMNS}}", style="dim")
        self._console.print(line, soft_wrap=True)
        if not held:
            self.say(f"  expected: {expected}", style="red")
            self.say(f"  found:    {printable(str(found))}", style="red")

    def passed(self, what: str, *, took_s: float) -> None:
        """Show something that would have raised if it had not worked."""
        self.check(what, True, expected="no error", took_s=took_s)

    async def refused(self, what: str, attempt: Awaitable[object], code: str, reason: str) -> None:
        """Look whether an attempt is refused, with this error and for this reason."""
        try:
            await attempt
        except LuminescentError as error:
            found = f"{error.code} ({getattr(error, 'reason', '')})"
        else:
            found = "it was allowed"
        self.check(
            f"{what}: refused, {reason}", found == f"{code} ({reason})", expected=f"{code} ({reason})", found=found
        )

    def say(self, text: str, *, style: str = "") -> None:
        """Show a line without a check."""
        self._console.print(Text(f"{'':{_MARGIN + 2}}{printable(text)}", style=style), soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Show a table."""
        self._console.print(Padding(renderable, (1, 0, 1, _MARGIN + 2), expand=False))

    def broke(self, error: LuminescentError) -> None:
        """A scene ended with an error that is no part of it."""
        self.check("the scene was played to its end", False, expected="no error", found=f"{error.code}: {error}")

    def end(self, took_s: float, *lines: str) -> None:
        """Close the demo with what it came to."""
        failed = sum(not check.held for check in self.checks)
        self._console.print()
        if self.held:
            self._console.print(Text(f"All {len(self.checks)} checks held, in {took_s:.1f} s.", style="bold green"))
        else:
            self._console.print(Text(f"{failed} of {len(self.checks)} checks did not hold.", style="bold red"))
        for line in lines:
            self._console.print(Text(line, style="dim"), soft_wrap=True)


def stopwatch() -> Stopwatch:
    """A stopwatch that runs from now on."""
    return Stopwatch(time.monotonic())


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Tells how long ago it was started."""

    started_s: float

    def s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
