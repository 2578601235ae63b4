"""Copies of the tree with a patch applied: what the product would be, had it the fault that the patch puts in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def head_of(patch: Path) -> dict[str, str]:
    """What a patch says of itself: the lines `Name: …` before its first hunk."""
    lines = patch.read_text().split("\n--- ", 1)[0].splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def copy_of_tree(target: Path) -> None:
    """The files git knows, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


@contextmanager
def patched(clean: Path, patch: Path) -> Iterator[Path]:
    """A copy of the tree `clean` with the patch applied, beside it; gone afterwards."""
    tree = clean.with_name(f"{clean.name}-{patch.stem}")
    shutil.copytree(clean, tree)
    try:
        subprocess.run(["git", "apply", "--unsafe-paths", str(patch)], cwd=tree, check=True)
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)
