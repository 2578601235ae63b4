"""Earlier versions of this code, taken from the repository's history: those from which the schema was changed next."""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.support.nursery import ROOT

VERSIONS = ROOT / "migrations/versions"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the code.

    Attributes:
        commit: Its commit.
        head: The newest revision of the schema that it knows.
    """

    commit: str
    head: str

    def __str__(self) -> str:
        return f"{self.head}-{self.commit[:7]}"

    def unpack(self, directory: Path) -> None:
        """Its packages, in `directory`."""
        archive = _git("archive", "--format=tar", self.commit, "cloud", "src", "migrations")
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            # The archive is git's own; 3.11.0 to 3.11.3 know no filter.
            tar.extractall(directory, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]  # noqa: S202


def versions_before_a_change_of_schema() -> list[Version]:
    """For every revision but the first, the version of the code just before it came; oldest first, each once.

    Empty where there is no history: in a source distribution, or in a clone without it.
    """
    revisions = sorted(path.name for path in VERSIONS.glob("[0-9]*.py"))
    found: dict[str, Version] = {}
    try:
        for name in revisions[1:]:
            # Along the line of what was released; what lies on a branch that was merged, or was taken back before it
            # came again, nobody ever had.
            path = f"migrations/versions/{name}"
            added = _git("log", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "--", path).split()
            if not added:
                continue  # not committed yet
            commit = _git("rev-parse", f"{added[0].decode()}^").decode().strip()
            there = _git("ls-tree", "--name-only", commit, "migrations/versions/").decode().splitlines()
            heads = sorted(Path(path).name[:4] for path in there if Path(path).name[:4].isdigit())
            found.setdefault(commit, Version(commit, heads[-1]))
    except (OSError, subprocess.CalledProcessError):
        return []
    return list(found.values())


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout
