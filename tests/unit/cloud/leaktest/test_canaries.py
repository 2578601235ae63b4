"""A canary is known again in whatever form and however little of it is seen, and nothing else is taken for one."""

from __future__ import annotations

import base64

import pytest

from cloud.kernel.ids import new_memory_id
from cloud.leaktest.canaries import Canaries, Canary, Owner, derived_word, new_word
from cloud.leaktest.cast import MOST_PEOPLE, MOST_TENANTS, new_companies, user_ids_of

ALICE = Owner("leaktest-1-a", "alice")
WORD = "abcdefghijklmnopqrstuvwx"


@pytest.fixture
def planted() -> Canaries:
    canaries = Canaries()
    canaries.plant(Canary(ALICE, "content", WORD, "m"))
    return canaries


@pytest.mark.parametrize(
    "text",
    [
        WORD,
        f"before {WORD} after",
        f"…{WORD[7:17]}…",
        WORD.upper(),
        "".join(chr(ord(letter) + 0xFEE0) for letter in WORD),
        WORD.encode().hex(),
        *(base64.b64encode(b"x" * shift + WORD.encode() + b"yz").decode() for shift in range(3)),
    ],
)
def test_a_word_is_known_again_in_every_form(planted: Canaries, text: str) -> None:
    assert {canary.value for canary in planted.words_in(text)} == {WORD}


@pytest.mark.parametrize("text", ["", "abc", WORD[:9], WORD[-9:], new_word(), "the harbour gate opens at six"])
def test_nothing_else_is_taken_for_a_word(planted: Canaries, text: str) -> None:
    assert planted.words_in(text) == set()


def test_an_id_is_known_with_and_without_dashes_and_only_as_a_whole() -> None:
    canaries, memory_id = Canaries(), new_memory_id()
    canaries.plant_id(Canary(ALICE, "memory id", memory_id, memory_id))
    for text in (memory_id, memory_id.upper(), f"x{memory_id.replace('-', '')}", f"urn:uuid:{memory_id}"):
        assert {canary.value for canary in canaries.ids_in(text)} == {memory_id}
    assert canaries.ids_in(f"{memory_id[:-1]} {new_memory_id()}") == set()
    assert canaries.owner_of(memory_id) == ALICE
    assert canaries.owner_of(new_memory_id()) is None


def test_what_is_buried_is_gone_and_kept_only_while_it_is_not_purged(planted: Canaries) -> None:
    (canary,) = planted.words_in(WORD)
    assert not planted.is_gone(canary)
    planted.bury_memory("m")
    assert planted.is_gone(canary)
    assert not planted.is_gone(canary, but_kept=True)
    planted.bury_person(ALICE)
    assert planted.is_gone(canary, but_kept=True)


def test_words_are_never_the_same_twice_and_derived_ones_always() -> None:
    assert len({new_word() for _ in range(1_000)}) == 1_000
    assert derived_word("a", "b") == derived_word("a", "b") != derived_word("ab")


def test_names_are_easily_mistaken_and_a_later_run_can_tell_them_again() -> None:
    companies = new_companies(MOST_TENANTS, 4)
    first = companies[0]
    assert sum(one.tenant_id.startswith(first.tenant_id) for one in companies) >= 5
    assert len({one.people[0].owner.user_id for one in companies}) == 1
    assert len({person.owner.user_id for one in companies for person in one.people}) == 1 + 3 * MOST_TENANTS
    for one in companies:
        own = [person.owner.user_id for person in one.people]
        assert own[2].startswith(own[1])
        assert user_ids_of(one.tenant_id, MOST_PEOPLE)[:4] == own
    assert new_companies(2, 2)[0].tenant_id != first.tenant_id
