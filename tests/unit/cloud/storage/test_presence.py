"""Laws of presence: who works is not gone, who died is, and one looker at a time is given them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cloud.storage.presence import Presence, Processes

WORKS = """
import sys, pathlib
from cloud.storage.presence import Presence
presence = Presence(pathlib.Path(sys.argv[1]))
print(presence.id, flush=True)
sys.stdin.read()
"""


def test_who_works_is_not_gone_and_who_was_killed_is(tmp_path: Path) -> None:
    processes, mine = Processes(tmp_path), Presence(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WORKS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        with processes.gone() as gone:
            assert gone == set()
        other.kill()
        other.wait()
    with processes.gone() as gone:
        assert gone == {theirs}
    mine.close()
    mine.close()
    with processes.gone() as gone:
        assert gone == {theirs, mine.id}
        processes.forget(theirs)
    with processes.gone() as gone:
        assert gone == {mine.id}


def test_two_who_look_at_once_are_not_given_the_same(tmp_path: Path) -> None:
    Presence(tmp_path).close()
    with Processes(tmp_path).gone() as first, Processes(tmp_path).gone() as second:
        assert (len(first), second) == (1, frozenset())


def test_a_forked_child_does_not_end_its_parents_presence(tmp_path: Path) -> None:
    mine = Presence(tmp_path)
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with Processes(tmp_path).gone() as gone:
        assert gone == set()
    mine.close()
