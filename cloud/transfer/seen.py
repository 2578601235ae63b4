"""Remembers which ids a file has shown, at 8 bytes an id.

Digests stand in sorted runs of doubling length that are merged as they fill, so a question about a chunk is a few
binary searches, and a million ids take 8 MB where a set would take ten times that. The digest is keyed anew in each
process: nobody can make a file whose ids collide, and by chance one of a million ids does with a probability of
3 in 100 million.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SeenIds:
    """Ids of one file, in the order they come."""

    def __init__(self) -> None:
        self._key = os.urandom(16)
        self._runs: list[NDArray[np.uint64]] = []

    def repeated(self, ids: Sequence[str | None]) -> set[int]:
        """Places in `ids` whose id was shown before, here or in an earlier call; all of them count as shown now.

        Args:
            ids: Ids of the next entries; `None` for an entry without one, which is never a repetition.
        """
        places = [place for place, one in enumerate(ids) if one is not None]
        if not places:
            return set()
        digests = np.array([self._digest(ids[place]) for place in places], np.uint64)
        fresh, first = np.unique(digests, return_index=True)
        again = np.ones(len(places), bool)
        again[first] = False
        known = np.zeros(len(places), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            known |= run[at] == digests
        self._add(fresh)
        return {place for place, twice in zip(places, again | known, strict=True) if twice}

    def _digest(self, one: str | None) -> int:
        assert one is not None
        text = one.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._key).digest(), "big")

    def _add(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.union1d(self._runs.pop(), run)
        self._runs.append(run)
