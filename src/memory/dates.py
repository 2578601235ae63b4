"""Months and years that a question names, such as "in May 2023": memories made then are likelier meant.

Read are English names of months and their usual short forms, years from 1900 to 2099, and numbers as `2023-05` and
`2023-05-07`. What is a word or a person's name too, such as `may` and `april`, counts beside a number or after a word
such as "in".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NAMES: Final = "january february march april may june july august september october november december".split()
_MONTHS: Final = {form: number for number, name in enumerate(_NAMES, start=1) for form in (name, name[:3])} | {
    "sept": 9
}
_AMBIGUOUS: Final = frozenset({"may", "mar", "march", "jan", "apr", "april", "jun", "june", "aug", "august"})
_BEFORE_A_DATE: Final = frozenset("in of since until till before after during by last next this early late mid".split())
_TOKEN: Final = re.compile(r"[^\W\d_]+|\d+(?:st|nd|rd|th)?", re.IGNORECASE)
_YEAR: Final = re.compile(r"\b(?:19|20)\d\d\b")
_NUMBERS: Final = re.compile(r"\b((?:19|20)\d\d)-(0[1-9]|1[0-2])\b")
_HINT: Final = re.compile(rf"\d|\b(?:{'|'.join(name[:3] for name in _NAMES)})", re.IGNORECASE)
_MONTHS_A_YEAR: Final = 12
_FIRST_YEAR: Final = 1970


@dataclass(frozen=True, slots=True)
class Period:
    """Months and years that a question names.

    Attributes:
        months: From 1 to 12; empty for any.
        years: Empty for any.
    """

    months: frozenset[int]
    years: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.months or self.years)

    def holds(self, created_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which moments lie in one of the months of one of the years, in UTC.

        Args:
            created_us: (n,) microseconds since 1970.

        Returns:
            (n,) bool.
        """
        count = created_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        held = np.ones(created_us.size, np.bool_)
        if self.months:
            held &= np.isin(count % _MONTHS_A_YEAR + 1, sorted(self.months))
        if self.years:
            held &= np.isin(count // _MONTHS_A_YEAR + _FIRST_YEAR, sorted(self.years))
        return held


_NO_PERIOD: Final = Period(frozenset(), frozenset())


def period(question: str) -> Period:
    """The months and years that `question` names; empty if it names none."""
    if _HINT.search(question) is None:
        # Nearly all.
        return _NO_PERIOD
    months = {int(found[2]) for found in _NUMBERS.finditer(question)}
    tokens = [token.casefold() for token in _TOKEN.findall(question)]
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token not in _MONTHS:
            continue
        if token not in _AMBIGUOUS or before in _BEFORE_A_DATE or before[:1].isdigit() or after[:1].isdigit():
            months.add(_MONTHS[token])
    return Period(frozenset(months), frozenset(int(year) for year in _YEAR.findall(question)))
