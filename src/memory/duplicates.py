"""Duplicates: which of a person's memories a new one repeats, word for word or nearly.

- Exact: the texts are equal after compatibility normalization, case folding and joining of white space.
- Near: the cosine of the embeddings is at least `NEAR_COSINE`, and of all terms of the two texts at least the share
  `NEAR_OVERLAP` stands in both.

A near duplicate needs both: embeddings alone call any two sentences about one topic alike, words alone miss what was
put in another order or form. It is a hint for whoever extracts memories. Nothing is dropped or merged because of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from src.memory.languages import language_of
from src.memory.lifecycle import Duplicate
from src.memory.ranking import IndexSnapshot
from src.memory.text import split, terms_of

NEAR_COSINE: Final = 0.8
NEAR_OVERLAP: Final = 0.6
MAX_DUPLICATES: Final = 10


def find_duplicates(
    content: str, vector: NDArray[np.int8], index: IndexSnapshot, contents: Mapping[str, str]
) -> tuple[Duplicate, ...]:
    """What `content` repeats, exact ones first, then the most similar, at most `MAX_DUPLICATES`.

    Args:
        content: The new text.
        vector: (d,) int8, its embedding.
        index: Holds the embeddings of the memories.
        contents: Their texts by id; only these are compared.

    Returns:
        The same for the same memories, however the index came to be.
    """
    plain, words = _normalized(content), _words(content)
    found: list[Duplicate] = []
    for memory_id, cosine in index.similarities(vector):
        other = contents.get(memory_id)
        if other is None:
            continue
        if _normalized(other) == plain:
            found.append(Duplicate(memory_id, exact=True, similarity=1.0))
        elif cosine >= NEAR_COSINE and _overlap(words, _words(other)) >= NEAR_OVERLAP:
            found.append(Duplicate(memory_id, exact=False, similarity=cosine))
    found.sort(key=lambda duplicate: (not duplicate.exact, -duplicate.similarity, duplicate.memory_id))
    return tuple(found[:MAX_DUPLICATES])


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _words(text: str) -> frozenset[str]:
    parts = split(text)
    return frozenset(terms_of(parts, language_of(parts.words)))


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0
