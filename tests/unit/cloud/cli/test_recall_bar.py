"""The ranking that is shipped finds what the public measure asks for, on data that is not in the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from cloud.cli.locomo import read_locomo
from cloud.cli.recall import DEPTHS, measure
from src.memory.embedding import WordLlamaEmbedder
from src.memory.providers.local import LocalMemoryProvider

VARIABLE: Final = "LUMINESCENT_RECALL_DATA"
BAR: Final = 0.70


async def test_recall_at_ten_is_at_least_the_bar() -> None:
    """As `bench recall --local` measures; that the cloud provider gives the same numbers is a law of its own."""
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"no data: set {VARIABLE} to a file in the form of LoCoMo; docs/ranking.md says where it is from")
    found = await measure(LocalMemoryProvider(embedder=WordLlamaEmbedder()), read_locomo(Path(path)))
    summary = found.summary()
    assert summary.questions >= 100, "too few questions to say anything"
    assert summary.recalls[DEPTHS.index(10)] >= BAR, summary.document()
