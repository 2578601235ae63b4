"""Terms of a text: what lexical ranking compares.

Rules
1. Text is compatibility-normalized and case-folded, so `Ｃａｆé` and `café` give the same term.
2. A word is a run of letters, digits and combining marks of any script; everything else separates words.
3. Stop words of the text's language are left out, and its other words are reduced to their Snowball stem.
4. Scripts written without spaces between words give every character and every pair of neighbours, so a query finds
   what stands in the middle of a sentence.
5. A query has no language of its own, as a few words do not tell: each of its words is reduced once in every language
   that the memories have, and a memory matches by the stem of its own. So German questions find German memories and
   names are found in all.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

import Stemmer

from src.memory.languages import ENGLISH, stop_words

# Thai and Lao, Burmese, Khmer, kana, Han, Hangul: a word there is not what stands between two spaces.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
# Who speaks or what it is about, as in `Ada: I moved` or `Release plan: Friday`; not the beginning of an address.
_LABEL = re.compile(r"\s*([^:：\n]{1,40})[:：]\s")
_MAX_LABEL_WORDS = 4


class _WordCharacters(dict[int, int]):
    """Translation table that keeps the characters of words and turns all others into spaces."""

    def __missing__(self, code: int) -> int:
        kept = code if unicodedata.category(chr(code))[0] in "LNM" else 0x20
        self[code] = kept
        return kept


_word_characters = _WordCharacters()


class _Stemmers(threading.local):
    """One stemmer per thread and language: a Snowball stemmer keeps its working buffer between calls."""

    def __init__(self) -> None:
        self._made: dict[str, Stemmer.Stemmer] = {}

    def stems(self, words: list[str], language: str) -> list[str]:
        stemmer = self._made.get(language)
        if stemmer is None:
            # No cache of words: it would outlive the memories the words came from.
            stemmer = self._made[language] = Stemmer.Stemmer(language, 0)
        stems: list[str] = stemmer.stemWords(words)
        return stems


_stemmers = _Stemmers()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a text is made of, normalized and case-folded.

    Attributes:
        words: Those of scripts with spaces between words, in order.
        unspaced: Single characters and pairs of other scripts.
    """

    words: list[str]
    unspaced: list[str]


def split(text: str) -> Parts:
    """The parts of a text."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold().translate(_word_characters)
    if folded.isascii():
        return Parts(folded.split(), [])
    words: list[str] = []
    unspaced: list[str] = []
    for word in folded.split():
        if word.isascii():
            words.append(word)
            continue
        for run in _UNSPACED.findall(word):
            unspaced.extend(run)
            unspaced.extend(run[at : at + 2] for at in range(len(run) - 1))
        words.extend(_UNSPACED.sub(" ", word).split())
    return Parts(words, unspaced)


def terms(text: str, language: str = ENGLISH) -> list[str]:
    """The terms of `text` in order, with repetitions; empty for a text without words.

    Args:
        text: Any text without lone surrogates.
        language: One of `LANGUAGES`.

    Returns:
        Stemmed words, and single characters and pairs of unspaced scripts.
    """
    return terms_of(split(text), language)


def terms_of(parts: Parts, language: str) -> list[str]:
    """As `terms`, of a text that was split."""
    ignored = stop_words(language)
    return _stemmers.stems([word for word in parts.words if word not in ignored], language) + parts.unspaced


def query_terms(text: str, languages: Collection[str]) -> list[tuple[str, ...]]:
    """What to look for: for each distinct term of a query, the forms it has in memories of these languages.

    Args:
        text: Any text without lone surrogates.
        languages: The languages of the memories, of `LANGUAGES`.

    Returns:
        Tuples of distinct terms, sorted, in the order of the text; a term occurs in one of them only.
    """
    parts = split(text)
    words = list(dict.fromkeys(parts.words))
    forms: list[set[str]] = [set() for _ in words]
    for language in languages:
        ignored = stop_words(language)
        for word, stem, found in zip(words, _stemmers.stems(words, language), forms, strict=True):
            if word not in ignored:
                found.add(stem)
    seen: set[str] = set()
    wanted: list[tuple[str, ...]] = []
    for found in [*forms, *({term} for term in parts.unspaced)]:
        if found - seen:
            wanted.append(tuple(sorted(found - seen)))
            seen |= found
    return wanted


def label(text: str) -> str:
    """What stands before the colon that a text begins with, such as the name of who speaks; empty if nothing does."""
    found = _LABEL.match(text)
    return found[1] if found is not None and len(found[1].split()) <= _MAX_LABEL_WORDS else ""
