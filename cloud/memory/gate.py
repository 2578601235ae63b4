"""The recall gate: whether a new embedding model finds a tenant's own memories at least as well as the one in use.

There are no labels, so questions are made of the memories themselves, and each has one known answer:

- *fragment*: some words of a memory, in order; the memory is the answer.
- *neighbour*: what was said next to a memory in its session; the memory is the answer and the question's own memory is
  left out. Neighbours share their subject and few of their words, as questions and answers do.

Both models answer the same questions, in two rankings: the mix that retrieve uses, and the vectors alone, where a worse
model cannot hide behind the words. A model passes if in both it loses no more than the tolerance.

Questions, answers and texts stay in this process's memory; what leaves it are numbers.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.memory.model import HotMemory
from cloud.memory.snapshots import entry_of
from src.memory.entries import session_of
from src.memory.ranking import IndexSnapshot
from src.memory.scoring import RankingWeights

DEPTH: Final = 10
QUESTIONS_PER_TENANT: Final = 200
PEOPLE_PER_TENANT: Final = 20
_QUESTIONS_PER_PERSON: Final = 40
_WORDS_MIN: Final = 4
_SHARE: Final = 4
"""A fragment is one word in so many."""

Embed = Callable[[Sequence[str]], NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class Question:
    """A text, the memory that answers it, and one that may not, if any."""

    text: str
    answer: str
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Means over `questions` questions.

    Attributes:
        questions: How many.
        recall: Share of the answers among the first `DEPTH` results.
        mrr: Mean of 1 through the answer's place there, 0 where it is not among them.
    """

    questions: int
    recall: float
    mrr: float

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        return {"questions": self.questions, f"recall@{DEPTH}": round(self.recall, 4), "mrr": round(self.mrr, 4)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models' scores by ranking: `mixed` and `dense`, or `labelled`."""

    old: Mapping[str, Score]
    new: Mapping[str, Score]

    @property
    def questions(self) -> int:
        """How many questions were asked."""
        return max((score.questions for score in self.old.values()), default=0)

    def losses(self) -> dict[str, float]:
        """By ranking, what the new model's recall or MRR is worse by, whichever is worse by more."""
        return {
            name: max(old.recall - self.new[name].recall, old.mrr - self.new[name].mrr)
            for name, old in self.old.items()
        }

    def passes(self, tolerance: float) -> bool:
        """Whether no ranking loses more than `tolerance`; without any question nothing speaks against it."""
        return all(loss <= tolerance for loss in self.losses().values())

    def document(self) -> dict[str, object]:
        """Numbers alone."""
        return {name: {"old": self.old[name].document(), "new": self.new[name].document()} for name in sorted(self.old)}


Ranks = dict[str, list[int | None]]
"""By ranking, the place of each question's answer, from 1; `None` where it is not among the first ones."""


def questions(memories: Sequence[HotMemory], chance: random.Random) -> list[Question]:
    """Questions to one person's memories, at most a few dozen."""
    fragments = [Question(_fragment(m.envelope.content, chance), m.memory_id) for m in memories if _long(m)]
    chosen = chance.sample(fragments, min(len(fragments), _QUESTIONS_PER_PERSON // 2))
    sessions: dict[str, list[HotMemory]] = {}
    for memory in sorted(memories, key=lambda one: (one.created_at, one.memory_id)):
        session = session_of(memory.metadata)
        if session is not None and _long(memory):
            sessions.setdefault(session, []).append(memory)
    pairs = [
        Question(second.envelope.content, first.memory_id, second.memory_id)
        for said in sessions.values()
        for first, second in zip(said, said[1:], strict=False)
    ]
    return chosen + chance.sample(pairs, min(len(pairs), _QUESTIONS_PER_PERSON // 2))


def ranks(
    memories: Sequence[HotMemory],
    vectors: Sequence[NDArray[np.int8]],
    asked: Sequence[Question],
    embed: Embed,
    weights: RankingWeights,
) -> Ranks:
    """Where one model puts the answers to questions about one person."""
    if not asked:
        return {"mixed": [], "dense": []}
    entries = [entry_of(memory, vector) for memory, vector in zip(memories, vectors, strict=True)]
    index = IndexSnapshot.empty(vectors[0].shape[0]).replaced(entries, ())
    dense = replace(weights, lexical=0.0, dense=1.0, neighbours=0.0, names=0.0, dates=0.0, recency=0.0, confidence=0.0)
    found: Ranks = {"mixed": [], "dense": []}
    for question, vector in zip(asked, embed([question.text for question in asked]), strict=True):
        allowed = set(index.ids()) - {question.left_out}
        for name, mix in (("mixed", weights), ("dense", dense)):
            best = [one.id for one in index.rank(question.text, vector, limit=DEPTH, allowed=allowed, weights=mix)]
            found[name].append(best.index(question.answer) + 1 if question.answer in best else None)
    return found


def score(places: Iterable[int | None]) -> Score:
    """The means over places of answers."""
    known = list(places)
    if not known:
        return Score(0, 0.0, 0.0)
    return Score(
        questions=len(known),
        recall=statistics.fmean(place is not None for place in known),
        mrr=statistics.fmean(0.0 if place is None else 1.0 / place for place in known),
    )


def compared(old: Iterable[Ranks], new: Iterable[Ranks]) -> Comparison:
    """Two models' answers to the same questions, of any number of people."""
    sides = []
    for side in (list(old), list(new)):
        names = sorted({name for found in side for name in found})
        sides.append({name: score(place for found in side for place in found[name]) for name in names})
    return Comparison(*sides)


def _long(memory: HotMemory) -> bool:
    return len(memory.envelope.content.split()) >= _WORDS_MIN


def _fragment(text: str, chance: random.Random) -> str:
    words = text.split()
    kept = sorted(chance.sample(range(len(words)), max(2, len(words) // _SHARE)))
    return " ".join(words[at] for at in kept)
