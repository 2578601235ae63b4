"""Laws of quota abuse: a hundred refusals of one meter within a minute are told once a minute, whatever the order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from cloud.audit.abuse import REFUSALS, SERIES, WINDOW_S, Abuse, Abuses

BEGAN = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)


def refusal(at_s: float, **fields: object) -> dict[str, object]:
    made: dict[str, object] = {
        "action": "memory.store",
        "category": "operation",
        "outcome": "denied",
        "reason": "quota_exceeded",
        "details": {"meter": "memories"},
        "occurred_at": (BEGAN + timedelta(seconds=at_s)).isoformat(),
    }
    return made | fields


def told(abuses: Abuses, events: Iterable[dict[str, object]], log_id: str = "acme") -> list[Abuse]:
    return [found for event in events if (found := abuses.seen(log_id, event)) is not None]


def test_a_hundred_within_a_minute_are_told_at_the_hundredth() -> None:
    abuses = Abuses()
    assert told(abuses, (refusal(n / 2) for n in range(REFUSALS - 1))) == []
    assert told(abuses, [refusal(50)]) == [Abuse("acme", "memories", REFUSALS)]


def test_who_waits_a_second_between_attempts_is_not_told_of() -> None:
    assert told(Abuses(), (refusal(n) for n in range(10_000))) == []


def test_what_goes_on_is_told_once_a_window_with_all_its_refusals() -> None:
    found = told(Abuses(), (refusal(n / 10) for n in range(3_000)))
    assert [abuse.refusals for abuse in found] == [REFUSALS, *(4 * [int(WINDOW_S * 10)])]


def test_what_begins_again_later_is_told_of_from_its_beginning() -> None:
    abuses = Abuses()
    told(abuses, (refusal(n / 10) for n in range(150)))
    told(abuses, (refusal(1_000 + n * 10) for n in range(300)))
    assert [one.refusals for one in told(abuses, (refusal(9_000 + n / 10) for n in range(REFUSALS)))] == [REFUSALS]


def test_meters_and_tenants_are_counted_apart() -> None:
    abuses = Abuses()
    meters = itertools.cycle(("memories", "reads"))
    for log_id in ("acme", "acme2"):
        mixed = [refusal(n / 10, details={"meter": next(meters)}) for n in range(2 * REFUSALS - 2)]
        assert told(abuses, mixed, log_id) == []


def test_the_order_of_neighbours_and_a_clock_that_jumps_change_nothing() -> None:
    shuffled = [refusal(n / 10) for n in range(REFUSALS)]
    random.Random(5).shuffle(shuffled)
    assert len(told(Abuses(), shuffled)) == 1
    assert told(Abuses(), (refusal(-7_200 * (n % 2)) for n in range(REFUSALS))) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "allowed", "reason": None},
        {"reason": "permission_denied:role_missing"},
        {"action": "security.quota_abuse", "category": "security"},
    ],
)
def test_nothing_else_counts(fields: dict[str, object]) -> None:
    assert told(Abuses(), (refusal(n / 10, **fields) for n in range(1_000))) == []


def test_memory_is_bounded_however_many_tenants_are_refused() -> None:
    abuses = Abuses()
    for number in range(3 * SERIES):
        abuses.seen(f"tenant-{number}", refusal(0))
    assert len(abuses._series) == SERIES
