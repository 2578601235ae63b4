"""The worker beside a service, kept alive: as a child process, or as a thread of the service.

A child process unless something else is asked for, because embedding in the same interpreter slows the requests beside
it. It is told its settings over a pipe and gone when its parent is. It is started as a command of its own, so no script
needs a `__main__` guard.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from cloud.kernel import telemetry, telemetry_names

_RESTART_S: Final = 1.0
_RESTART_MAX_S: Final = 60.0
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


class WorkerThread:
    """Does the worker's rounds in a thread, and begins another one when a round fails, until it is stopped.

    Args:
        work: One round: works until the event is set, and takes down what it started before it returns or raises.
        restart_s: Seconds until a round follows one that failed at once; twice as many each further time, at most a
            minute.
    """

    def __init__(self, work: Callable[[threading.Event], None], *, restart_s: float = _RESTART_S) -> None:
        self._work = work
        self._restart_s = restart_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._round = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="luminescent-materializer")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the round finish its batch and end."""
        with self._lock:
            self._stopping.set()
            self._round.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = self._restart_s
        while not self._stopping.is_set():
            with self._lock:
                if self._stopping.is_set():
                    return
                # An event of its own: a round that fails stops what works beside it with the same one.
                self._round = threading.Event()
            began_s = time.monotonic()
            try:
                self._work(self._round)
            except Exception as error:  # noqa: BLE001 - whatever it is would have ended a child process, too
                telemetry.ended(telemetry_names.WORKER, error)
                # Without its text, which may quote what it failed on.
                _log.error("the worker ended with %s; starting it again", type(error).__name__)  # noqa: TRY400
            if time.monotonic() - began_s > _RESTART_MAX_S:
                pause_s = self._restart_s
            self._stopping.wait(pause_s)
            pause_s = min(_RESTART_MAX_S, 2 * pause_s)
