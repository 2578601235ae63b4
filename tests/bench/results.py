"""The results of a run: one file of JSON, written whole after every part, so that a run which was ended goes on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.side import ROOT

FILE = "results.json"
Json = dict[str, Any]


class Results:
    """What is known so far.

    Args:
        directory: Where the file is.
        plan: What the run does; a file of another plan is refused.

    Raises:
        SystemExit: There is a file of another plan, or of another state of the code.
    """

    def __init__(self, directory: Path, plan: Mapping[str, object], command: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / FILE
        here: Json = {"plan": dict(plan), "commit": commit(), "machine": machine(), "command": command}
        self.document: Json = json.loads(self._file.read_text()) if self._file.exists() else {}
        if self.document:
            for name in ("plan", "commit"):
                if self.document[name] != json.loads(json.dumps(here[name])):
                    raise SystemExit(f"{self._file} is of another {name}: remove it or name another directory")
            return
        self.document = here | {"begun": now(), "versions": {"python": platform.python_version()}}
        self._write()

    def has(self, *path: str) -> bool:
        """Whether that part is done."""
        return self._at(path) is not None

    def record(self, value: object, *path: str) -> None:
        """That part is done, and on disk when this returns."""
        *above, name = path
        place = self.document
        for step in above:
            place = place.setdefault(step, {})
        place[name] = value
        self.document["ended"] = now()
        self._write()

    def log(self, name: str) -> Path:
        """File beside the results for what a contender says."""
        return self._file.with_name(f"{name}.log")

    def _at(self, path: tuple[str, ...]) -> object | None:
        place: Any = self.document
        for step in path:
            if not isinstance(place, dict) or step not in place:
                return None
            place = place[step]
        return place

    def _write(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self.document, indent=1) + "\n")
        fresh.replace(self._file)


def now() -> str:
    """The present, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """The code's commit, and whether files were changed since; `unknown` outside a checkout."""
    asked = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> Json:
    """What it runs on, without a name or a path of it."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "processor": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory[0] / (1 << 20), 1) if memory else None,
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _file_system(Path("/tmp")),  # where the homes are
    }


def version(package: str) -> str:
    """Of an installed distribution."""
    return importlib.metadata.version(package)


def _file_system(directory: Path) -> str:
    """Kind of the file system that holds the directory."""
    kinds = {line.split()[1]: line.split()[2] for line in _lines("/proc/mounts")}
    return next(kinds[str(place)] for place in (directory, *directory.parents) if str(place) in kinds)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
