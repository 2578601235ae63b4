"""Terms: what lexical ranking compares, in whatever script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.memory.languages import LANGUAGES, language_of
from src.memory.text import label, query_terms, split, terms


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
        ("use東京here", ["use", "東", "京", "東京"]),
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


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("german", "die Häuser", "das Haus"),
        ("german", "kündigte", "kündigten"),
        ("french", "les chansons", "la chanson"),
        ("spanish", "canciones", "la canción"),
        ("russian", "города", "в городе"),
        ("turkish", "evlerde", "ev"),
    ],
)
def test_forms_of_a_word_meet_in_their_own_language(language: str, one: str, other: str) -> None:
    assert terms(one, language) == terms(other, language)


def test_words_of_a_query_have_one_form_per_language_that_the_memories_have() -> None:
    assert query_terms("Häuser, Ada!", ["english", "german"]) == [("haus", "häuser"), ("ada",)]
    assert query_terms("Häuser, Ada!", ["german"]) == [("haus",), ("ada",)]
    assert query_terms("Häuser", []) == []
    assert query_terms("die Tokyo 東京", ["german"]) == [("tokyo",), ("東",), ("京",), ("東京",)]


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.just("editing editor edits"), st.data())
def test_a_text_asks_for_exactly_its_own_terms(text: str, data: st.DataObject) -> None:
    languages = data.draw(st.lists(st.sampled_from(LANGUAGES), unique=True, max_size=3))
    wanted = query_terms(text, languages)
    spread = [term for forms in wanted for term in forms]
    assert len(spread) == len(set(spread))
    assert all(forms == tuple(sorted(forms)) and forms for forms in wanted)
    for language in languages:
        assert set(terms(text, language)) <= set(spread)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada: I moved", "Ada"),
        ("  Ada Lane：\u3000yes", "Ada Lane"),
        ("see https://example.org", ""),
        ("https://example.org", ""),
        ("12:30 is late", ""),
        ("no label", ""),
        ("one two three four five: x", ""),
        ("first line\nAda: second", ""),
        (f"{'x' * 41}: y", ""),
    ],
)
def test_a_label_is_what_stands_before_the_first_colon(text: str, expected: str) -> None:
    assert label(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She prefers to deploy on Fridays", "english"),
        ("Er möchte nicht am Freitag ausliefern, weil das Team dann frei hat", "german"),
        ("Elle ne veut pas de réunion le lundi", "french"),
        ("No quiere reuniones los lunes por la mañana", "spanish"),
        ("Non vuole riunioni il lunedì, perché lavora da casa", "italian"),
        ("Não quer reuniões na segunda, porque trabalha em casa", "portuguese"),
        ("Zij wil geen vergadering op maandag", "dutch"),
        ("Hon vill inte ha möten på måndag", "swedish"),
        ("Hän ei halua kokousta, koska se on liian aikaisin", "finnish"),
        ("Она не хочет встреч в понедельник", "russian"),
        ("Δεν θέλει συναντήσεις τη Δευτέρα", "greek"),
        ("সোমবার নয়", "english"),
        ("वह सोमवार को बैठक नहीं चाहती", "hindi"),
        ("La Croix", "english"),
        ("東京に住んでいる", "english"),
        ("", "english"),
    ],
)
def test_the_language_of_a_text(text: str, expected: str) -> None:
    assert language_of(split(text).words) == expected
