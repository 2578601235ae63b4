"""What a command says: a result on standard output, for people or as one JSON document; all else on standard error.

What users stored is shown without power over a terminal: control and direction characters appear as escapes, and
nothing in it is taken for markup.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from os import PathLike, fspath
from typing import Final, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cloud.cli.failures import exit_code, next_step
from cloud.kernel.errors import LuminescentError

_PIPE_COLUMNS: Final = 160
# Embeddings, overrides and isolates reorder what follows them, so a line can be made to say something else.
_REORDERING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal written as an escape; line breaks stay."""
    return "".join(
        character
        if character == "\n" or (unicodedata.category(character) not in ("Cc", "Cs") and character not in _REORDERING)
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> RenderableType:
    """A table whose cells are shown as they are and in full; columns named in `right` are numbers."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for name in columns:
        made.add_column(name, overflow="fold", justify="right" if name in right else "left")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def moment(value: datetime | None) -> str:
    """A time for people: UTC, to the second, or a dash."""
    return value.strftime("%Y-%m-%d %H:%M:%SZ") if value is not None else "-"


def console(stream: TextIO) -> Console:
    """A console on `stream`: in colour on a terminal, plain and wide enough for whole ids anywhere else."""
    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


class Output:
    """Where a command's result and messages go.

    Args:
        as_json: Whether the result is one JSON document.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, document: Mapping[str, object], *for_people: RenderableType) -> None:
        """Say the result: `document` with `--json`, otherwise what is meant for people."""
        if self.as_json:
            json.dump(document, sys.stdout, ensure_ascii=False, indent=2, default=_plain)
            sys.stdout.write("\n")
            return
        out = console(sys.stdout)
        for renderable in for_people:
            out.print(renderable, soft_wrap=isinstance(renderable, str | Text))

    def line(self, document: Mapping[str, object]) -> None:
        """Say with `--json` how long work stands, in a line of its own that is there at once; people get notes."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, ensure_ascii=False, default=_plain) + "\n")
            sys.stdout.flush()

    def note(self, message: str) -> None:
        """Tell something on standard error."""
        self.messages().print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Warn on standard error."""
        self.messages().print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)

    def fail(self, error: LuminescentError) -> int:
        """Say what went wrong and what to do next; returns the exit code."""
        if self.as_json:
            self.result({"error": describe(error)})
        self.complain(str(error), next_step(error))
        return exit_code(error)

    def complain(self, message: str, advice: str | None = None) -> None:
        """Say on standard error what went wrong, in one line, and what to do next, in another."""
        err = self.messages()
        err.print(Text.assemble(("error: ", "bold red"), printable(message)), soft_wrap=True)
        if advice is not None:
            err.print(Text(f"       {printable(advice)}", style="dim"), soft_wrap=True)

    @staticmethod
    def messages() -> Console:
        """The console of standard error."""
        return console(sys.stderr)


def describe(error: LuminescentError) -> dict[str, object]:
    """An error as the JSON document has it."""
    return {"code": error.code, "message": str(error), "retryable": error.retryable}


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case PathLike():
            return fspath(value)
        case Mapping():
            return dict(value)
        case set() | frozenset():
            return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
