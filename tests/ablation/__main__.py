"""Applies each `*.patch` beside this file to a copy of the tree and runs the test that it names: it must fail.

A patch begins with lines `Invariant: …` and `Test: …` (a pytest node id). The tests are first run unbroken: a test
that is red anyway proves nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.patches import copy_of_tree, head_of, patched

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Ablation:
    """A patch, the invariant it breaks, and the test that must notice."""

    patch: Path
    invariant: str
    test: str


def ablations() -> list[Ablation]:
    """The committed patches, by name."""
    found = []
    for patch in sorted(HERE.glob("*.patch")):
        head = head_of(patch)
        found.append(Ablation(patch, head["Invariant"], head["Test"]))
    return found


def pytest_fails(tree: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether a test failed (and was not merely uncollectable), with the end of what pytest printed."""
    run = subprocess.run(
        # -P and the path set by hand: the copy must be imported, not the installed tree.
        [sys.executable, "-m", "pytest", "-q", "-x", *tests],
        cwd=tree,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(tree), "HOME": str(tree)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    return run.returncode == 1, run.stdout[-1500:]


def main() -> int:
    """Try every patch; 0 if each turned its test red."""
    chosen = [item for item in ablations() if not sys.argv[1:] or any(name in item.patch.name for name in sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="lum-ablate-") as directory:
        clean = Path(directory) / "clean"
        copy_of_tree(clean)
        failed, output = pytest_fails(clean, sorted({item.test for item in chosen}))
        if failed:
            print(f"a named test fails without any patch:\n{output}")
            return 1
        survivors = 0
        for item in chosen:
            with patched(clean, item.patch) as broken:
                begun = time.monotonic()
                noticed, output = pytest_fails(broken, [item.test])
                took_s = time.monotonic() - begun
            print(
                f"{'red ' if noticed else 'GREEN'} {item.patch.stem:<34} {took_s:5.1f} s  {item.invariant}", flush=True
            )
            if not noticed:
                survivors += 1
                print(output)
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
