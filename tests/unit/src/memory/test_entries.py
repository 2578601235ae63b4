"""Entries: which metadata ranking reads, and how sessions compare."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from src.memory.entries import index_entry, session_of
from src.memory.languages import LANGUAGES, language_of, named_language, stop_words

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "alike",
    [
        [{"session": 3}, {"session": "3"}, {"session": 3, "turn": 5, "conversation": None}],
        [{"conversation": "a", "session": 1}, {"session": "1", "conversation": "a", "conversation_id": ""}],
        [{}, {"session": None}, {"session": ""}, {"session": [1]}, {"session": True}, {"session": 1.0}],
    ],
)
def test_sessions_that_are_the_same(alike: list[dict[str, object]]) -> None:
    assert len({session_of(metadata) for metadata in alike}) == 1


def test_sessions_that_are_not() -> None:
    different: list[dict[str, object]] = [
        {},
        {"session": 1},
        {"session": "a"},
        {"conversation": 1},
        {"conversation": "a"},
        {"conversation_id": "a"},
        {"conversation": "a", "session": 1},
        {"conversation": "a", "session": "a"},
    ]
    assert len({session_of(metadata) for metadata in different}) == len(different)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"language": "de"}, "german"),
        ({"language": "pt-BR"}, "portuguese"),
        ({"language": " French "}, "french"),
        ({"language": "NO_bok"}, "norwegian"),
        ({"language": "tlh"}, None),
        ({"language": 7}, None),
        ({}, None),
    ],
)
def test_metadata_names_the_language_or_the_content_has_to(metadata: dict[str, object], expected: str | None) -> None:
    vector = np.zeros(2, np.int8)
    assert index_entry("a", "likes tea", vector, MOMENT, confidence=1, metadata=metadata).language == expected


def test_every_language_with_stop_words_is_recognized_by_them() -> None:
    for language in LANGUAGES:
        own = [
            word for word in stop_words(language) if not any(word in stop_words(o) for o in LANGUAGES if o != language)
        ]
        assert not stop_words(language) or language_of(own) == language
    assert named_language("english") == LANGUAGES[0] == "english"
