"""Snapshots: what they hold decides how they rank, and nothing that happens later changes them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.memory import lexical
from src.memory.arena import Arena
from src.memory.embedding import HashingEmbedder, quantize
from src.memory.languages import named_language
from src.memory.ranking import IndexEntry, IndexSnapshot, RankingWeights, Scored
from src.memory.scoring import BM25_B, BM25_K1
from src.memory.text import terms

DIMENSIONS = 16
EMBEDDER = HashingEmbedder(DIMENSIONS)
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = ("editor", "vim", "coffee", "morning", "deploys", "Häuser", "friday", "東京", "the", "January")
EVERYTHING = RankingWeights(recency=0.3, confidence=0.4)

texts = st.builds(
    str.__add__,
    st.sampled_from(["", "", "Ada: ", "the vim: "]),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
)
sessions = st.sampled_from([None, 1, "1", "b"])


def entry(
    memory_id: str, content: str, day: int = 0, session: str | int | None = None, *, language: str | None = None
) -> IndexEntry:
    vector = quantize(EMBEDDER.embed([content]))[0]
    # Not of its id: a memory that is replaced must not look as before by chance.
    confidence = len(content) % 5 / 4
    return IndexEntry(
        memory_id, content, vector, START + timedelta(days=day), session, confidence, named_language(language)
    )


def snapshot_of(entries: list[IndexEntry]) -> IndexSnapshot:
    return IndexSnapshot.empty(DIMENSIONS).replaced(entries, ())


def ranked(snapshot: IndexSnapshot, query: str, **arguments) -> list[Scored]:
    arguments = {"limit": 1000, "weights": EVERYTHING} | arguments
    return snapshot.rank(query, EMBEDDER.embed([query])[0], **arguments)


made = st.tuples(texts, st.sampled_from([0, 1, 1, 40]), sessions, st.sampled_from([None, "de", "en"]))


def entry_of(memory_id: str, drawn: tuple[str, int, str | int | None, str | None]) -> IndexEntry:
    content, day, session, language = drawn
    return entry(memory_id, content, day, session, language=language)


changes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 9), made), max_size=4),
        st.lists(st.integers(0, 9), max_size=4),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(changes, texts, st.integers(1, 12), st.sets(st.integers(0, 9)))
def test_history_of_a_snapshot_does_not_matter(steps, query: str, limit: int, allowed: set[int]) -> None:
    snapshot, held = IndexSnapshot.empty(DIMENSIONS), {}
    earlier: list[tuple[IndexSnapshot, dict[str, IndexEntry], list[Scored]]] = []
    for adds, removes, from_before in steps:
        if from_before and earlier:
            # Branch off an old snapshot, so that storage is shared by some and copied by others.
            snapshot, held, _ = earlier[len(earlier) // 2]
        added = {f"id{n}": entry_of(f"id{n}", drawn) for n, drawn in adds}
        removed = [f"id{n}" for n in removes]
        snapshot = snapshot.replaced([entry_of(f"id{n}", drawn) for n, drawn in adds], removed)
        held = {key: value for key, value in held.items() if key not in removed} | added
        earlier.append((snapshot, held, ranked(snapshot, query)))
    for each, contents, as_it_ranked in [*earlier, (snapshot, held, ranked(snapshot, query))]:
        fresh = snapshot_of([contents[key] for key in sorted(contents)])
        assert len(each) == len(contents)
        assert sorted(each.ids()) == sorted(contents)
        assert all((f"id{n}" in each) == (f"id{n}" in contents) for n in range(10))
        assert ranked(each, query) == ranked(fresh, query) == as_it_ranked
        names = {f"id{n}" for n in allowed}
        within = ranked(each, query, limit=limit, allowed=names)
        assert within == ranked(fresh, query, limit=limit, allowed=names)
        assert within == [scored for scored in as_it_ranked if scored.id in names][:limit]
        assert within == ranked(each, query, limit=limit, allowed=np.array([i in names for i in each.ids()], bool))
        assert len(within) == min(limit, len(names & set(contents)))
        rest = snapshot_of([contents[key] for key in sorted(contents) if key not in names])
        assert ranked(each.without(names), query) == ranked(each.replaced((), names), query) == ranked(rest, query)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(texts, st.sampled_from([0, 0, 1, 40]), sessions), min_size=1, max_size=8),
    texts | texts.map("in January 2024 {}".format),
    st.sampled_from([0.0, 0.5]),
)
def test_scores_are_those_of_the_formula(drawn, query: str, lent: float) -> None:
    entries = [entry(f"id{n}", text, day, session, language="en") for n, (text, day, session) in enumerate(drawn)]
    weights = RankingWeights(0.7, 0.2, lent, 0.3, 0.9, 0.11, 0.13)
    found = {scored.id: scored.score for scored in ranked(snapshot_of(entries), query, weights=weights)}
    beside = plain_neighbours(entries)
    parts = zip(
        plain_standardized(plain_bm25([e.content for e in entries], query, beside, lent)),
        plain_standardized(plain_lent(plain_cosines(entries, query), beside, lent)),
        strict=True,
    )
    newest = max(e.created_at for e in entries)
    for each, (by_terms, dense) in zip(entries, parts, strict=True):
        expected = 0.7 * by_terms + 0.2 * dense + 0.13 * each.confidence
        expected += 0.11 / (1 + (newest - each.created_at) / timedelta(days=30))
        name = each.content.partition(": ")[0] if ": " in each.content else ""
        expected += 0.3 * bool(set(terms(name)) & set(terms(query)))
        expected += 0.9 * ("January" in query and each.created_at.month == 1)
        assert found[each.id] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("few", "at_once"), [(0, 1), (32, 1), (32, 200), (3, 2**21)])
def test_how_terms_are_looked_for_changes_nothing(monkeypatch: pytest.MonkeyPatch, few: int, at_once: int) -> None:
    query = "vim in the Häuser morning of January, Ada and coffee"
    expected = ranked(many(), query)
    monkeypatch.setattr(lexical, "_FEW_FORMS", few)
    monkeypatch.setattr(lexical, "_COMPARED_AT_ONCE", at_once)
    found = ranked(many(), query)
    assert [scored.id for scored in found] == [scored.id for scored in expected]
    assert [scored.score for scored in found] == pytest.approx([scored.score for scored in expected], abs=1e-9)


def test_a_query_of_very_many_words_takes_no_number_for_each_of_them_in_each_memory() -> None:
    words = [f"word{number}" for number in range(8_000)]
    snapshot = snapshot_of([entry(f"{n:04}", " ".join(words[n * 4 : n * 4 + 8])) for n in range(2_000)])
    ranked(snapshot, "warm")
    tracemalloc.start()
    try:
        found = ranked(snapshot, " ".join(words))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 1_000
    # A number for each word and memory would be 128 MB.
    assert peak < 8 * 2**20


def plain_neighbours(entries: list[IndexEntry]) -> list[dict[int, int]]:
    """Of each entry, how many steps off each of its neighbours is, itself included."""
    steps: list[dict[int, int]] = [{number: 0} for number in range(len(entries))]
    for session in {str(e.session) for e in entries if e.session is not None}:
        along = sorted(
            (number for number, e in enumerate(entries) if e.session is not None and str(e.session) == session),
            key=lambda number: (entries[number].created_at, entries[number].id),
        )
        for place, number in enumerate(along):
            steps[number] |= {along[other]: abs(other - place) for other in range(len(along)) if abs(other - place) < 3}
    return steps


def plain_bm25(contents: list[str], query: str, beside: list[dict[int, int]], lent: float) -> list[float]:
    documents = [Counter(terms(text)) for text in contents]
    mean = sum(d.total() for d in documents) / len(documents)

    def weight(term: str, document: Counter[str]) -> float:
        holding = sum(term in other for other in documents)
        rarity = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        length = BM25_K1 * (1 - BM25_B + BM25_B * document.total() / mean) if mean else 0.0
        return rarity * document[term] * (BM25_K1 + 1) / (document[term] + length) if term in document else 0.0

    return [
        sum(
            max(lent**step * weight(term, documents[other]) for other, step in near.items())
            for term in set(terms(query))
        )
        for near in beside
    ]


def plain_cosines(entries: list[IndexEntry], query: str) -> list[float]:
    rows = [e.vector.astype(float) for e in entries]
    center = np.rint(np.mean([row for row in rows if row.any()] or [np.zeros(DIMENSIONS)], axis=0))
    asked = quantize(EMBEDDER.embed([query]))[0].astype(float)
    if not asked.any():
        return [0.0] * len(rows)
    return [plain_cosine(row - center, asked - center) if row.any() else 0.0 for row in rows]


def plain_cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else 0.0


def plain_lent(scores: list[float], beside: list[dict[int, int]], lent: float) -> list[float]:
    return [sum(lent**step * scores[other] for other, step in near.items()) for near in beside]


def plain_standardized(scores: list[float]) -> list[float]:
    deviation = float(np.std(scores))
    return [(score - float(np.mean(scores))) / deviation if deviation > 1e-9 else 0.0 for score in scores]


SCORES_IN_ANOTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit.src.memory.test_ranking import many, ranked
for scored in ranked(many(), "vim in the Häuser morning of January, Ada and coffee"):
    print(scored.id, scored.score.hex())
"""


