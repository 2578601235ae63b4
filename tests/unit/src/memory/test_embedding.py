"""The vector of a text depends on that text alone, and the default model needs no network and no configuration."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from src.memory.embedding import Embedder, HashingEmbedder, WordLlamaEmbedder, quantize

EMBEDDERS = [WordLlamaEmbedder(), HashingEmbedder()]
well_formed = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(params=EMBEDDERS, ids=lambda embedder: embedder.name)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return request.param


def test_rows_are_unit_vectors_and_zero_without_tokens(embedder: Embedder) -> None:
    rows = embedder.embed(["which editor?", ""])
    assert rows.shape == (2, embedder.dimensions)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows[0]) == pytest.approx(1.0, abs=1e-6)
    assert not rows[1].any()
    assert embedder.embed([]).shape == (0, embedder.dimensions)
    assert embedder.name
    assert embedder.version


@settings(max_examples=40, deadline=None)
@given(st.lists(well_formed, min_size=1, max_size=5), well_formed)
@pytest.mark.parametrize("embedder", EMBEDDERS, ids=lambda embedder: embedder.name)
def test_company_does_not_change_a_vector(embedder: Embedder, texts: list[str], other: str) -> None:
    together = embedder.embed([*texts, other * 50])
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.array_equal(together[: len(texts)], alone)


def test_long_texts_are_embedded(embedder: Embedder) -> None:
    long = "release notes " * 4000
    close, far = embedder.embed([long])[0] @ embedder.embed(["release notes", "breakfast"]).T
    assert close > 0.9
    assert close > far


def test_likeness_of_meaning_is_likeness_of_vectors() -> None:
    query, close, far = WordLlamaEmbedder().embed(["car", "automobile", "philosophy"])
    assert query @ close > query @ far + 0.2


def test_the_tokenizer_keeps_no_texts() -> None:
    script = """
import os
from src.memory.embedding import WordLlamaEmbedder
embedder = WordLlamaEmbedder()
texts = [f"note {number} " + "personalwords" * 13 for number in range(11_000)]
for text in texts[:1_000]: embedder.embed([text])
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
for text in texts[1_000:]: embedder.embed([text])
print(resident() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    # With the cache of 10,000 texts of 180 characters, each with its tokens, it was 55 MB.
    assert grown < 1_000_000


def test_threads_get_the_same_vectors() -> None:
    embedder = WordLlamaEmbedder()
    texts = [f"note {n}" for n in range(200)]
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda text: embedder.embed([text])[0], texts))
    assert np.array_equal(np.stack(rows), embedder.embed(texts))


def test_loading_opens_no_socket_and_leaves_logging_alone() -> None:
    script = """
import logging, socket, sys
def refuse(*args, **kwargs):
    sys.exit("a socket was opened")
socket.socket.connect = socket.getaddrinfo = refuse
from concurrent.futures import ThreadPoolExecutor
from src.memory import embedding
from src.memory.embedding import WordLlamaEmbedder
embedder = WordLlamaEmbedder()
assert "wordllama" not in sys.modules, "loaded too early"
with ThreadPoolExecutor(4) as threads:
    list(threads.map(lambda _: embedder.embed(["x"]), range(4)))
assert embedding._load_wordllama.cache_info().misses == 1, "loaded twice"
root = logging.getLogger()
assert (root.handlers, root.level) == ([], logging.WARNING), "logging was configured"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert logging.getLogger("src").level == logging.NOTSET


@given(nps.arrays(np.float32, (3, 8), elements=st.floats(-1, 1, width=32)))
def test_quantizing_keeps_directions(rows: np.ndarray) -> None:
    quantized = quantize(rows)
    assert quantized.dtype == np.int8
    for row, small in zip(rows.astype(np.float64), quantized.astype(np.float64), strict=True):
        if not row.any():
            assert not small.any()
            continue
        assert abs(small).max() == 127
        # Each component is at most half a step off.
        assert np.abs(small - row * (127 / np.abs(row).max())).max() <= 0.5001


def test_quantizing_nothing_gives_nothing() -> None:
    assert quantize(np.zeros((0, 8), np.float32)).shape == (0, 8)
