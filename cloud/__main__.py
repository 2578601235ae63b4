"""Entry of the command `luminescent-cloud` and of `python -m cloud`."""

from __future__ import annotations

import sys
import threading

from cloud.settings import CloudSettings
from cloud.startup import run_worker


def _attached_worker() -> int:
    """The materializer as a child: settings from the first line of standard input, stops when that closes."""
    settings = CloudSettings.model_validate_json(sys.stdin.readline())
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, name="luminescent-parent-watch", daemon=True).start()
    run_worker(settings, stop)
    return 0


def main() -> int:
    return _attached_worker()


if __name__ == "__main__":
    sys.exit(main())
