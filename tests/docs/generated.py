"""Pages that are made from the code: `make docs` writes them, and a test compares them with what it would write."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import typer
from pydantic_core import PydanticUndefined

from cloud import CloudSettings
from cloud.cli.app import PROGRAM, build_app
from cloud.cli.failures import ExitCode
from cloud.cli.ports import Program

DOCS: Final = Path(__file__).parents[2] / "docs"
_PREFIX: Final = "LUMINESCENT_CLOUD_"
_KINDS: Final = {
    "Path": "path",
    "str": "text",
    "SecretStr": "text, secret",
    "bool": "`true`, `false`",
    "int": "whole number",
    "float": "number",
    "tuple": "list",
    "dict": "JSON object",
}
_MADE: Final = "<!-- Made by `make docs` from the code. -->"


def settings_page() -> str:
    """Every setting of `CloudSettings`, with its variable, default and bounds."""
    described = dict(_attributes(inspect.getdoc(CloudSettings) or ""))
    rows = []
    for name, field in CloudSettings.model_fields.items():
        default = "–" if field.default in (None, PydanticUndefined) else f"`{_shown(field.default)}`"
        rows.append(f"| `{_PREFIX}{name.upper()}` | {default} | {_allowed(field)} | {described[name]} |")
    return "\n".join(
        [
            "# Settings",
            "",
            _MADE,
            "",
            "Each is an argument of `CloudSettings` by its name in small letters without the prefix, and a variable of",
            "the environment. A value that cannot be used stops the start, and the message names the variable.",
            "",
            "| variable | default | values | what it is |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def commands_page() -> str:
    """Every command with its arguments and options, and the exit codes."""
    lines = ["# Command reference", "", _MADE, ""]
    lines += ["What the commands are for, and who acts: [the command line](cli.md).", ""]
    for path, command in _leaves(typer.main.get_command(_app()), ()):
        context = typer.Context(command, info_name=" ".join((PROGRAM, *path)))
        usage = command.get_usage(context).removeprefix("Usage: ")
        lines += [f"## `{' '.join(path)}`", "", "```", " ".join(usage.split()), "```", "", *_paragraphs(command), ""]
        rows = [row for parameter in command.params if (row := _row(parameter, context)) is not None]
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    lines += ["## Exit codes", "", "| code | name |", "|---|---|"]
    lines += [f"| {code.value} | {code.name.lower().replace('_', ' ')} |" for code in ExitCode]
    return "\n".join([*lines, ""])


PAGES: Final = {"settings.md": settings_page, "cli-reference.md": commands_page}


def _app() -> typer.Typer:
    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is run to describe it")

    return build_app(Program(**dict.fromkeys(Program.__dataclass_fields__, unused)))


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in sorted(command.commands.items()):
        yield from _leaves(inner, (*path, name))


def _paragraphs(command: Any) -> list[str]:
    return [line.strip() for line in inspect.cleandoc(command.help or "").splitlines()]


def _row(parameter: Any, context: typer.Context) -> str | None:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{' '.join(parameter.get_usage_pieces(context)).strip('{}[]')}`"
    elif parameter.name == "help":
        return None
    notes = [getattr(parameter, "help", None) or ""]
    if parameter.envvar:
        notes.append(f"Variable `{parameter.envvar}`.")
    if parameter.default not in (None, False, (), []) and not callable(parameter.default):
        notes.append(f"Default `{_shown(parameter.default)}`.")
    if parameter.required:
        notes.append("Needed.")
    return f"| {names} | {' '.join(note for note in notes if note).replace('|', chr(92) + '|')} |"


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the section `Attributes` of a docstring."""
    section = docstring.partition("Attributes:\n")[2].partition("\n\n")[0]
    for found in re.finditer(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
        yield found[1], " ".join(found[2].split())


def _allowed(field: Any) -> str:
    bounds = [f"{sign} {_shown(value)}" for item in field.metadata for sign, value in _bounds(item)]
    literals = [f"`{value}`" for value in get_args(field.annotation) if isinstance(value, str)]
    if literals:
        return ", ".join(literals)
    kind = re.sub(r"\w+\.", "", str(getattr(field.annotation, "__name__", field.annotation)).replace(" | None", ""))
    return " ".join([_KINDS.get(kind, kind), ", ".join(bounds)]).strip()


def _bounds(item: Any) -> Iterator[tuple[str, object]]:
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        if getattr(item, name, None) is not None:
            yield sign, getattr(item, name)


def _shown(value: object) -> str:
    value = getattr(value, "value", value)
    # As one types them.
    if isinstance(value, tuple):
        return ",".join(_shown(part) for part in value)
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def write() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    write()
