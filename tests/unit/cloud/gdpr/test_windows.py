"""Rewriting waits for its window, over midnight too; what is no window is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cloud.gdpr.windows import Windows
from cloud.kernel.errors import ConfigurationError


def at(clock: str, day: int = 10) -> datetime:
    hour, minute = clock.split(":")
    return datetime(2026, 3, day, int(hour), int(minute), 30, tzinfo=UTC)


def opens(clock: str, day: int = 10) -> datetime:
    return at(clock, day).replace(second=0)


@pytest.mark.parametrize("text", [None, "", " "])
def test_without_windows_it_may_be_done_at_any_time(text: str | None) -> None:
    assert Windows.parse(text).next_open(at("12:00")) == at("12:00")


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (at("01:00"), opens("02:00")),
        (at("02:00"), at("02:00")),
        (at("03:59"), at("03:59")),
        (at("04:00"), opens("23:30")),
        (at("23:45"), at("23:45")),
        (at("00:15"), at("00:15")),
        (at("00:30"), opens("02:00")),
    ],
)
def test_the_next_window_is_waited_for(now: datetime, then: datetime) -> None:
    assert Windows.parse("02:00-04:00, 23:30-00:30").next_open(now) == then


def test_after_the_last_window_of_a_day_it_is_the_next_day() -> None:
    assert Windows.parse("02:00-04:00").next_open(at("05:00")) == opens("02:00", day=11)


@pytest.mark.parametrize(
    "text", ["2-4", "02:00", "02:00-02:00", "24:00-01:00", "02:00-04:60", "02:00-04:00;05:00-06:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="rewrite_windows"):
        Windows.parse(text)
