"""Terms: what lexical ranking compares, in whatever script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.memory.text import terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Editors EDITOR editor's editing", ["editor", "editor", "editor", "edit"]),
        ("the user_id of get_user_id()", ["user", "id", "get", "user", "id"]),
        ("I don't like C++ or R2-D2", ["like", "c", "r2", "d2"]),
        ("", []),
        ("the of and — … !?", []),
        ("Ｃａｆé CAFE\u0301", ["café", "café"]),
        ("Straße STRASSE", ["strass", "strass"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Привет, мир", ["привет", "мир"]),
        ("東京都", ["東", "京", "都", "東京", "京都"]),
        ("use東京now", ["use", "now", "東", "京", "東京"]),
        ("猫", ["猫"]),
        ("ภาษา", ["ภ", "า", "ษ", "า", "ภา", "าษ", "ษา"]),
        ("🚀 launch 🚀", ["launch"]),
    ],
)
def test_terms_of_a_text(text: str, expected: list[str]) -> None:
    assert sorted(terms(text)) == sorted(expected)


@given(st.text(), st.text())
def test_words_of_two_texts_are_the_words_of_both(one: str, other: str) -> None:
    # A space before combining marks joins what stands on both sides by normalization, so a newline too.
    assert terms(f"{one}\n.\n{other}") == terms(one) + terms(other) or not (one.isascii() and other.isascii())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_case_makes_no_difference(text: str) -> None:
    assert terms(text.casefold()) == terms(text) or not text.isascii()
