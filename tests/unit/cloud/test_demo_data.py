"""The demo's data can be stored, tells the two tenants apart, and answers its own questions."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from importlib import resources

import pytest

from src.memory.embedding import WordLlamaEmbedder, quantize
from src.memory.ranking import IndexEntry, IndexSnapshot
from src.memory.schemas import Memory
from src.memory.text import terms
from src.memory.validation import accept

TENANTS = ("orrinvale-robotics", "saltmere-freight")
FIELDS = {"user_id", "content", "memory_type", "source", "confidence", "created_at", "metadata"}
OPTIONAL_FIELDS = {"raw_source", "expires_at"}
QUESTION_FIELDS = {"tenant", "user_id", "question", "expected_content_substring"}
EXPECTED_WITHIN = 5
# From here on an expiring memory of the demo can no longer be stored; see cloud/demo_data/README.md.
GOOD_UNTIL = datetime(2035, 12, 31, tzinfo=UTC)


@cache
def rows(tenant: str) -> tuple[dict[str, object], ...]:
    lines = (resources.files("cloud") / "demo_data" / f"{tenant}.jsonl").read_text("utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


@cache
def memories(tenant: str) -> tuple[Memory, ...]:
    return tuple(Memory.model_validate(row) for row in rows(tenant))


@cache
def questions() -> tuple[dict[str, str], ...]:
    return tuple(json.loads((resources.files("cloud") / "demo_data" / "questions.json").read_text("utf-8")))


def likeness(one: str, other: str) -> float:
    """Share of terms that two texts have in common, 0 to 1 (Jaccard)."""
    left, right = set(terms(one)), set(terms(other))
    return len(left & right) / len(left | right)


@pytest.mark.parametrize("tenant", TENANTS)
class TestMemories:
    def test_there_are_200_in_order_of_creation(self, tenant: str) -> None:
        made = [memory.created_at for memory in memories(tenant)]
        assert len(made) == 200
        assert made == sorted(made)

    def test_rows_have_the_documented_fields_and_no_others(self, tenant: str) -> None:
        for row in rows(tenant):
            assert set(row) - OPTIONAL_FIELDS == FIELDS

    def test_every_one_can_be_stored_for_years(self, tenant: str) -> None:
        for memory in memories(tenant):
            assert accept(memory, GOOD_UNTIL).content == memory.content

    def test_they_spread_over_2026_and_over_the_types(self, tenant: str) -> None:
        assert {memory.created_at.year for memory in memories(tenant)} == {2026}
        assert len({memory.created_at.month for memory in memories(tenant)}) >= 10
        by_type = Counter(memory.memory_type for memory in memories(tenant))
        assert len(by_type) == 3
        assert min(by_type.values()) >= 40

    def test_some_are_in_other_languages(self, tenant: str) -> None:
        languages = Counter(memory.metadata.get("language") for memory in memories(tenant))
        assert languages.keys() >= {"de", "es", "ja"}

    def test_no_two_say_nearly_the_same(self, tenant: str) -> None:
        closest = max(likeness(a.content, b.content) for a, b in itertools.combinations(memories(tenant), 2))
        assert closest < 0.4

    def test_turns_of_a_conversation_belong_to_one_person_and_follow_each_other(self, tenant: str) -> None:
        conversations: dict[str, list[Memory]] = {}
        for memory in memories(tenant):
            conversations.setdefault(memory.metadata["conversation"], []).append(memory)
        for turns in conversations.values():
            assert len({memory.user_id for memory in turns}) == 1
            numbers = [memory.metadata["turn"] for memory in turns]
            assert all(earlier < later for earlier, later in itertools.pairwise(numbers))

    def test_nothing_looks_like_an_address_or_a_telephone_number(self, tenant: str) -> None:
        for row in rows(tenant):
            text = json.dumps([row["content"], row.get("raw_source"), row["metadata"]], ensure_ascii=False)
            assert not re.search(r"\w@\w|https?://|\+\d[\d ()/-]{6,}", text)


def test_both_tenants_have_the_same_people_with_different_memories() -> None:
    ours, theirs = (memories(tenant) for tenant in TENANTS)
    assert {memory.user_id for memory in ours} == {memory.user_id for memory in theirs}
    for user_id, count in Counter(memory.user_id for memory in (*ours, *theirs)).items():
        assert count >= 40, user_id
    closest = max(likeness(a.content, b.content) for a in ours for b in theirs)
    assert closest < 0.4


class TestQuestions:
    def test_there_are_twelve_per_tenant(self) -> None:
        assert all(set(question) == QUESTION_FIELDS for question in questions())
        assert Counter(question["tenant"] for question in questions()) == dict.fromkeys(TENANTS, 12)

    def test_each_has_exactly_one_answer_which_is_the_asked_persons(self) -> None:
        for question in questions():
            answers = [
                (tenant, memory.user_id)
                for tenant in TENANTS
                for memory in memories(tenant)
                if question["expected_content_substring"] in memory.content
            ]
            assert answers == [(question["tenant"], question["user_id"])]

    def test_each_is_worded_differently_from_its_answer(self) -> None:
        for question in questions():
            answer = next(
                memory.content
                for memory in memories(question["tenant"])
                if question["expected_content_substring"] in memory.content
            )
            assert question["expected_content_substring"].casefold() not in question["question"].casefold()
            assert likeness(question["question"], answer) < 0.4

    def test_some_are_asked_in_both_tenants(self) -> None:
        asked = Counter((question["user_id"], question["question"]) for question in questions())
        assert sum(count == 2 for count in asked.values()) >= 3

    def test_the_default_ranking_finds_each_answer_among_the_first_five(self) -> None:
        embedder = WordLlamaEmbedder()
        for question in questions():
            own = [m for m in memories(question["tenant"]) if m.user_id == question["user_id"]]
            vectors = quantize(embedder.embed([memory.content for memory in own]))
            entries = [
                IndexEntry(str(at), memory.content, vector, memory.created_at)
                for at, (memory, vector) in enumerate(zip(own, vectors, strict=True))
            ]
            index = IndexSnapshot.empty(embedder.dimensions).replaced(entries, ())
            asked = embedder.embed([question["question"]])[0]
            found = index.rank(question["question"], asked, limit=EXPECTED_WITHIN)
            contents = [own[int(scored.id)].content for scored in found]
            assert any(question["expected_content_substring"] in content for content in contents), question
