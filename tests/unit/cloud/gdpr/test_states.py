"""Laws of the states: what follows what, that everything ends, and when it is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.gdpr.model import ErasurePreview, ErasureState
from cloud.gdpr.states import ENDED, MOVES, SHORT_WAY, UNDER_WAY, months_later, require_move, sources
from cloud.kernel.errors import ErasureRequestError
from cloud.storage.metadata import erasures

S = ErasureState


def reachable(state: S) -> set[S]:
    found: set[S] = set()
    waiting = [state]
    while waiting:
        for following in MOVES[waiting.pop()] - found:
            found.add(following)
            waiting.append(following)
    return found


def test_every_state_has_its_place_and_the_database_knows_it() -> None:
    assert MOVES.keys() == set(S)
    (check,) = [one for one in erasures.constraints if str(one.name) == "ck_erasures_state"]
    allowed = str(check.sqltext)  # type: ignore[attr-defined]
    assert [state for state in S if f"'{state.value}'" not in allowed] == []
    for state in ENDED:
        for index in erasures.indexes:
            if index.name == "uq_erasures_open":
                assert f"'{state.value}'" in str(index.dialect_options["postgresql"]["where"])


def test_everything_begins_as_received_and_can_end() -> None:
    assert reachable(S.RECEIVED) | {S.RECEIVED} == set(S)
    for state in set(S) - ENDED:
        assert reachable(state) & ENDED, f"{state.value} never ends"


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_from_the_freeze_on_there_is_no_way_back(state: S) -> None:
    assert reachable(state) <= UNDER_WAY | {S.VERIFIED, S.CERTIFIED}


@pytest.mark.parametrize("state", [S.REJECTED, S.CANCELLED])
def test_what_was_refused_stays_refused_and_nothing_confirmed_is(state: S) -> None:
    assert MOVES[state] == frozenset()
    assert sources(state) == {S.RECEIVED, S.IDENTITY_VERIFIED, S.PREVIEWED, S.HELD}


def test_nothing_is_frozen_that_was_not_identified_looked_at_and_confirmed() -> None:
    assert sources(S.FROZEN) == {S.CONFIRMED}
    assert sources(S.CONFIRMED) == {S.PREVIEWED, S.HELD}
    assert sources(S.PREVIEWED) == {S.IDENTITY_VERIFIED, S.PREVIEWED}
    for before, after in zip(SHORT_WAY, SHORT_WAY[1:], strict=False):
        require_move(before, after)


@given(st.sampled_from(S), st.sampled_from(S))
def test_a_move_is_allowed_or_says_in_which_state_the_request_is(state: S, target: S) -> None:
    if target in MOVES[state]:
        require_move(state, target)
        assert state in sources(target)
    else:
        with pytest.raises(ErasureRequestError) as refused:
            require_move(state, target)
        assert (refused.value.reason, refused.value.state) == ("wrong_state", state.value)


@pytest.mark.parametrize(
    ("received", "months", "due"),
    [
        ("2026-01-15T08:30:00", 1, "2026-02-15T08:30:00"),
        ("2026-01-31T00:00:00", 1, "2026-02-28T00:00:00"),
        ("2028-01-31T00:00:00", 1, "2028-02-29T00:00:00"),
        ("2026-12-31T23:59:59", 1, "2027-01-31T23:59:59"),
        ("2026-11-30T12:00:00", 3, "2027-02-28T12:00:00"),
        ("2026-12-01T12:00:00", 12, "2027-12-01T12:00:00"),
    ],
)
def test_a_month_is_a_calendar_month(received: str, months: int, due: str) -> None:
    start = datetime.fromisoformat(received).replace(tzinfo=UTC)
    assert months_later(start, months) == datetime.fromisoformat(due).replace(tzinfo=UTC)


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - the strategy adds the zone
def test_a_month_is_never_longer_than_the_longest(received: datetime) -> None:
    assert timedelta(days=28) <= months_later(received, 1) - received <= timedelta(days=31)
    assert months_later(received, 1) < months_later(received, 3)


def test_a_digest_is_of_what_a_person_did_and_not_of_what_the_machine_does() -> None:
    seen = ErasurePreview("acme", "s", {"control.memories": 1, "control.intake": 1, "pixeltable.memories": 0})
    materialized = ErasurePreview("acme", "s", {"control.memories": 1, "control.intake": 0, "pixeltable.memories": 1})
    assert seen.digest == materialized.digest
    others = [
        ErasurePreview("acme", "s", {"control.memories": 2}),
        ErasurePreview("acme", "s", {"control.memories": 1, "control.memory_changes": 1}),
        ErasurePreview("acme", "t", {"control.memories": 1}),
        ErasurePreview("acme2", "s", {"control.memories": 1}),
        ErasurePreview("acme", None, {}),
    ]
    assert len({seen.digest, *(one.digest for one in others)}) == 6
