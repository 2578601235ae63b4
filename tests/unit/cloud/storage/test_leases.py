"""Laws of the locks between processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.leases import Lease, exclusive
from tests.support.homes import temporary_home

HOLD = """
import sys
from pathlib import Path
from cloud.storage.leases import Lease
lease = Lease(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_only_the_last_of_several_leases_is_the_last() -> None:
    with temporary_home() as directory:
        first, second = Lease(directory / "lock"), Lease(directory / "lock")
        assert not first.release()
        assert second.release()
        assert not second.release()


def test_another_process_counts_until_it_is_killed() -> None:
    with temporary_home() as directory:
        own = Lease(directory / "lock")
        with hold(directory / "lock") as other:
            assert not own.release()
            own = Lease(directory / "lock")
            other.send_signal(signal.SIGKILL)
            other.wait()
        assert own.release()


FORK = """
import os, sys
from pathlib import Path
from cloud.storage.leases import Lease
path = Path(sys.argv[1])
lease = Lease(path)
ready_r, ready_w = os.pipe()
wait_r, wait_w = os.pipe()
if os.fork() == 0:
    os.write(ready_w, b"1" if lease.release() else b"0")
    os.close(wait_w)
    os.read(wait_r, 1)
    os._exit(0)
released_by_child = os.read(ready_r, 1) == b"1"
another = Lease(path)
last_but_one = another.release()
print(released_by_child, last_but_one, lease.release())
os.close(wait_w)
os.wait()
"""


def test_a_forked_child_neither_holds_nor_ends_its_parents_lease() -> None:
    with temporary_home() as directory:
        done = subprocess.run([sys.executable, "-c", FORK, directory / "lock"], check=True, capture_output=True)
    # The child's call released nothing; the parent's lease was still there; the living child held none.
    assert done.stdout.split() == [b"False", b"False", b"True"]


def test_a_program_we_start_holds_no_lease() -> None:
    with temporary_home() as directory:
        lease = Lease(directory / "lock")
        with subprocess.Popen(["sleep", "60"], close_fds=False) as sleeper:
            assert lease.release()
            sleeper.kill()


def test_a_lock_held_elsewhere_is_waited_for_no_longer_than_the_deadline() -> None:
    with temporary_home() as directory:
        path = directory / "lock"
        with (
            exclusive(path, deadline_s=1, component="x"),
            pytest.raises(ProviderUnavailableError),
            exclusive(path, deadline_s=0.05, component="x"),
        ):
            pytest.fail("two hold the lock")
        with exclusive(path, deadline_s=0.05, component="x"):
            pass
