"""Dense vectors of texts: the port, the default model, and one without weights for tests.

Rules
1. The vector of a text depends on the text alone, to the last bit: not on what else is embedded in the same call.
   Ranking in memory and the stored vectors must agree.
2. Vectors are kept as int8. Their dot products are whole numbers, so scores do not depend on the order of additions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from src.memory.text import terms

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKENS_AT_ONCE = 2048
_WORDLLAMA_DIMENSIONS = 256


class Embedder(Protocol):
    """Turns texts into vectors; the same text gives the same vector, bit for bit, in whatever company."""

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def version(self) -> str:
        """Version of the model; vectors of different versions are not compared."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text.

        Args:
            texts: n texts without lone surrogates.

        Returns:
            (n, d) float32, rows of length 1; a row of zeros for a text without tokens.
        """
        ...


class WordLlamaEmbedder:
    """Mean of the WordLlama token vectors; the weights come with the installed package, nothing is downloaded.

    The model is loaded by the first call of `embed`, once per process, in 0.4 to 1 s; it takes 32 MB.
    """

    name = "wordllama-l2-supercat"

    def __init__(self, dimensions: int = 256) -> None:
        """The whole vectors, or their first `dimensions` alone: the model was trained so that those do as well."""
        if not 0 < dimensions <= _WORDLLAMA_DIMENSIONS:
            raise ValueError(f"dimensions must be 1 to {_WORDLLAMA_DIMENSIONS}")
        self.dimensions = dimensions
        self.version = importlib.metadata.version("wordllama")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the port says. A text is pooled on its own: padding a batch to one long text would take gigabytes."""
        model = _wordllama()
        sums = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for row, text in enumerate(texts):
            ids: list[int] = model.tokenizer.encode(text, add_special_tokens=False).ids
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                chosen = model.vectors.take(ids[start : start + _TOKENS_AT_ONCE], axis=0)
                sums[row] += chosen[:, : self.dimensions].sum(axis=0, dtype=np.float64)
        return _unit_rows(sums)


class HashingEmbedder:
    """Signed feature hashing of a text's terms: no weights, no network, the same on every machine. For tests."""

    name = "hashing"
    version = "1"

    def __init__(self, dimensions: int = 64) -> None:
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the port says; texts that share terms are close."""
        sums = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for row, text in enumerate(texts):
            for term in terms(text):
                digest = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
                sums[row, (digest >> 1) % self.dimensions] += 1.0 if digest & 1 else -1.0
        return _unit_rows(sums)


def quantize(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """The same directions in int8, each row scaled so that its largest component is ±127.

    Args:
        vectors: (n, d) float32, finite.

    Returns:
        (n, d) int8 from -127 to 127; zeros stay zeros.
    """
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    largest[largest == 0.0] = 1.0
    rows: NDArray[np.int8] = np.rint(wide / largest * 127.0).astype(np.int8)
    return rows


def _unit_rows(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, np.newaxis]
    lengths[lengths == 0.0] = 1.0
    rows: NDArray[np.float32] = (sums / lengths).astype(np.float32)
    return rows


@dataclass(frozen=True, slots=True)
class _WordLlamaModel:
    tokenizer: Tokenizer
    vectors: NDArray[np.float32]


_loading = threading.Lock()


def _wordllama() -> _WordLlamaModel:
    # `cache` alone would let two threads load at the same time.
    with _loading:
        return _load_wordllama()


@functools.cache
def _load_wordllama() -> _WordLlamaModel:
    with _root_logger_untouched():
        import wordllama

    # Without `cache_dir`, version 0.4.0 looks for the tokenizer where it is not, and would download it.
    folder = Path(wordllama.__file__).parent
    loaded = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    loaded.tokenizer.no_padding()
    forget_texts(loaded.tokenizer)
    return _WordLlamaModel(tokenizer=loaded.tokenizer, vectors=loaded.embedding)


def forget_texts(tokenizer: Tokenizer) -> None:
    """Let a tokenizer that was just made keep nothing of what it will be given.

    It would keep 10,000 words and what became of them, for models that do not split at spaces whole texts, and so
    people's words after they were deleted. Looking there takes longer than doing without, too.
    """
    tokenizer.model._resize_cache(0)


@contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """Undo what importing `wordllama` does to the application's logging: it calls `basicConfig(level=INFO)`."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
