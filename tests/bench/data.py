"""Invented sentences about nobody, made from a seed: the same for every contender, on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("preference", "fact", "decision")
SEED = 7

_SUBJECTS = """
the courier|the gardener|the night shift|the harbour office|the archive|the choir|the bakery|the survey team|the ferry
|the lighthouse keeper|the print shop|the workshop|the orchard|the reading circle|the observatory|the tram depot
|the glass studio|the seed bank|the weather station|the repair desk|the chess club|the map room|the tea house
""".replace("\n", "").split("|")
_VERBS = """
prefers|keeps|moved|reviewed|ordered|cancelled|painted|measured|postponed|sorted|repaired|borrowed|counted|labelled
|recommended|rejected|planned|translated|copied|delivered|returned|collected|replaced|described|tested|approved
""".replace("\n", "").split("|")
_KINDS_OF = """
green|wooden|old|second|quiet|heavy|narrow|bright|spare|northern|weekly|folded|numbered|striped|unsigned|early|broken
|borrowed|round|tall|local|winter|copper|linen|foreign|printed|sealed|silver|hidden|annual|distant|plain
""".replace("\n", "").split("|")
_THINGS = """
lantern|timetable|invoice|chart|kettle|ladder|manuscript|compass|crate|window|engine|cupboard|recipe|bridge|ticket
|violin|bench|catalogue|curtain|anchor|telescope|notebook|stamp|bicycle|carpet|barometer|clock|greenhouse|pulley
|shelf|sketch|blanket|wheel|envelope|signal|garden|pump|photograph|ledger|radio|basket|microscope|tile|hammock
""".replace("\n", "").split("|")
_PLACES = """
behind the mill|near the canal|in the cellar|on the roof|beside the station|at the old market|under the stairs
|in the north wing|along the quay|by the fountain|above the stables|in the courtyard|past the viaduct|at the ford
""".replace("\n", "").split("|")
_TIMES = """
every Monday|before the storm|until the end of March|since last autumn|twice a year|after the concert|on dry days
|before sunrise|during the fair|in the second week|whenever it snows|at low tide|after the audit|on public holidays
""".replace("\n", "").split("|")


@dataclass(frozen=True, slots=True)
class Item:
    """What becomes one memory.

    Attributes:
        text: About 100 characters.
        kind: One of `KINDS`.
        confidence: 0 to 1.
        project: A word to filter by.
    """

    text: str
    kind: str
    confidence: float
    project: str


def items(name: str, *, seed: int = SEED) -> Iterator[Item]:
    """Items without end; the same for the same name and seed."""
    draw = random.Random(f"{seed}/{name}")
    while True:
        text = (
            f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} the {draw.choice(_KINDS_OF)} {draw.choice(_THINGS)}"
            f" and the {draw.choice(_KINDS_OF)} {draw.choice(_THINGS)} {draw.choice(_PLACES)} {draw.choice(_TIMES)}"
        )
        yield Item(
            text=f"{text}, note {draw.randrange(10_000)}",
            kind=draw.choice(KINDS),
            confidence=round(draw.random(), 3),
            project=draw.choice(_THINGS),
        )


def queries(name: str, *, seed: int = SEED) -> Iterator[str]:
    """Questions without end."""
    draw = random.Random(f"{seed}/query/{name}")
    while True:
        thing = f"{draw.choice(_KINDS_OF)} {draw.choice(_THINGS)}"
        yield f"which {thing} {draw.choice(_PLACES)}, and {draw.choice(_TIMES)}?"


def person(number: int) -> str:
    """A person's name."""
    return f"person-{number:06}"
