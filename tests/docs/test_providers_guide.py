"""The extension guide does what it says: its Python blocks run, and the provider it builds keeps the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "memory" / "providers.md"
BLOCKS = re.findall(r"^```(?:python|ini)\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
NAMED = {named[1]: block for block in BLOCKS if (named := re.match(r"# (\w+\.(?:py|ini))\n", block)) is not None}
NOT_RUN = [block for block in BLOCKS if block.startswith("# Needs an installation")]
PLAIN = [block for block in BLOCKS if block not in NAMED.values() and block not in NOT_RUN]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, block in NAMED.items():
        (tmp_path / name).write_text(block, "utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_of_block_was_found() -> None:
    assert sorted(NAMED) == [
        "notebook_provider.py",
        "pytest.ini",
        "test_notebook_provider_compliance.py",
        "test_notebook_provider_isolation.py",
    ]
    assert (len(PLAIN), len(NOT_RUN)) == (2, 1)


@pytest.mark.parametrize("block", PLAIN, ids=["use", "registration"])
def test_block_runs(folder: Path, block: str) -> None:
    run(folder, "-c", block)


def test_the_provider_of_the_guide_keeps_the_contract(folder: Path) -> None:
    run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize("block", NOT_RUN)
def test_block_that_needs_an_installation_compiles(block: str) -> None:
    compile(block, str(GUIDE), "exec")