def many() -> IndexSnapshot:
    return snapshot_of(
        [entry(f"id{n}", f"Ada: {WORDS[n % 10]} {WORDS[n * 7 % 9]} {n % 13}", n % 50, n // 5) for n in range(200)]
    )


@pytest.mark.parametrize("seed", ["1", "2"])
def test_scores_do_not_depend_on_the_process(seed: str) -> None:
    root = Path(__file__).parents[4]
    said = subprocess.run(
        [sys.executable, "-c", SCORES_IN_ANOTHER_PROCESS, str(root)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    query = "vim in the Häuser morning of January, Ada and coffee"
    assert said.split() == [part for s in ranked(many(), query) for part in (s.id, s.score.hex())]


def test_what_stands_beside_the_words_of_a_question_is_found_before_what_stands_alone() -> None:
    entries = [
        entry("question", "which editor", 1, "talk"),
        entry("answer", "friday of course", 2, "talk"),
        entry("alone", "coffee of course", 3),
        entry("elsewhere", "morning of course", 4, "other"),
    ]
    found = [scored.id for scored in ranked(snapshot_of(entries), "editor", weights=RankingWeights())]
    assert found[:2] == ["question", "answer"]
    found = [scored.id for scored in ranked(snapshot_of(entries), "editor", weights=RankingWeights(neighbours=0))]
    assert found == ["question", "elsewhere", "alone", "answer"]


def test_a_memory_between_two_halves_of_the_question_gathers_both() -> None:
    entries = [
        entry("one half", "editor editor", 1, 1),
        entry("between", "friday", 2, 1),
        entry("other half", "coffee", 3, 1),
        *(entry(f"no {n}", "morning", 4 + n, 2) for n in range(6)),
    ]
    scores = {s.id: s.score for s in ranked(snapshot_of(entries), "editor coffee", weights=RankingWeights(1, 0, 0.9))}
    assert scores["between"] > scores["no 0"]
    assert scores["between"] == pytest.approx(scores["other half"], rel=0.5)


def test_german_questions_find_german_memories_and_names_are_found_in_all() -> None:
    entries = [
        entry("de", "Die Häuser von Ada stehen in der Nähe und sind nicht alt"),
        entry("en", "Ada reads about the morning"),
        entry("other", "coffee in the morning"),
        entry("none", "vim"),
    ]
    lexical = RankingWeights(1, 0, 0, 0, 0)
    german = {s.id: s.score for s in ranked(snapshot_of(entries), "Welches Haus?", weights=lexical)}
    assert max(german, key=german.__getitem__) == "de"
    both = {s.id: s.score for s in ranked(snapshot_of(entries), "Ada", weights=lexical)}
    assert min(both["de"], both["en"]) > 0 > both["other"] == both["none"]


def test_languages_of_removed_memories_give_a_query_no_forms() -> None:
    left = [entry("en", "haus vim", language="en"), entry("other", "coffee", language="en")]
    removed = entry("de", "die Häuser sind alt", language="de")
    scores = ranked(snapshot_of([*left, removed]).replaced((), ["de"]), "Häuser")
    assert scores == ranked(snapshot_of(left), "Häuser")
    assert scores != ranked(snapshot_of([*left, removed]), "Häuser", allowed=["en", "other"])


def test_a_snapshot_can_be_ranked_without_one_thing_and_then_without_another() -> None:
    snapshot = snapshot_of([entry(name, f"editor {name}", at) for at, name in enumerate("abc")])
    for left_out in (["a"], ["b"], ["a"], [], ["a", "b", "c"], ["nobody"]):
        found = {scored.id for scored in ranked(snapshot.without(left_out), "editor")}
        assert found == set("abc") - set(left_out)
        assert len(snapshot) == 3
    grown = snapshot.without(["a"]).replaced([entry("d", "vim")], ())
    assert sorted(grown.ids()) == ["b", "c", "d"]
    assert sorted(snapshot.ids()) == ["a", "b", "c"]


def test_query_without_words_ranks_the_newest_first_and_then_by_id() -> None:
    snapshot = snapshot_of([entry("b", "coffee", 1), entry("c", "vim", 2), entry("a", "editor", 1)])
    found = snapshot.rank("?!", np.zeros(DIMENSIONS, np.int8), limit=10)
    assert [scored.id for scored in found] == ["c", "a", "b"]


def test_limit_is_filled_with_what_fits_little() -> None:
    snapshot = snapshot_of([entry("a", "coffee"), entry("b", "vim"), entry("c", "deploy")])
    assert [scored.id for scored in ranked(snapshot, "vim", limit=2)][0] == "b"
    assert len(ranked(snapshot, "vim", limit=2)) == 2


def test_statistics_count_the_memories_that_are_not_allowed() -> None:
    snapshot = snapshot_of(
        [entry("a", "editor coffee"), entry("b", "editor vim"), entry("c", "editor"), entry("d", "editor")]
    )
    among_all = [s.id for s in ranked(snapshot, "editor vim", weights=RankingWeights(1, 0), allowed=["a", "b"])]
    assert among_all == ["b", "a"]


def test_float_and_int8_queries_rank_alike() -> None:
    snapshot = snapshot_of([entry("a", "coffee morning"), entry("b", "vim editor")])
    vector = EMBEDDER.embed(["editor morning"])
    assert snapshot.rank("x", vector[0], limit=5) == snapshot.rank("x", quantize(vector)[0], limit=5)


def test_empty_snapshot_finds_nothing() -> None:
    assert ranked(IndexSnapshot.empty(DIMENSIONS), "editor") == []
    assert ranked(snapshot_of([entry("a", "editor")]), "editor", allowed=()) == []


def test_wrong_sizes_are_refused() -> None:
    snapshot = snapshot_of([entry("a", "editor")])
    with pytest.raises(ValueError, match="mask"):
        ranked(snapshot, "editor", allowed=np.ones(2, bool))
    with pytest.raises(ValueError):
        snapshot.replaced([IndexEntry("b", "vim", np.zeros(DIMENSIONS + 1, np.int8), START)], ())


def test_storage_is_given_back_after_many_removals() -> None:
    snapshot = snapshot_of([entry(f"id{n}", "coffee in the morning") for n in range(1000)])
    for n in range(990):
        snapshot = snapshot.replaced((), [f"id{n}"])
    assert len(snapshot._arena.ids) < 150
    assert len(snapshot._columns.vectors) < 150
    assert sorted(snapshot.ids()) == [f"id{n}" for n in range(990, 1000)]


def test_growing_the_newest_snapshot_shares_storage_and_an_older_one_copies() -> None:
    first = snapshot_of([entry(f"id{n}", "coffee") for n in range(10)])
    second = first.replaced([entry("new", "vim")], ())
    branch = first.replaced([entry("other", "editor")], ())
    assert second._arena is first._arena
    assert branch._arena is not first._arena
    assert "other" not in second
    assert "new" not in branch


def test_threads_derive_from_one_snapshot_without_disturbing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    base = snapshot_of([entry(f"id{n}", f"coffee {WORDS[n % 7]}") for n in range(50)])
    expected = ranked(base, "coffee editor")
    barrier = threading.Barrier(6)
    append = Arena.append

    def append_slowly(arena: Arena, *arguments) -> None:
        # Whoever is not kept out by now believes to be the only one.
        time.sleep(0.01)
        append(arena, *arguments)

    def derive(number: int) -> IndexSnapshot:
        mine = base
        barrier.wait()
        for step in range(3):
            mine = mine.replaced([entry(f"t{number}-{step}", "editor vim")], [f"id{step}"])
        return mine

    monkeypatch.setattr(Arena, "append", append_slowly)
    with ThreadPoolExecutor(6) as threads:
        derived = list(threads.map(derive, range(6)))
    for number, mine in enumerate(derived):
        own = {f"t{number}-{step}" for step in range(3)}
        assert set(mine.ids()) == own | {f"id{n}" for n in range(3, 50)}
        assert ranked(mine, "vim") == ranked(
            base.replaced([entry(memory_id, "editor vim") for memory_id in sorted(own)], ["id0", "id1", "id2"]), "vim"
        )
    assert ranked(base, "coffee editor") == expected
