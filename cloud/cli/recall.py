"""Recall of a provider: stores conversations, asks their questions, and counts which evidence comes back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from cloud.cli.locomo import TURN, Conversation, Question
from src.memory.schemas import Memory
from src.memory.scoring import RankingWeights

DEPTHS: Final = (5, 10, 20)
_AT_ONCE: Final = 500


class Measured(Protocol):
    """What of a provider is measured."""

    async def store_many(self, memories: Sequence[Memory], context: Mapping[str, object], /) -> list[str]:
        """Store all of the memories or none."""
        ...

    async def retrieve(self, query: str, user_id: str, limit: int = ...) -> list[Memory]:
        """The person's memories that fit the query best, best first."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question.

    Attributes:
        user_id: The conversation.
        category: The question's.
        recalls: For each of `DEPTHS`, the share of the evidence among the first so many results.
        reciprocal_rank: 1 through the place of the first evidence among the first `DEPTHS[-1]`; 0 if none is there.
        took_s: Seconds that `retrieve` took.
    """

    user_id: str
    category: int
    recalls: tuple[float, ...]
    reciprocal_rank: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over `questions` questions."""

    questions: int
    recalls: tuple[float, ...]
    mrr: float

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        recalls = {f"recall@{depth}": round(recall, 4) for depth, recall in zip(DEPTHS, self.recalls, strict=True)}
        return {"questions": self.questions, **recalls, "mrr": round(self.mrr, 4)}


@dataclass(frozen=True, slots=True)
class Recall:
    """All answers of a provider.

    Attributes:
        memories: How many it stored.
        stored_s: Seconds until all were stored, and settled where that was to be waited for.
        answers: In the order of the questions.
    """

    memories: int
    stored_s: float
    answers: tuple[Answer, ...] = field(repr=False)

    def summary(self, *, category: int | None = None, user_id: str | None = None) -> Summary:
        """The means over all questions, or over those of one category or conversation."""
        chosen = [
            answer
            for answer in self.answers
            if category in (None, answer.category) and user_id in (None, answer.user_id)
        ]
        if not chosen:
            return Summary(0, (0.0,) * len(DEPTHS), 0.0)
        return Summary(
            questions=len(chosen),
            recalls=tuple(statistics.fmean(depth) for depth in zip(*(a.recalls for a in chosen), strict=True)),
            mrr=statistics.fmean(answer.reciprocal_rank for answer in chosen),
        )

    def latency_ms(self) -> tuple[float, float]:
        """p50 and p95 of `retrieve` in milliseconds; zeros without questions."""
        took = sorted(answer.took_s * 1000 for answer in self.answers)
        return (took[len(took) // 2], took[len(took) * 95 // 100]) if took else (0.0, 0.0)


async def measure(
    provider: Measured,
    conversations: Iterable[Conversation],
    *,
    settle: Callable[[], Awaitable[None]] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Recall:
    """Store every turn of the conversations and ask every question of them.

    Args:
        provider: What is measured; it holds nothing of these persons yet.
        conversations: What is stored and asked.
        settle: Waits until what was stored is where it stays; only then it is asked.
        progress: Told how many of all memories and questions are done.

    Raises:
        LuminescentError: The provider did not store or answer.
    """
    held = list(conversations)
    done, total = 0, sum(len(each.memories) + len(each.questions) for each in held)
    begun = time.perf_counter()
    for conversation in held:
        for at in range(0, len(conversation.memories), _AT_ONCE):
            batch = conversation.memories[at : at + _AT_ONCE]
            await provider.store_many(batch, {})
            done += len(batch)
            progress(done, total)
    if settle is not None:
        await settle()
    stored_s = time.perf_counter() - begun
    answers = []
    for conversation in held:
        for question in conversation.questions:
            answers.append(await _answer(provider, conversation.user_id, question))
            done += 1
            progress(done, total)
    return Recall(sum(len(conversation.memories) for conversation in held), stored_s, tuple(answers))


async def _answer(provider: Measured, user_id: str, question: Question) -> Answer:
    begun = time.perf_counter()
    found = await provider.retrieve(question.text, user_id, limit=DEPTHS[-1])
    took_s = time.perf_counter() - begun
    turns = [str(memory.metadata[TURN]) for memory in found]
    recalls = tuple(len(question.evidence & set(turns[:depth])) / len(question.evidence) for depth in DEPTHS)
    ranks = (place for place, turn in enumerate(turns, 1) if turn in question.evidence)
    return Answer(user_id, question.category, recalls, 1 / next(ranks, float("inf")), took_s)


def ablations(weights: RankingWeights) -> list[tuple[str, RankingWeights]]:
    """Weights by what they show: the parts put together one after the other, then all without one of them."""
    mixed = replace(weights, neighbours=0.0, names=0.0, dates=0.0, recency=0.0, confidence=0.0)
    lent = replace(mixed, neighbours=weights.neighbours)
    named = replace(lent, names=weights.names)
    return [
        ("dense alone", replace(mixed, lexical=0.0)),
        ("lexical alone", replace(mixed, dense=0.0)),
        ("lexical and dense", mixed),
        ("… and neighbours", lent),
        ("… and names", named),
        ("… and dates", replace(named, dates=weights.dates)),
        ("as set", weights),
        ("without lexical", replace(weights, lexical=0.0)),
        ("without dense", replace(weights, dense=0.0)),
        ("without neighbours", replace(weights, neighbours=0.0)),
        ("without names", replace(weights, names=0.0)),
        ("without dates", replace(weights, dates=0.0)),
        ("recency 0.2", replace(weights, recency=0.2)),
        ("confidence 0.2", replace(weights, confidence=0.2)),
    ]
