"""Laws of plans and quotas, as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.errors import ConfigurationError
from cloud.usage.model import MAX_LIMIT, Balance, Denied, Granted, Meter, decide
from cloud.usage.plan_file import parse_limits, parse_plans
from cloud.usage.plans import read_plans

UNITS = st.integers(0, MAX_LIMIT)


@given(used=UNITS, limit=UNITS | st.none(), requested=st.integers(1, 10_000))
def test_a_request_is_granted_exactly_if_the_limit_still_holds_after_it(
    used: int, limit: int | None, requested: int
) -> None:
    balance = Balance(Meter.MEMORIES, used=used, limit=limit)
    fits = limit is None or used + requested <= limit
    assert decide(balance, requested) == (Granted() if fits else Denied(balance))
    if limit is None:
        assert balance.remaining is None
    else:
        assert balance.remaining == max(0, limit - used)


def test_the_shipped_plans_are_free_team_and_enterprise() -> None:
    plans = read_plans(None)
    assert {name: dict(plan.limits) for name, plan in plans.items()} == {
        "free": {Meter.MEMORIES: 1_000},
        "team": {Meter.MEMORIES: 100_000},
        "enterprise": {Meter.MEMORIES: None},
    }


def test_minus_one_is_unlimited_and_zero_is_nothing() -> None:
    plans = parse_plans("[a]\nmemories = -1\n[b]\nmemories = 0\n", "plans.toml")
    assert plans["a"].limits == {Meter.MEMORIES: None}
    assert plans["b"].limits == {Meter.MEMORIES: 0}
    assert parse_limits("here", {"memories": None}) == {Meter.MEMORIES: None}


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
