"""Several processes on one keyring: they agree, they survive each other's death, and a fork is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cloud.keys.sqlite
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sqlite import FileKeyring
from tests.unit.cloud.keys.conftest import ROOT_KEY_TEXT

REPOSITORY = Path(cloud.keys.sqlite.__file__).parents[2]

# The package `cloud` imports the whole service, a second or more for each process: leave its own start out.
PRELUDE = f"""
import json, os, sys, types
sys.modules["cloud"] = types.ModuleType("cloud")
sys.modules["cloud"].__path__ = ["cloud"]
from pathlib import Path
from cloud.kernel.errors import ConfigurationError
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sqlite import FileKeyring
keyring = FileKeyring.open(Path(sys.argv[1]), LocalRootKey.from_text("{ROOT_KEY_TEXT}"), create=True, spare_keys=5)
keyring.create_tenant("acme")
"""

RESOLVE = """
keys = [keyring.resolve_subject("acme", f"user-{number}", create=True) for number in range(20)]
print(json.dumps([[key.subject_id, key.key.hex()] for key in keys]))
"""

LIVE_AND_DIE = """
number = int(sys.argv[2])
while True:
    number += 1
    key = keyring.resolve_subject("acme", f"user-{number}", create=True)
    print("made", number, key.subject_id, key.key.hex(), flush=True)
    if number % 2:
        print("doomed", number, flush=True)
        keyring.destroy_subject("acme", key.subject_id)
        print("gone", number, flush=True)
"""

FORK = """
child = os.fork()
if child == 0:
    try:
        keyring.resolve_subject("acme", "alice", create=True)
    except ConfigurationError:
        keyring.close()
        os._exit(17)
    os._exit(1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17, status
assert keyring.resolve_subject("acme", "alice", create=True) is not None
keyring.close()
"""


def start(script: str, directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(directory), *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_eight_processes_make_one_keyring_and_resolve_new_people_alike(directory: Path) -> None:
    processes = [start(RESOLVE, directory) for _ in range(8)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert len(set(answers)) == 1
    assert len({subject_id for subject_id, _key in json.loads(answers[0])}) == 20
    assert list(directory.parent.iterdir()) == [directory]


@pytest.mark.crash
def test_what_was_acknowledged_survives_kills_at_any_moment(directory: Path, root_key: LocalRootKey) -> None:
    """A key that was handed out stays; one whose destruction returned is gone; one in between may be either."""
    chance = random.Random(7)
    made: dict[int, tuple[str, str]] = {}
    doomed: set[int] = set()
    gone: set[int] = set()
    for round_number in range(60):
        if round_number >= 6 and len(gone) > 20:
            # Where the machine is busy, little happens between two kills.
            break
        with start(LIVE_AND_DIE, directory, str(round_number * 1_000_000)) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(chance.uniform(0.02, 0.12))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            match line.split():
                case ["made", number, subject_id, key] if len(key) == 64:
                    made[int(number)] = (subject_id, key)
                case ["doomed", number] if line.endswith("\n"):
                    doomed.add(int(number))
                case ["gone", number] if line.endswith("\n"):
                    gone.add(int(number))
    assert len(gone) > 20
    keyring = FileKeyring.open(directory, root_key)
    for person, (subject_id, key) in made.items():
        found = keyring.subject_key("acme", subject_id)
        assert found == keyring.resolve_subject("acme", f"user-{person}", create=False)
        if person in gone:
            assert found is None
        elif person not in doomed:
            assert found is not None
            assert found.key.hex() == key
    everything = b"".join(path.read_bytes() for path in directory.iterdir())
    assert not any(made[person][0].encode() in everything for person in gone)
    keyring.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(directory: Path) -> None:
    process = start(FORK, directory)
    process.communicate(timeout=60)
    assert process.returncode == 0
