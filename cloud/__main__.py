"""Entry of the command `luminescent-cloud` and of `python -m cloud`; lends the command line what stands above it."""

from __future__ import annotations

import os
import sys
import threading
from typing import Final, NoReturn

from cloud.kernel.logs import configure_logs
from cloud.settings import CloudSettings
from cloud.startup import init_cloud_extensions, open_backups, open_custody, run_worker

_NICE: Final = 5


def _attached_worker() -> int:
    """The materializer as a child: settings from the first line of standard input, stops when that closes."""
    settings = CloudSettings.model_validate_json(sys.stdin.readline())
    configure_logs(settings.log_format, settings.log_level)
    # What was accepted is found without it: whoever waits for an answer comes first.
    os.nice(_NICE)
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, name="luminescent-parent-watch", daemon=True).start()
    run_worker(settings, stop)
    return 0


def main() -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit code."""
    if sys.argv[1:] == ["worker", "--attached"]:
        sys.exit(_attached_worker())
    # Only now: the child above needs none of it.
    from cloud.cli.app import run
    from cloud.cli.ports import Program
    from cloud.startup import upkeep

    run(
        Program(
            settings=CloudSettings,
            open=init_cloud_extensions,
            open_custody=open_custody,
            open_backups=open_backups,
            run_worker=run_worker,
            upkeep=upkeep,
        )
    )


if __name__ == "__main__":
    main()
