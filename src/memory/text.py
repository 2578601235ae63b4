"""Terms of a text: what lexical ranking compares.

Rules
1. Text is compatibility-normalized and case-folded, so `Ｃａｆé` and `café` give the same term.
2. A word is a run of letters, digits and combining marks of any script; everything else separates words.
3. English stop words are left out; English words are reduced to their Snowball stem. The stemmer leaves words of
   other scripts as they are.
4. Scripts written without spaces between words give every character and every pair of neighbours, so a query finds
   what stands in the middle of a sentence.
"""

from __future__ import annotations

import re
import threading
import unicodedata

import Stemmer

# Articles, pronouns, prepositions, auxiliaries, and what an apostrophe leaves of them.
_ENGLISH_STOP_WORDS = """
a about above after again all am an and any are aren as at be because been before being below between both but by
can could couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have
haven having he her here hers herself him himself his how i if in into is isn it its itself just ll m me more most
my myself no nor not now of off on once only or other our ours ourselves out over own re s same she should shouldn
so some such t than that the their theirs them themselves then there these they this those through to too under
until up ve very was wasn we were weren what when where which while who whom why will with would wouldn you your
yours yourself yourselves
"""
_STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())

# Thai and Lao, Burmese, Khmer, kana, Han, Hangul: a word there is not what stands between two spaces.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


class _WordCharacters(dict[int, int]):
    """Translation table that keeps the characters of words and turns all others into spaces."""

    def __missing__(self, code: int) -> int:
        kept = code if unicodedata.category(chr(code))[0] in "LNM" else 0x20
        self[code] = kept
        return kept


_word_characters = _WordCharacters()


class _Stemmers(threading.local):
    """One stemmer per thread: a Snowball stemmer keeps its working buffer between calls."""

    def __init__(self) -> None:
        # No cache of words: it would outlive the memories the words came from.
        self.english = Stemmer.Stemmer("english", 0)


_stemmers = _Stemmers()


def terms(text: str) -> list[str]:
    """The terms of `text` in order, with repetitions; empty for a text without words.

    Args:
        text: Any text without lone surrogates.

    Returns:
        Stemmed words, and single characters and pairs of unspaced scripts.
    """
    words: list[str] = []
    unspaced: list[str] = []
    for word in unicodedata.normalize("NFKC", text).casefold().translate(_word_characters).split():
        if word.isascii():
            if word not in _STOP_WORDS:
                words.append(word)
            continue
        for run in _UNSPACED.findall(word):
            unspaced.extend(run)
            unspaced.extend(run[at : at + 2] for at in range(len(run) - 1))
        words.extend(_UNSPACED.sub(" ", word).split())
    stems: list[str] = _stemmers.english.stemWords(words)
    return stems + unspaced
