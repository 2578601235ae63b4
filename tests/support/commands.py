"""The command over an installation that this process has open already: real, without the seconds of opening one."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main
import typer.testing
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from cloud import CloudRuntime, CloudSettings
from cloud.cli.app import build_app
from cloud.cli.ports import Program
from cloud.custody.service import Custody
from cloud.startup import upkeep
from cloud.startup.working import work

Command = Callable[..., Result]

# It reads the signatures of all commands, and would at each call.
typer.testing._get_command = functools.lru_cache(maxsize=8)(typer.main.get_command)
_apps: dict[tuple[int, Path], typer.Typer] = {}


def app_over(runtime: CloudRuntime, home: Path) -> typer.Typer:
    """The command; a worker that it runs works on the open installation, and is told to stop before it begins."""
    # The application holds the runtime, so its id is nobody else's meanwhile.
    made = _apps.get((id(runtime), home))
    if made is None:
        made = _apps[id(runtime), home] = _app(runtime, home)
    return made


def _app(runtime: CloudRuntime, home: Path) -> typer.Typer:
    def settings(**given: Any) -> CloudSettings:
        return CloudSettings(**{"home": home, **given})

    def run_worker(_: CloudSettings, stop: threading.Event) -> None:
        stop.set()
        work(runtime._installation, stop)

    def open_custody(_: CloudSettings, *, with_keyring: bool) -> contextlib.AbstractContextManager[Custody]:
        return contextlib.nullcontext(runtime.keyring)

    return build_app(
        Program(
            settings=settings,
            open=lambda _: contextlib.nullcontext(runtime),
            open_custody=open_custody,
            open_backups=lambda _: contextlib.nullcontext(runtime.backups),
            run_worker=run_worker,
            upkeep=upkeep,
        )
    )


def command_of(app: typer.Typer) -> Command:
    """Runs the command with the arguments given."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env, input=typed)

    return run


def names_of(app: typer.Typer) -> Iterator[str]:
    """What can be typed: every command with its nouns, such as `audit export`."""

    def walk(found: object, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(found, TyperGroup):
            for name, part in found.commands.items():
                yield from walk(part, (*path, name))
        else:
            yield " ".join(path)

    return walk(typer.main.get_command(app), ())
