"""One writer at a time among threads and processes; a dead one does not block the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud.keys.files
from cloud.kernel.errors import ProviderUnavailableError
from cloud.keys.files import WriterLock

REPOSITORY = Path(cloud.keys.files.__file__).parents[2]
# The package `cloud` imports the whole service, a second or more: leave its own start out.
HOLD = """
import sys, time, types
sys.modules["cloud"] = types.ModuleType("cloud")
sys.modules["cloud"].__path__ = ["cloud"]
from pathlib import Path
from cloud.keys.files import WriterLock
with WriterLock(Path(sys.argv[1]), timeout_s=5).held():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writer.lock"


@pytest.fixture
def lock(path: Path) -> Iterator[WriterLock]:
    lock = WriterLock(path, timeout_s=0.05)
    yield lock
    lock.close()


def test_another_opening_waits_and_gives_up_in_time(path: Path, lock: WriterLock) -> None:
    other = WriterLock(path, timeout_s=0.05)
    with lock.held():
        started = time.monotonic()
        with pytest.raises(ProviderUnavailableError), other.held():
            pass
        assert time.monotonic() - started < 2
    with other.held(), pytest.raises(ProviderUnavailableError), lock.held():
        pass
    other.close()


def test_another_thread_waits_and_gives_up_in_time(lock: WriterLock) -> None:
    refused: list[ProviderUnavailableError] = []

    def attempt() -> None:
        try:
            with lock.held():
                pass
        except ProviderUnavailableError as exc:
            refused.append(exc)

    with lock.held():
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(refused) == 1
    attempt()
    assert len(refused) == 1


def test_an_error_inside_gives_the_lock_back(lock: WriterLock) -> None:
    with pytest.raises(KeyError), lock.held():
        raise KeyError
    with lock.held():
        pass


def test_a_killed_holder_gives_the_lock_back(path: Path, lock: WriterLock) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ProviderUnavailableError), lock.held():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock.held():
        pass
