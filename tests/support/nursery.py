"""Python processes that begin with everything imported: forked from one that waits for orders.

Importing what the product uses takes seconds of processor time, which tests that start and kill many processes would
mostly consist of. A process from here is whole: an id, input and output of its own, and it ends as any other does.
What `python -m` itself does, tests that start it say.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
_IMPORTED: Final = ("cloud.cli.app", "cloud.startup.upkeep", "pixeltable", "typer.rich_utils")
_MESSAGE_BYTES: Final = 1 << 18


class Nursling:
    """A forked process that runs a module as `python -m` would; used as a `subprocess.Popen` is.

    Args:
        module: What it runs.
        arguments: What is typed after it.
        code: Python that runs first, in the same process.
        environment: Its environment, whole; this process's own if not given.
        stdin, stdout, stderr: Descriptors of what it reads and writes; the caller's stay open.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        code: str = "",
        environment: Mapping[str, str] | None = None,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> None:
        order = {
            "module": module,
            "arguments": list(arguments),
            "code": code,
            "environment": dict(os.environ if environment is None else environment),
        }
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(_nursery(), [json.dumps(order).encode()], [stdin, stdout, stderr, theirs.fileno()])
        self.pid: Final = self._number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, or `None` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, once it has.

        Raises:
            subprocess.TimeoutExpired: It has not ended in `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = self._number()
            self._told.close()
        return self.returncode

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _number(self) -> int:
        told = self._told.recv(64)
        assert told, "the nursery has ended"
        return int(told)


@functools.cache
def _nursery() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # In a group of its own: Ctrl-C is for the tests, and all of these end when they do.
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )

    def end() -> None:
        ours.close()
        server.wait(30)

    atexit.register(end)
    return ours


class _Server:
    """Forks on orders, and says of each process its id, and how it ended."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._selector = selectors.DefaultSelector()
        self._selector.register(orders, selectors.EVENT_READ)
        self._running: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> dict[str, Any] | None:
        """In a forked process what it is to do; `None` in the server, once nobody can give orders any more."""
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._running:
                    self._ended(key.fd)
                    continue
                text, files, _, _ = socket.recv_fds(self._orders, _MESSAGE_BYTES, 4)
                if not text:
                    return None
                pid = os.fork()
                if pid == 0:
                    self._left(files)
                    order: dict[str, Any] = json.loads(text)
                    return order
                self._began(pid, files)

    def _began(self, pid: int, files: list[int]) -> None:
        *given, told = files
        for file in given:
            os.close(file)
        to_tell = socket.socket(fileno=told)
        to_tell.send(str(pid).encode())
        watched = os.pidfd_open(pid)
        self._running[watched] = pid, to_tell
        self._selector.register(watched, selectors.EVENT_READ)

    def _ended(self, watched: int) -> None:
        pid, to_tell = self._running.pop(watched)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # Who started it may have ended before it.
        with to_tell, contextlib.suppress(BrokenPipeError):
            to_tell.send(str(code).encode())
        self._selector.unregister(watched)
        os.close(watched)

    def _left(self, files: list[int]) -> None:
        """This is the forked process: what it was given is its own, and nothing else is."""
        for place, file in enumerate(files):
            if place <= sys.__stderr__.fileno():  # type: ignore[union-attr]
                os.dup2(file, place)
            os.close(file)
        for watched, (_, to_tell) in self._running.items():
            os.close(watched)
            to_tell.close()
        self._selector.close()
        self._orders.close()


def _run(order: dict[str, Any]) -> int:
    """Do what was ordered; returns the exit code, as the interpreter finds it."""
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["arguments"]]
    try:
        exec(order["code"], {"__name__": "__main__"})  # noqa: S102 - a test's own
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - it is shown, and ends the process
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def main() -> None:
    """Import, then fork on orders."""
    for module in _IMPORTED:
        importlib.import_module(module)
    order = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if order is None:
        return
    code = _run(order)
    # What an interpreter does first when it ends. Then it would take apart all that was imported, which in a forked
    # process takes longer than most commands: each page is copied for it.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
