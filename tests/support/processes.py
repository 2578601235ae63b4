"""Child programs on an installation, and ways to kill what runs there.

Pixeltable has one home per process, so children do the work. A child says on its standard output what it begins and
what was acknowledged, line by line, before it goes on: what it said stays in the pipe however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from tests.support.books import Books, Json
from tests.support.homes import postmaster_pid, process_exists
from tests.support.nursery import Nursling

PROGRAM: Final = "tests.crash.program"
DEADLINE_S: Final = 90.0

HowKilled = Literal["postmaster", "everything", "immediate"]


@dataclass(slots=True)
class Operation:
    """An operation that a child began.

    Attributes:
        request_id: Under which its audit event is found.
        name: `store`, `store_many`, `delete`, `get`, `retrieve`, `search` or `erase`.
        tenant_id: The tenant.
        user_id: Whose memories.
        facts: What was asked for.
        answer: What was acknowledged, or `None`.
        error: What was raised, or `None`; neither is set on an operation that its process did not survive.
    """

    request_id: str
    name: str
    tenant_id: str
    user_id: str
    facts: Json
    answer: Any = None
    acknowledged: bool = False
    error: Json | None = None

    @property
    def undecided(self) -> bool:
        """Whether nobody was told how it ended."""
        return not self.acknowledged and self.error is None


@dataclass(slots=True)
class Journal:
    """Every operation that the children of one installation began, in order."""

    operations: dict[str, Operation] = field(default_factory=dict)

    def note(self, line: Json) -> None:
        """Take up what a child said."""
        if "begin" in line:
            facts = line["facts"]
            self.operations[line["begin"]] = Operation(
                line["begin"], line["operation"], line["tenant"], line["user"], facts
            )
        elif "done" in line:
            operation = self.operations[line["done"]]
            operation.answer, operation.acknowledged = line["answer"], True
        elif "failed" in line:
            self.operations[line["failed"]].error = line["error"]

    def of(self, tenant_id: str, *names: str) -> list[Operation]:
        """The operations of a tenant, of these names if any are given."""
        return [
            operation
            for operation in self.operations.values()
            if operation.tenant_id == tenant_id and (not names or operation.name in names)
        ]


class Died(Exception):  # noqa: N818 - said of the child, not of the test
    """The child ended before it answered."""


class Child:
    """A child program: takes one command at a time and answers it.

    Args:
        journal: Where what it does is noted.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._answers: queue.Queue[Json | None] = queue.Queue()
        told, commands = os.pipe()
        said, answers = os.pipe()
        self._process = Nursling(PROGRAM, stdin=told, stdout=answers, stderr=2)
        os.close(told)
        os.close(answers)
        self._stdin = os.fdopen(commands, "w", buffering=1)
        self._stdout = os.fdopen(said)
        self._silent = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.told("ready")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs. One that was killed counts as dead from the moment its pipe is closed."""
        return self._process.poll() is None and not self._silent.is_set()

    def say(self, do: str, **arguments: object) -> None:
        """Give a command without waiting for its answer."""
        self._stdin.write(json.dumps({"do": do, **arguments}) + "\n")

    def told(self, what: str = "reply", *, within_s: float = DEADLINE_S) -> Any:
        """The answer to the last command.

        Raises:
            Died: The child ended first.
        """
        try:
            line = self._answers.get(timeout=within_s)
        except queue.Empty:
            raise AssertionError(f"no answer within {within_s:g} s") from None
        if line is None:
            raise Died
        assert "trouble" not in line, line["trouble"]
        return line[what]

    def ask(self, do: str, **arguments: object) -> Any:
        """Give a command and return its answer.

        Raises:
            Died: The child ended first.
        """
        self.say(do, **arguments)
        return self.told()

    def ended(self, *, within_s: float = DEADLINE_S) -> int:
        """Wait until it has ended and all it said is noted; returns its exit code."""
        code = self._process.wait(within_s)
        self._reader.join(within_s)
        return code

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self.ended()

    def dispose(self) -> None:
        """It is gone, however it was."""
        self._process.kill()
        self.ended()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _read(self) -> None:
        for text in self._stdout:
            if not text.endswith("\n"):
                break  # cut off in the middle of saying it: not acknowledged
            line = json.loads(text)
            if line.keys() & {"ready", "reply", "trouble"}:
                self._answers.put(line)
            else:
                self._journal.note(line)
        self._silent.set()
        self._answers.put(None)


@dataclass
class Installation:
    """A home, the journal of what was done in it, and a child that runs on it when asked for.

    Attributes:
        home: Its home directory.
        settings: Settings of its processes, beside the home.
        journal: What its children did.
    """

    home: Path
    settings: Mapping[str, object]
    journal: Journal = field(default_factory=Journal)
    _child: Child | None = None
    _others: list[Child] = field(default_factory=list)

    def child(self) -> Child:
        """The child that runs on it; a new one if the last was killed."""
        if self._child is None or not self._child.alive():
            if self._child is not None:
                self._child.dispose()
            self._child = Child(self.journal)
            self.open(self._child)
        return self._child

    def another(self) -> Child:
        """One more child, that has not opened the installation yet."""
        child = Child(self.journal)
        self._others.append(child)
        return child

    def open(self, child: Child) -> None:
        """Let a child open the installation."""
        answer = child.ask("open", home=str(self.home), settings=dict(self.settings))
        assert answer == child.pid, answer

    def books(self) -> Books:
        """A look around the product."""
        return Books(self.home)

    def close(self) -> None:
        """Every child has closed the installation and ended, or is killed."""
        children = [child for child in (self._child, *self._others) if child is not None]
        try:
            for child in children:
                if child.alive():
                    child.say("quit")
            for child in children:
                child.ended(within_s=30)
        finally:
            for child in children:
                child.dispose()
        self._child = None
        self._others.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def server_processes(home: Path) -> list[int]:
    """Process ids of the home's PostgreSQL server: the postmaster first, then its children."""
    postmaster = postmaster_pid(home)
    if postmaster is None:
        return []
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == postmaster:
                    children.append(int(entry.name))
    return [postmaster, *children]


def kill_whole_server(home: Path, how: HowKilled) -> None:
    """The server of `home` is gone: SIGKILL to the postmaster alone, to all of it, or an immediate stop made sure of.

    Returns once the postmaster has ended; left alone, its children end a moment later.
    """
    processes = server_processes(home)
    if not processes:
        return
    match how:
        case "postmaster":
            signal_all(processes[:1], signal.SIGKILL)
        case "everything":
            signal_all(processes, signal.SIGKILL)
        case "immediate":
            signal_all(processes[:1], signal.SIGQUIT)
            time.sleep(0.05)
            signal_all(processes, signal.SIGKILL)
    while process_exists(processes[0]):
        time.sleep(0.002)


@contextmanager
def frozen_server(home: Path) -> Iterator[None]:
    """Every process of the server stands still meanwhile: it is there, accepts nothing and answers nothing."""
    processes = server_processes(home)
    assert processes
    signal_all(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(reversed(processes), signal.SIGCONT)


def signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each of these that still runs."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def processes_naming(home: Path) -> list[str]:
    """Command lines of the processes that work in `home`: by argument, by title, or by a file they hold open."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            held = [str(file.readlink()) for file in (entry / "fd").iterdir()]
            if str(home) in command or any(name.startswith(str(home)) for name in held):
                found.append(f"{entry.name} {command}")
    return found
