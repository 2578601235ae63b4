"""What counts as a duplicate, by the documented thresholds and the default model."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from src.memory.duplicates import MAX_DUPLICATES, find_duplicates
from src.memory.embedding import WordLlamaEmbedder, quantize
from src.memory.entries import IndexEntry
from src.memory.lifecycle import Duplicate
from src.memory.ranking import IndexSnapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def duplicates(content: str, *others: str) -> tuple[Duplicate, ...]:
    vectors = quantize(WordLlamaEmbedder().embed([content, *others]))
    index = IndexSnapshot.empty(vectors.shape[1])
    entries = [IndexEntry(str(n), text, vectors[n + 1], NOW) for n, text in enumerate(others)]
    return find_duplicates(content, vectors[0], index.replaced(entries, ()), dict(map(_named, enumerate(others))))


def _named(numbered: tuple[int, str]) -> tuple[str, str]:
    return str(numbered[0]), numbered[1]


@pytest.mark.parametrize("other", ["lives in  BERLIN", " Lives in Berlin\n", "Ｌives in Berlin"])
def test_case_space_and_forms_of_characters_make_no_difference(other: str) -> None:
    assert duplicates("Lives in Berlin", other) == (Duplicate("0", exact=True, similarity=1.0),)


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Drinks oat milk coffee in the morning", "Drinks coffee with oat milk every morning", True),
        ("Alice moved to Berlin in May 2023", "In May 2023 Alice moved to Berlin.", True),
        ("Alice moved to Berlin in May 2023", "Alice moved to Munich in May 2023", False),
        ("Deploys to production from the release branch", "Deploys to staging from the main branch", False),
        ("Has two cats", "Has three dogs", False),
    ],
)
def test_near_takes_both_the_meaning_and_the_words(one: str, other: str, near: bool) -> None:
    assert [found.exact for found in duplicates(one, other)] == ([False] if near else [])


def test_exact_ones_come_first_and_there_are_not_too_many() -> None:
    others = ["Alice moved to Berlin in May 2023 again"] * 8 + ["alice moved to berlin in may 2023"] * 4
    found = duplicates("Alice moved to Berlin in May 2023", *others)
    assert [duplicate.exact for duplicate in found] == [True] * 4 + [False] * (MAX_DUPLICATES - 4)
    assert [duplicate.memory_id for duplicate in found[:4]] == ["10", "11", "8", "9"]


def test_what_is_not_compared_is_not_found() -> None:
    vectors = quantize(WordLlamaEmbedder().embed(["tea"]))
    index = IndexSnapshot.empty(vectors.shape[1]).replaced([IndexEntry("a", "tea", vectors[0], NOW)], ())
    assert find_duplicates("tea", vectors[0], index, {}) == ()
    assert find_duplicates("!", np.zeros_like(vectors[0]), index, {"a": "tea"}) == ()
