"""The page's pictures, as PNG and SVG; needs matplotlib, which is in the lock of the benchmarks alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.bars import PERSISTENT_PEERS, at
from tests.bench.report import KINDS, WORDS

# The same results give the same files.
mpl.rcParams["svg.hashsalt"] = "luminescent-cloud"
_NAMES = ("ours", *PERSISTENT_PEERS, "local")


def draw(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Every picture that the results are enough for; the files."""
    directory.mkdir(parents=True, exist_ok=True)
    made = _side_by_side(document, directory)
    for kind in KINDS:
        made += _growth(document, kind, directory)
    return made


def _side_by_side(document: Mapping[str, Any], directory: Path) -> list[Path]:
    figure, axes = _figure("p95, one caller")
    operations = list(WORDS)
    width = 0.8 / len(_NAMES)
    for at_, name in enumerate(_NAMES):
        heights = [at(document, "side_by_side", "cells", f"{each}/1", name, "p95") or 0 for each in operations]
        places = [number + at_ * width for number in range(len(operations))]
        axes.bar(places, heights, width, label=at(document, "titles", name) or name)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(operations))], list(WORDS.values()))
    axes.set_yscale("log")
    axes.set_ylabel("ms")
    axes.legend(fontsize="small")
    return _saved(figure, directory / "side-by-side")


def _growth(document: Mapping[str, Any], kind: str, directory: Path) -> list[Path]:
    points = sorted(
        (p for p in (document.get("growth") or {}).values() if p["kind"] == kind), key=lambda p: int(p["number"])
    )
    if not points:
        return []
    figure, axes = _figure(f"p95, one caller; {KINDS[kind][1]}")
    for operation, words in WORDS.items():
        found = [(p["number"], at(p["cells"], operation, "p95")) for p in points]
        known = [(number, ms) for number, ms in found if ms is not None]
        axes.plot([number for number, _ in known], [ms for _, ms in known], marker="o", label=words)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(KINDS[kind][0].lower())
    axes.set_ylabel("ms")
    axes.legend(fontsize="small")
    return _saved(figure, directory / f"growth-{kind}")


def _figure(title: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    axes.set_title(title, fontsize="medium")
    axes.grid(visible=True, axis="y", alpha=0.3)
    return figure, axes


def _saved(figure: Figure, path: Path) -> list[Path]:
    made = [path.with_suffix(".svg"), path.with_suffix(".png")]
    figure.savefig(made[0], metadata={"Date": None})
    figure.savefig(made[1], dpi=120, metadata={"Software": None})
    plt.close(figure)
    return made
