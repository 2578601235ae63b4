"""How far long work is: one bar for every command, on standard error, and none where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from cloud.cli.output import Output, printable


class Bar:
    """A bar, or nothing at all.

    Args:
        move: Changes it: what is done now, how much of it, and of how much.
    """

    def __init__(self, move: Callable[[str | None, int, int | None], None] = lambda *_: None) -> None:
        self._move = move

    def told(self, done: int, total: int | None = None) -> None:
        """So much of so much is done."""
        self._move(None, done, total)

    def phase(self, what: str, done: int, total: int | None = None) -> None:
        """This is done now, and so much of so much of it."""
        self._move(what, done, total)

    def over(self, items: Sequence[str]) -> Iterable[str]:
        """`items`, with each that was gone through told of."""
        for done, item in enumerate(items):
            self.told(done, len(items))
            yield item
        self.told(len(items), len(items))


@contextmanager
def progress(output: Output, what: str) -> Iterator[Bar]:
    """A bar that turns until it is told how far it is; none with `--json`, or where standard error is no terminal.

    It is gone at the end, also of a failure or an interruption. Nobody can be asked something while it is there.
    """
    console = output.messages()
    if output.as_json or not console.is_terminal:
        yield Bar()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(printable(what), total=None)

        def move(phase: str | None, done: int, total: int | None) -> None:
            description = None if phase is None else printable(phase)
            shown.update(task, description=description, completed=done, total=total)

        yield Bar(move)


class _Count(ProgressColumn):
    """How much of how much; nothing before anything is known."""

    def render(self, task: Task) -> Text:
        if task.total is not None:
            return Text(f"{task.completed:,.0f} of {task.total:,.0f}")
        return Text(f"{task.completed:,.0f}" if task.completed else "")
