"""Snapshots: what they hold decides how they rank, and nothing that happens later changes them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.memory.embedding import HashingEmbedder, quantize
from src.memory.ranking import IndexEntry, IndexSnapshot, RankingWeights, Scored, _Arena
from src.memory.scoring import BM25_B, BM25_K1
from src.memory.text import terms

DIMENSIONS = 16
EMBEDDER = HashingEmbedder(DIMENSIONS)
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = ("editor", "vim", "coffee", "morning", "deploy", "friday", "東京", "the")

texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def entry(memory_id: str, content: str, day: int = 0) -> IndexEntry:
    return IndexEntry(memory_id, content, quantize(EMBEDDER.embed([content]))[0], START + timedelta(days=day))


def snapshot_of(entries: list[IndexEntry]) -> IndexSnapshot:
    return IndexSnapshot.empty(DIMENSIONS).replaced(entries, ())


def ranked(snapshot: IndexSnapshot, query: str, **arguments) -> list[Scored]:
    arguments = {"limit": 1000} | arguments
    return snapshot.rank(query, EMBEDDER.embed([query])[0], **arguments)


changes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 9), texts, st.integers(0, 2)), max_size=4),
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
        added = {f"id{n}": entry(f"id{n}", text, day) for n, text, day in adds}
        removed = [f"id{n}" for n in removes]
        snapshot = snapshot.replaced([entry(f"id{n}", text, day) for n, text, day in adds], removed)
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
        assert within == ranked(each, query, limit=limit, allowed=np.array([i in names for i in each.ids()], bool))
        assert len(within) == min(limit, len(names & set(contents)))


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8), texts)
def test_scores_are_those_of_the_formula(contents: list[str], query: str) -> None:
    snapshot = snapshot_of([entry(f"id{n}", text) for n, text in enumerate(contents)])
    for weights, raw in (
        (RankingWeights(lexical=1, dense=0), plain_bm25(contents, query)),
        (RankingWeights(lexical=0, dense=1), plain_cosines(contents, query)),
    ):
        found = {scored.id: scored.score for scored in ranked(snapshot, query, weights=weights)}
        deviation = np.std(raw)
        for number, score in enumerate(raw):
            expected = (score - np.mean(raw)) / deviation if deviation > 1e-9 else 0.0
            assert found[f"id{number}"] == pytest.approx(expected, abs=1e-6)


def plain_bm25(contents: list[str], query: str) -> list[float]:
    documents = [Counter(terms(text)) for text in contents]
    mean = sum(d.total() for d in documents) / len(documents)
    total = []
    for document in documents:
        score = 0.0
        for term in set(terms(query)) & set(document):
            holding = sum(term in other for other in documents)
            rarity = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            length = BM25_K1 * (1 - BM25_B + BM25_B * document.total() / mean)
            score += rarity * document[term] * (BM25_K1 + 1) / (document[term] + length)
        total.append(score)
    return total


def plain_cosines(contents: list[str], query: str) -> list[float]:
    rows = quantize(EMBEDDER.embed([*contents, query])).astype(float)
    lengths = np.linalg.norm(rows, axis=1)
    return [
        float(row @ rows[-1] / (length * lengths[-1])) if length * lengths[-1] else 0.0
        for row, length in zip(rows[:-1], lengths[:-1], strict=True)
    ]


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
    append = _Arena.append

    def append_slowly(arena: _Arena, *arguments) -> None:
        # Whoever is not kept out by now believes to be the only one.
        time.sleep(0.01)
        append(arena, *arguments)

    def derive(number: int) -> IndexSnapshot:
        mine = base
        barrier.wait()
        for step in range(3):
            mine = mine.replaced([entry(f"t{number}-{step}", "editor vim")], [f"id{step}"])
        return mine

    monkeypatch.setattr(_Arena, "append", append_slowly)
    with ThreadPoolExecutor(6) as threads:
        derived = list(threads.map(derive, range(6)))
    for number, mine in enumerate(derived):
        own = {f"t{number}-{step}" for step in range(3)}
        assert set(mine.ids()) == own | {f"id{n}" for n in range(3, 50)}
        assert ranked(mine, "vim") == ranked(
            base.replaced([entry(memory_id, "editor vim") for memory_id in sorted(own)], ["id0", "id1", "id2"]), "vim"
        )
    assert ranked(base, "coffee editor") == expected
