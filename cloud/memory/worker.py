"""The materializer as a child process: kept alive, told its settings over a pipe, gone when its parent is.

A child process and not a thread, because embedding in the same interpreter slows the requests beside it. It is
started as a command of its own, so no script needs a `__main__` guard.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Final

_RESTART_S: Final = 1.0
_STOP_S: Final = 20.0
COMMAND: Final = (sys.executable, "-m", "cloud", "worker", "--attached")

_log = logging.getLogger(__name__)


class WorkerProcess:
    """Starts the child and starts it again when it dies, until it is stopped.

    Args:
        settings: What the child reads as its first line: settings as JSON. It may hold the root key, so it travels
            over the pipe and never on a command line or in an environment.
    """

    def __init__(self, settings: str) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher = threading.Thread(target=self._watch, name="luminescent-worker-watch", daemon=True)

    def start(self) -> None:
        """Start the child and watch it."""
        self._spawn()
        self._watcher.start()

    def pid(self) -> int | None:
        """Process id of the child that runs now."""
        with self._lock:
            child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def stop(self) -> None:
        """Let the child finish its batch and end; a child that does not end in time is killed."""
        self._stopping.set()
        with self._lock:
            child = self._child
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            _log.warning("the worker did not end in time and is killed; nothing is lost by that")
            child.kill()
            child.wait()
        self._watcher.join(_STOP_S)

    def _spawn(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            # In a group of its own: Ctrl-C meant for us does not reach it, and it ends when we close its input.
            child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, process_group=0)
            self._child = child
        assert child.stdin is not None
        try:
            child.stdin.write(self._settings.encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            _log.warning("the worker ended before it began")

    def _watch(self) -> None:
        while not self._stopping.is_set():
            child = self._child
            assert child is not None
            code = child.wait()
            if self._stopping.wait(_RESTART_S):
                return
            _log.warning("the worker ended with code %d; starting it again", code)
            if child.stdin is not None:
                child.stdin.close()
            self._spawn()
