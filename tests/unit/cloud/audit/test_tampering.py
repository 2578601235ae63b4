"""Whoever holds the database cannot change a log without that being noticed, and said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.homes import temporary_home
from tests.unit.cloud.audit import tampering_program
from tests.unit.cloud.audit.tampering_program import TAMPERINGS

# What the verifier says with a pinned key; what it says with a checkpoint that was kept too; what the doctor finds.
NOTICED: dict[str, tuple[str | None, str | None, str | None]] = {
    "nothing": (None, None, None),
    "edit": ("line 5: not the event that is leaf 4", "line 5: not the event that is leaf 4", None),
    "edit-with-its-hash": ("first 11 leaves are not those", "first 11 leaves are not those", "changed"),
    "delete-one": ("line 5: not the event that is leaf 4", "line 5: not the event that is leaf 4", None),
    "delete-newest": ("line 11: not the event that is leaf 10", "line 11: not the event that is leaf 10", None),
    "insert": ("line 5: not the event that is leaf 4", "line 5: not the event that is leaf 4", None),
    "swap": ("line 3: not the event that is leaf 2", "line 3: not the event that is leaf 2", None),
    "roll-back": ("the log was cut off", "the log was cut off", "cut_off"),
    "sign-anew": ("not signed by", "not signed by", "unsigned"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with temporary_home(prepared=True) as home:
        done = subprocess.run(
            [sys.executable, "-m", tampering_program.__name__, home, tmp_path_factory.mktemp("out")],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_in_the_database_is_noticed_and_named(found: dict[str, Any], tampering: str) -> None:
    seen = found[tampering]
    alone, with_kept, fault = NOTICED[tampering]
    for said, expected in ((seen["verify"], alone), (seen["verify_with_kept"], with_kept)):
        if expected is None:
            assert said is None
        else:
            assert said is not None
            assert re.search(expected, said), said
    assert seen["fault"] == fault
    assert bool(seen["doctor"]) == (fault is not None)


def test_what_the_start_finds_is_a_security_event(found: dict[str, Any]) -> None:
    told = {(details["log"], reason) for details, reason, _ in found["events"]}
    assert told == {(f"tenant-{name}", fault) for name, (_, _, fault) in NOTICED.items() if fault is not None}
    assert found["recorded"] == len(told)
    for details, _, category in found["events"]:
        assert category == "security"
        assert details["severity"] == "critical"


def test_an_operator_accepts_what_a_restore_explains_and_nothing_else(found: dict[str, Any]) -> None:
    seen = found["accepted"]
    assert seen["roll-back"] == "accepted"
    assert "changed" in seen["edit-with-its-hash"]
    assert "unsigned" in seen["sign-anew"]
    assert "nothing is wrong" in seen["nothing"]
    assert seen["held"] == ["tenant-edit-with-its-hash", "tenant-sign-anew"]
    assert len(seen["pending"]) <= 1, "but for the reading itself"
    assert "audit.accept" in seen["events"]
