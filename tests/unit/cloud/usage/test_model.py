"""Laws of plans and quotas, as values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.errors import ConfigurationError
from cloud.usage.model import MAX_LIMIT, Balance, Denied, Granted, Kind, Meter, decide, next_month
from cloud.usage.plan_file import parse_limits, parse_plans
from cloud.usage.plans import read_plans

UNITS = st.integers(0, MAX_LIMIT)


@given(used=UNITS, held=st.integers(0, 10), limit=UNITS | st.none(), requested=st.integers(1, 10_000))
def test_a_request_is_granted_exactly_if_the_limit_still_holds_after_it(
    used: int, held: int, limit: int | None, requested: int
) -> None:
    balance = Balance(Meter.TOKENS, used=used, limit=limit, held=held)
    fits = limit is None or used + held + requested <= limit
    assert decide(balance, requested) == (Granted() if fits else Denied(balance))
    if limit is None:
        assert balance.remaining is None
    else:
        assert balance.remaining == max(0, limit - used - held)


def test_the_shipped_plans_are_free_team_and_enterprise() -> None:
    plans = read_plans(None)
    assert {name: plan.limits[Meter.MEMORIES] for name, plan in plans.items()} == {
        "free": 1_000,
        "team": 100_000,
        "enterprise": None,
    }
    assert all(plan.limits.keys() == set(Meter) for plan in plans.values())
    assert set(plans["enterprise"].limits.values()) == {None}


def test_minus_one_is_unlimited_and_zero_is_nothing() -> None:
    plans = parse_plans("[a]\nmemories = -1\n[b]\nmemories = 0\n", "plans.toml")
    assert plans["a"].limits[Meter.MEMORIES] is None
    assert plans["b"].limits[Meter.MEMORIES] == 0
    assert parse_limits("here", {"memories": None}) == {Meter.MEMORIES: None}


def test_a_plan_file_of_the_first_release_limits_what_it_limited_and_nothing_else() -> None:
    limits = parse_plans("[team]\nmemories = 7\n", "plans.toml")["team"].limits
    assert limits == {meter: 7 if meter is Meter.MEMORIES else None for meter in Meter}


@pytest.mark.parametrize(
    ("moment", "then"),
    [
        (datetime(2026, 1, 31, 23, 59, 59, 999999, UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_flows_start_anew_with_the_month_in_utc_and_stocks_never(moment: datetime, then: datetime) -> None:
    for meter in Meter:
        assert meter.resets_at(moment) == (then if meter.kind is Kind.FLOW else None)
    assert next_month(moment) == then


@pytest.mark.parametrize(
    ("text", "line", "plan"),
    [
        ("# plans\n[free]\nmemories = 5\nwrite = 7\n", 4, "free"),
        ("[free]\nmemories = 5\n\n[team]\nmemories = 10\nreads = -2\n", 6, "team"),
        ("[free]\nreads = 5\n[team]\nmemories = 1\n", 1, "free"),
        ("[team]\nmemories = 1\n[free]\nreads = 5\n", 3, "free"),
        ('["gold plan"]\n"memories" = 1\n"tokens" = "many"\n', 3, "gold plan"),
        ("free.memories = 5\nfree.token = 3\n", 2, "free"),
        ("team = { memories = 1 }\nfree = { memories = 5, wrtes = 3 }\n", 2, "free"),
        ("[team]\nmemories = 1\nwrites = 1\n[free]\nmemories = 1\nwrites = 1.5\n", 6, "free"),
        ("# memories = oops\n[free] # of charge\nmemories = true\n", 3, "free"),
        ("[team]\nmemories = 1\n\nmemories = 2\n", 4, None),
        ("[team]\nmemories = 1_000_\n", 2, None),
        ("[team\nmemories = 1\n", 1, None),
        ("[team]\nmemories 1\n", 2, None),
        ("[free]\nmemories = 1\n[free]\nmemories = 2\n", 3, None),
    ],
)
def test_a_typo_in_a_plan_file_is_named_by_its_line(text: str, line: int, plan: str | None) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_plans(text, "/etc/plans.toml")
    said = str(refused.value)
    assert "/etc/plans.toml" in said
    assert re.search(rf"line {line}\b", said), said
    assert plan is None or repr(plan) in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[free", ["my-plans.toml"]),
        ("", ["my-plans.toml"]),
        ("memories = 5", ["my-plans.toml", "memories"]),
        ("[free]", ["my-plans.toml", "free", "memories"]),
        ("[free]\nmemory = 5\nmemories = 5", ["my-plans.toml", "free", "memory"]),
        ("[free]\nmemories = 5\n[gold]\nmemories = -2", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = 1.5", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = 5.0", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = '5'", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = true", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = -1.0", ["my-plans.toml", "gold", "memories"]),
        ("[gold]\nmemories = [1]", ["my-plans.toml", "gold", "memories"]),
        (f"[gold]\nmemories = {MAX_LIMIT + 1}", ["my-plans.toml", "gold", "memories"]),
    ],
)
def test_a_wrong_plan_file_is_refused_and_the_message_says_where(text: str, named: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_plans(text, "my-plans.toml")
    for place in named:
        assert place in str(refused.value)
