"""Who has the keyring open is counted exactly, also after a process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.keys.attendance import Attendance, Attendee, attendees
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
from tests.unit.cloud.keys.test_sqlite_processes import REPOSITORY

WAIT = """
import sys, types
sys.modules["cloud"] = types.ModuleType("cloud")
sys.modules["cloud"].__path__ = ["cloud"]
from pathlib import Path
from cloud.keys.attendance import Attendance
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys
attendance = Attendance(Path(sys.argv[1]), RootKeys(LocalRootKey(bytes(32))))
print("in", flush=True)
sys.stdin.read()
"""


def test_an_opening_is_counted_while_it_lasts_with_what_it_can_reach(tmp_path: Path) -> None:
    one, two = LocalRootKey(bytes(32)), LocalRootKey(b"\1" * 32)
    first, second = Attendance(tmp_path, RootKeys(one)), Attendance(tmp_path, RootKeys(one, two))
    assert sorted(len(one.root_key_ids) for one in attendees(tmp_path)) == [1, 2]
    first.close()
    assert attendees(tmp_path) == (Attendee(frozenset((one.key_id, two.key_id)), ""),)
    second.close()
    assert attendees(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_not_counted_and_leaves_nothing_for_long(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAIT, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert len(attendees(tmp_path)) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert attendees(tmp_path) == ()
    assert len(list(tmp_path.iterdir())) == 1
    Attendance(tmp_path, RootKeys(LocalRootKey(bytes(32)))).close()
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_cannot_be_read_can_reach_nothing(tmp_path: Path) -> None:
    root_keys = RootKeys(LocalRootKey(bytes(32)))
    attendance = Attendance(tmp_path, root_keys)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"{")
    (found,) = attendees(tmp_path)
    assert not found.reaches(root_keys.first.key_id, root_keys)
    attendance.close()


@pytest.mark.parametrize(("same", "reaches"), [(True, True), (False, False)])
def test_whoever_shares_the_root_key_file_reaches_what_is_put_beside_it(
    tmp_path: Path, same: bool, reaches: bool
) -> None:
    mine = RootKeys(LocalRootKey(bytes(32)), file=tmp_path / "root.key")
    theirs = Attendee(frozenset(), str((tmp_path / "root.key") if same else (tmp_path / "another.key")))
    assert theirs.reaches("new", mine) is reaches
