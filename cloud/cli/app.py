"""Puts the nouns together, and ends every run with a documented exit code instead of a traceback."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from cloud.cli import (
    access_review,
    api_keys,
    audit,
    backup,
    bench,
    db,
    demo,
    doctor,
    embeddings,
    gdpr,
    keyring,
    leak_test,
    memory,
    memory_asking,
    memory_changing,
    scan,
    tenants,
    tokens,
    usage,
    worker,
)
from cloud.cli.failures import ExitCode
from cloud.cli.invocation import Invocation
from cloud.cli.output import Output
from cloud.cli.ports import Program
from cloud.kernel.errors import LuminescentError
from cloud.kernel.logs import configure_logs

PROGRAM: Final = "luminescent-cloud"

# A verb of tenants with a file of its own.
tenants.app.command("access-review")(access_review.access_review)


class _Guarded(TyperGroup):
    """Ends a command that raised on purpose with a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LuminescentError as error:
            raise typer.Exit(_output(ctx).fail(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            _output(ctx).complain(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}")
            raise typer.Exit(ExitCode.FAILED) from error


def _output(ctx: typer.Context) -> Output:
    return ctx.obj.output if isinstance(ctx.obj, Invocation) else Output(as_json=False)


def build_app(program: Program) -> typer.Typer:
    """The command, over what `program` lends."""
    app = typer.Typer(
        cls=_Guarded,
        no_args_is_help=True,
        # Joins the lines of a paragraph, as they are meant.
        rich_markup_mode="markdown",
        # Locals of a stack frame hold content and keys.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Memory for AI agents, multi-tenant: isolation that fails closed, exact quotas, audit, erasure.",
    )

    @app.callback()
    def root(
        ctx: typer.Context,
        home: Annotated[
            Path | None,
            typer.Option(
                file_okay=False,
                metavar="DIR",
                help="The installation's home; otherwise LUMINESCENT_CLOUD_HOME, or ~/.luminescent-cloud.",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
        _version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None:
        ctx.obj = Invocation(program, home, Output(as_json=as_json))

    memory_asking.add_to(memory.app)
    memory_changing.add_to(memory.app)
    gdpr.app.add_typer(scan.app, name="scan")
    app.command()(demo.demo)
    for name, noun in (
        ("tenants", tenants.app),
        ("api-keys", api_keys.app),
        ("tokens", tokens.app),
        ("memory", memory.app),
        ("usage", usage.app),
        ("audit", audit.app),
        ("gdpr", gdpr.app),
        ("keyring", keyring.app),
        ("backup", backup.app),
        ("db", db.app),
        ("embeddings", embeddings.app),
        ("bench", bench.app),
    ):
        app.add_typer(noun, name=name)
    app.command()(backup.restore)
    app.command()(leak_test.leak_test)
    app.command()(worker.worker)
    app.command()(doctor.doctor)
    return app


def run(program: Program) -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    configure_logs("text", "warning")
    sys.excepthook = _unexpected
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sys.exit(build_app(program)(prog_name=PROGRAM))


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}\n")
        raise typer.Exit


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that what was opened is closed and the server does not stay behind.
    raise SystemExit(128 + number)


def _unexpected(kind: type[BaseException], _error: BaseException, trace: TracebackType | None) -> None:
    # A defect. Its message may quote a value, so the kind and the places must do.
    frames = traceback.extract_tb(trace)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    Output(as_json=False).complain(
        f"unexpected {kind.__name__} at {' < '.join(reversed(places[-6:])) or 'start'}",
        "this is a defect: please report this line, with the command but without personal data",
    )
