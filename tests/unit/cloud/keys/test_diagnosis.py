"""A keyring that is not the one that belongs here is told from it, and each finding says what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloud.keys.diagnosis import KeyringSeen, Severity, diagnose, identity
from cloud.keys.model import KeyringCounts
from cloud.keys.reports import KeyringBackup, KeyringMark, KeyringStatus, SlotCheck

NOW = datetime(2026, 11, 5, tzinfo=UTC)
SEEN = KeyringSeen("k1", 10, "r1", NOW)


def status(
    *, epoch: int = 10, next_root: str | None = None, tenants: tuple[str, ...] = (), backups: tuple[KeyringBackup, ...]
) -> KeyringStatus:
    counts = KeyringCounts(1, 1, 1, 1)
    return KeyringStatus(KeyringMark("k1", epoch, "r1"), 2, next_root, tenants, None, counts, 1, backups)


def backup(*, days_ago: int, keep: int = 30, complete: bool = True) -> KeyringBackup:
    made = NOW - timedelta(days=days_ago)
    return KeyringBackup(f"b{days_ago}", made, made + timedelta(days=keep), 1, "r1", complete)


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        (KeyringMark("k1", 10, "r1"), []),
        (KeyringMark("k1", 11, "r2"), []),
        (KeyringMark("k1", 9, "r1"), ["keyring_older"]),
        (KeyringMark("k2", 99, "r1"), ["keyring_foreign"]),
    ],
)
def test_only_the_keyring_that_was_seen_or_a_later_state_of_it_belongs_here(
    found: KeyringMark, codes: list[str]
) -> None:
    findings = identity(found, SEEN)
    assert [finding.code for finding in findings] == codes
    assert all(finding.severity is Severity.FATAL for finding in findings)
    assert identity(found, None) == ()


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        (status(backups=(backup(days_ago=1),)), []),
        (status(backups=()), ["backup_missing"]),
        (status(backups=(backup(days_ago=1, complete=False),)), ["backup_missing"]),
        (status(backups=(backup(days_ago=8),)), ["backup_old"]),
        (status(backups=(backup(days_ago=40),)), ["backup_missing", "backup_expired"]),
        (status(backups=(backup(days_ago=40), backup(days_ago=2))), ["backup_expired"]),
        (status(next_root="r2", backups=(backup(days_ago=1),)), ["rotation_under_way"]),
        (status(tenants=("acme",), backups=(backup(days_ago=1),)), ["rotation_under_way"]),
        (status(epoch=9, backups=(backup(days_ago=1),)), ["keyring_older"]),
    ],
)
def test_what_needs_somebody_is_found(found: KeyringStatus, codes: list[str]) -> None:
    findings = diagnose(found, SEEN, now=NOW)
    assert [finding.code for finding in findings] == codes
    assert all(finding.message and finding.remedy for finding in findings)


def test_a_keyring_that_cannot_be_opened_is_fatal_with_its_reason() -> None:
    (finding,) = diagnose(None, SEEN, problem="the slots file is missing", now=NOW)
    assert (finding.code, finding.severity) == ("keyring_unusable", Severity.FATAL)
    assert finding.message == "the slots file is missing"
    assert "restore" in finding.remedy


def test_keys_that_do_not_open_are_fatal() -> None:
    found = diagnose(status(backups=(backup(days_ago=1),)), SEEN, check=SlotCheck(10, 3, 0), now=NOW)
    assert [(finding.code, finding.severity) for finding in found] == [("keys_unreadable", Severity.FATAL)]
    assert diagnose(status(backups=(backup(days_ago=1),)), SEEN, check=SlotCheck(10, 0, 2), now=NOW) == ()
