"""Neighbours: what was said just before and after, in the same session.

An answer often stands beside the words of the question: somebody asks, somebody else replies. So memories lend each
other some of their score, up to `REACH` steps along their session, by (created_at, id).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from src.memory.scoring import Scores

REACH: Final = 2
NO_SESSION: Final = 0

Links = NDArray[np.intp]
"""(2 · REACH, n): for each step, first the position of the memory before and then of the one after; -1 for none.

(2 · REACH, 0) if no memory has a session."""


def linked(sessions: NDArray[np.int64], created_us: NDArray[np.int64], id_of: Callable[[int], str]) -> Links:
    """Who is beside whom.

    Args:
        sessions: (n,) a number per session; `NO_SESSION` for a memory without one.
        created_us: (n,) time of creation, any unit.
        id_of: The id at a position; ids are distinct.
    """
    members = np.flatnonzero(sessions != NO_SESSION)
    if not members.size:
        return np.empty((2 * REACH, 0), np.intp)
    links = np.full((2 * REACH, sessions.size), -1, np.intp)
    order = members[np.lexsort((created_us[members], sessions[members]))]
    tied = (np.diff(sessions[order]) == 0) & (np.diff(created_us[order]) == 0)
    if tied.any():
        order = _by_id_within_ties(order, tied, id_of)
    ordered = sessions[order]
    for step in range(1, REACH + 1):
        same = ordered[step:] == ordered[:-step]
        before, after = order[:-step][same], order[step:][same]
        links[2 * step - 2, after] = before
        links[2 * step - 1, before] = after
    return links


def shares(lent: float) -> list[float]:
    """What each row of `Links` lends, if a memory lends `lent` of its score to the next: that much of it per step."""
    return [lent**step for step in range(1, REACH + 1) for _ in range(2)]


def with_neighbours(scores: Scores, links: Links, lent: float) -> Scores:
    """Each memory's score and the shares of its neighbours' added.

    Args:
        scores: (n,) float64.
        links: (2 · REACH, n), or none.
        lent: The share of the next, 0 to 1.

    Returns:
        (n,) float64.
    """
    if not links.size:
        return scores
    # The last one stands for nobody: position -1.
    padded = np.append(scores, 0.0)
    total = scores.copy()
    for beside, share in zip(links, shares(lent), strict=True):
        total += share * padded[beside]
    return total


def _by_id_within_ties(order: NDArray[np.intp], tied: NDArray[np.bool_], id_of: Callable[[int], str]) -> Links:
    """`order` with memories of one session and moment by id; `tied` says of each but the last if the next one ties."""
    positions = order.tolist()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], tied, [False])).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        positions[first : last + 1] = sorted(positions[first : last + 1], key=id_of)
    return np.array(positions, np.intp)
