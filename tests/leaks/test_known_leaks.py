"""Leaks of other memory systems, each put back by a patch: the leak test, as shipped, ends with 1 and names it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.homes import kill_server, temporary_home
from tests.support.patches import copy_of_tree, head_of, patched
from tests.support.typed import environment

PATCHES = sorted(Path(__file__).parent.glob("*.patch"))
DEADLINE_S = 300
_SMALL = ("--tenants", "2", "--people", "2", "--rounds", "2")


def leak_test(tree: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Type the command with the sources of `tree`."""
    variables = {
        "PYTHONPATH": str(tree),
        "LUMINESCENT_CLOUD_WORKER": "thread",
        "LUMINESCENT_CLOUD_EMBEDDER": "hashing",
    }
    return subprocess.run(
        [sys.executable, "-m", "cloud", "--home", str(home), "--json", "leak-test", *_SMALL],
        cwd=tree,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree."""
    tree = tmp_path_factory.mktemp("leaks") / "tree"
    copy_of_tree(tree)
    return tree


@pytest.fixture(scope="module")
def opened_home(clean: Path) -> Iterator[Path]:
    """A home in which the leak test has found nothing, closed again: making one takes as long as testing it."""
    with temporary_home() as home:
        done = leak_test(clean, home)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["tight"] is True
        yield home


@contextmanager
def copied(home: Path) -> Iterator[Path]:
    """A copy of a home whose server is stopped."""
    with temporary_home() as copy:
        subprocess.run(["cp", "-a", f"{home}/.", copy], check=True)
        yield copy
        kill_server(copy)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_known_leak_that_is_put_back_is_found_and_named(patch: Path, clean: Path, opened_home: Path) -> None:
    head = head_of(patch)
    with copied(opened_home) as home, patched(clean, patch) as tree:
        done = leak_test(tree, home)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (head["Path"], head["Check"]) in {(leak["path"], leak["check"]) for leak in found["leaks"]}
    assert found["leftovers"] == []
