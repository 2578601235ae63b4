"""Laws of how long audit events are kept: nothing goes early, whatever a plan says or is changed to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.audit.archive import directory_of
from cloud.audit.retention import (
    FLOOR,
    FOREVER,
    AuditRetention,
    Month,
    RetentionRules,
    archived_from,
    deleted_from,
    longest,
)
from cloud.kernel.errors import ConfigurationError
from cloud.usage.plan_file import parse_plans
from cloud.usage.plans import read_plans

days = st.none() | st.integers(0, 3_000)
retentions = st.builds(AuditRetention, days, days)
instants = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


@given(instants)
def test_a_month_begins_and_ends_around_each_of_its_instants(instant: datetime) -> None:
    month = Month.of(instant)
    assert month.begins <= instant < month.ends
    assert Month.of(month.ends) > month
    assert Month.of(month.ends - timedelta(microseconds=1)) == month
    assert Month.of(instant.astimezone(timezone(timedelta(hours=13)))) == month


@given(instants, retentions)
def test_a_month_stays_in_the_database_as_long_as_its_plan_says_and_a_week_at_least(
    instant: datetime, retention: AuditRetention
) -> None:
    moment = archived_from(Month.of(instant), retention)
    if retention.online_days is None:
        assert moment is None
    else:
        assert moment is not None
        assert moment - instant > max(timedelta(days=retention.online_days), FLOOR)


@given(instants, instants, retentions, st.integers(0, 3_000))
def test_no_archive_is_deleted_inside_its_retention_or_the_legal_minimum(
    sequenced: datetime, newest: datetime, retention: AuditRetention, minimum: int
) -> None:
    moment = deleted_from(Month.of(sequenced), newest, retention, minimum_days=minimum)
    if retention.kept_days is None:
        assert moment is None
    else:
        assert moment is not None
        assert moment > sequenced + timedelta(days=max(retention.kept_days, minimum))
        assert moment >= newest + timedelta(days=max(retention.kept_days, minimum))


@given(instants, st.lists(retentions, min_size=1), retentions, st.integers(0, 3_000))
def test_no_change_of_plan_deletes_inside_the_legal_minimum(
    sequenced: datetime, plans: list[AuditRetention], changed: AuditRetention, minimum: int
) -> None:
    rules = RetentionRules({**{str(at): plan for at, plan in enumerate(plans)}, "changed": changed}, minimum)
    for plan in (*rules.plans, "gone from the file", None):
        moment = deleted_from(Month.of(sequenced), sequenced, rules.of("acme", plan), minimum_days=minimum)
        assert moment is None or moment > sequenced + timedelta(days=minimum)


@given(st.lists(retentions, min_size=1))
def test_the_system_and_a_plan_that_nobody_knows_are_kept_as_long_as_the_longest(plans: list[AuditRetention]) -> None:
    rules = RetentionRules({str(at): plan for at, plan in enumerate(plans)}, 0)
    for found in (rules.of("_system", None), rules.of("_system", "0"), rules.of("acme", "gone from the file")):
        assert found == longest(plans)
        for plan in plans:
            assert found.online_days is None or found.online_days >= (plan.online_days or 0)
            assert (found.kept_days is None) or (plan.kept_days is not None and found.kept_days >= plan.kept_days)


def test_without_plans_everything_is_kept() -> None:
    assert longest([]) == FOREVER


def test_the_shipped_plans_keep_at_least_the_default_minimum() -> None:
    plans = {name: plan.audit for name, plan in read_plans(None, audit_minimum_days=365).items()}
    assert plans == {
        "free": AuditRetention(90, 400),
        "team": AuditRetention(400, 800),
        "enterprise": AuditRetention(400, None),
    }


def test_an_older_plan_file_keeps_everything() -> None:
    assert parse_plans("[a]\nmemories = 1\n", "p.toml", audit_minimum_days=365)["a"].audit == FOREVER


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("[a]\nmemories = 1\naudit_online_days = 30\naudit_retention_days = 364\n", 4, "at least 365"),
        ("[a]\nmemories = 1\naudit_online_days = 6\n", 3, "at least 7"),
        ("[a]\nmemories = 1\naudit_online_days = 1.5\n", 3, "whole number"),
        ("[a]\nmemories = 1\naudit_online_days = true\n", 3, "whole number"),
        ("[a]\nmemories = 1\naudit_online_days = -2\n", 3, "whole number"),
        ("[a]\nmemories = 1\naudit_retention_days = '400'\n", 3, "whole number"),
        ("[a]\nmemories = 1\naudit_retention_days = 99999\n", 3, "whole number"),
        ("[a]\nmemories = 1\naudit_retention_days = 400\n", 3, "not set"),
        ("[a]\nmemories = 1\naudit_retention_days = 400\naudit_online_days = 401\n", 3, "less than"),
        ("[a]\nmemories = 1\naudit_retention_day = 400\n", 3, "audit_retention_days"),
    ],
)
def test_what_a_plan_file_may_not_say_of_audit_logs_is_named_by_plan_and_line(text: str, line: int, named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_plans(f"# plans\n{text}", "/etc/plans.toml", audit_minimum_days=365)
    said = str(refused.value)
    assert said.startswith(f"/etc/plans.toml, line {line + 1}, plan 'a':")
    assert named in said


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_logs_directory_is_a_plain_name_and_no_other_logs(one: str, other: str) -> None:
    names = [directory_of(log_id) for log_id in (one, other)]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") and len(name) < 80 for name in names)
    assert (names[0] == names[1]) == (one == other)


def test_logs_that_differ_in_case_or_climb_stay_apart() -> None:
    assert len({directory_of(log_id) for log_id in ("acme", "ACME", "Acme", "..", "../acme", "_system")}) == 6
