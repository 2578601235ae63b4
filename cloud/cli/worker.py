"""`luminescent-cloud worker`: materializes beside the processes of an installation."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import typer

from cloud.cli.invocation import invocation
from cloud.kernel.logs import configure_logs


def worker(ctx: typer.Context) -> None:
    """Move accepted memories into Pixeltable until SIGTERM or SIGINT. Several may run; one works on a table.

    With --json it says in a line each when it begins and when it has ended.
    """
    run = invocation(ctx)
    settings = run.settings()
    configure_logs(settings.log_format, settings.log_level)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    run.output.note(f"Materializing in {settings.home}; SIGTERM or Ctrl-C ends it.")
    about = {"home": settings.home, "pid": os.getpid()}
    run.output.line({"worker": "started", **about})
    run.program.run_worker(settings, stop)
    run.output.line({"worker": "ended", **about})
