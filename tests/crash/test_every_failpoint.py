"""No failpoint is left out: each is killed at by a crash test, or named here with the test that does it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cloud.kernel import failpoints

pytestmark = pytest.mark.crash

ELSEWHERE = {
    "backup.": "tests/unit/cloud/keys/test_backup.py",
    "restore.": "tests/unit/cloud/keys/test_backup.py",
    # Killed there, in a relocation, which a small installation does not need.
    "rewrite.copied": "tests/unit/cloud/storage/test_rewriting.py",
    "rewrite.places_changed": "tests/unit/cloud/storage/test_rewriting.py",
}


def killed_at(module: ModuleType) -> Iterator[str]:
    """The values of the parameter `place` of a module's tests."""
    for name, test in vars(module).items():
        for mark in getattr(test, "pytestmark", ()) if name.startswith("test_") else ():
            if mark.name != "parametrize":
                continue
            names, values = mark.args
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            if "place" in names:
                at = names.index("place")
                yield from (value if len(names) == 1 else value[at] for value in values)


def test_every_failpoint_is_killed_at_by_a_crash_test() -> None:
    modules = (importlib.import_module(f"tests.crash.{path.stem}") for path in Path(__file__).parent.glob("test_*.py"))
    killed = {place for module in modules for place in killed_at(module)}
    assert killed <= set(failpoints.NAMES)
    assert {name for name in failpoints.NAMES if not name.startswith(tuple(ELSEWHERE))} - killed == set()


@pytest.mark.parametrize("group", ELSEWHERE)
def test_a_failpoint_that_is_killed_at_elsewhere_is_named_there(group: str) -> None:
    source = (Path(__file__).parents[2] / ELSEWHERE[group]).read_text("utf-8")
    assert [name for name in failpoints.NAMES if name.startswith(group) and f'"{name}"' not in source] == []
