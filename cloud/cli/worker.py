"""`luminescent-cloud worker`: materializes beside the processes of an installation."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import typer

from cloud.cli.invocation import invocation
from cloud.kernel.logs import configure_logs


def worker(ctx: typer.Context) -> None:
    """Move accepted memories into Pixeltable until SIGTERM or SIGINT. Several may run; one works on a table."""
    run = invocation(ctx)
    settings = run.settings()
    configure_logs(settings.log_format, settings.log_level)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    run.output.note(f"Materializing in {settings.home}; SIGTERM or Ctrl-C ends it.")
    run.program.run_worker(settings, stop)
