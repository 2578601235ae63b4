"""`luminescent-cloud demo`: plays the whole product in a fresh installation, and ends with 0 only if all of it held."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli import demo_guards, demo_scenes
from cloud.cli.demo_stage import Stage, stopwatch
from cloud.cli.failures import ExitCode
from cloud.cli.invocation import Invocation, invocation
from cloud.cli.output import console
from cloud.cli.temporary import shipped_settings, temporary_home
from cloud.kernel.errors import ConfigurationError, LuminescentError


def demo(
    ctx: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the installation, to look around in it.")] = False,
) -> None:
    """Show two companies, a stranger, a quota, an erasure and the audit trail of all of it, in under a minute.

    It plays in a temporary installation, or with --home in a directory that is empty or missing, which it keeps. It
    never touches an installation that is in use.
    """
    run = invocation(ctx)
    stage = Stage(run.output.messages() if run.output.as_json else console(sys.stdout))
    watch = stopwatch()
    keep = keep or run.home is not None
    with _fresh_home(run.home, keep=keep) as home:
        stage.title(
            "luminescent-cloud demo",
            f"a fresh installation in {home}, {'kept' if keep else 'removed'} at the end",
        )
        try:
            _play(run, stage, home)
        except LuminescentError as error:
            stage.broke(error)
        stage.end(
            watch.s(), *(_look_around(home) if keep else ("--keep keeps the installation to look around in it.",))
        )
    if run.output.as_json:
        checks = [
            {"scene": c.scene, "what": c.what, "held": c.held, "expected": c.expected, "found": c.found}
            for c in stage.checks
        ]
        run.output.result(
            {"held": stage.held, "took_s": round(watch.s(), 3), "home": home if keep else None, "checks": checks}
        )
    if not stage.held:
        raise typer.Exit(ExitCode.FAILED)


def _play(run: Invocation, stage: Stage, home: Path) -> None:
    stage.scene("Start")
    watch = stopwatch()
    with contextlib.ExitStack() as stack:
        with stage.waiting("PostgreSQL, keyring and Pixeltable are set up …"):
            runtime = stack.enter_context(run.program.open(shipped_settings(home)))
        stage.passed("PostgreSQL, keyring and Pixeltable are set up and checked", took_s=watch.s())
        play = demo_scenes.Play(runtime, stage, home)
        demo_scenes.open_tenants(play)
        asyncio.run(_scenes(play))
        demo_guards.read_log(play, _log_directory(home))


async def _scenes(play: demo_scenes.Play) -> None:
    await demo_scenes.store(play)
    await demo_scenes.ask(play)
    await demo_scenes.compare(play)
    await asyncio.to_thread(demo_scenes.look_on_disk, play)
    await demo_guards.keep_out(play)
    await demo_guards.fill_up(play)
    await demo_guards.erase(play)


def _log_directory(home: Path) -> Path:
    return home.with_name(f"{home.name}-audit")


@contextlib.contextmanager
def _fresh_home(named: Path | None, *, keep: bool) -> Iterator[Path]:
    if named is not None:
        home = named.expanduser().absolute()
        for directory in (home, _log_directory(home)):
            if directory.exists() and next(directory.iterdir(), None) is not None:
                raise ConfigurationError(f"{directory} is not empty; the demo needs a directory of its own")
        yield home
        return
    with temporary_home(keep=keep) as home:
        yield home


def _look_around(home: Path) -> tuple[str, ...]:
    command, tenant = f"luminescent-cloud --home {home}", demo_scenes.FIRST
    return (
        "Look around:",
        f"  {command} tenants list",
        f"  {command} api-keys create --tenant {tenant} --role service --out key",
        f'  {command} memory retrieve "How do I take a warehouse out of service?" --user bob --api-key-file key',
    )
