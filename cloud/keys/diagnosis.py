"""Whether the keyring that is there is the one that belongs here. Pure.

The control plane remembers which keyring it saw last, and at which epoch. A keyring that is missing, another one, or
a copy from earlier is told from the right one by that; a copy from earlier lacks people who came since, and brings
back people who were erased since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cloud.keys.reports import KeyringMark, KeyringStatus, SlotCheck


class Severity(StrEnum):
    """What a finding means."""

    FATAL = "fatal"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the keyring that needs somebody.

    Attributes:
        code: Stable name, such as `keyring_older`.
        severity: Whether the service may run with it.
        message: What is the matter.
        remedy: What to do.
    """

    code: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class KeyringSeen:
    """The keyring as the control plane saw it last.

    Attributes:
        keyring_id: 32 hexadecimal digits.
        epoch: Its epoch then; one that belongs here has at least this.
        root_key_id: The root key it was under.
        seen_at: When (UTC).
    """

    keyring_id: str
    epoch: int
    root_key_id: str
    seen_at: datetime


_BACKUP_SOON: Final = timedelta(days=7)
_RESTORE: Final = "put the right keyring back, or restore its newest backup: luminescent-cloud keyring restore FILE"


def diagnose(
    found: KeyringStatus | None,
    seen: KeyringSeen | None,
    *,
    problem: str | None = None,
    check: SlotCheck | None = None,
    now: datetime,
) -> tuple[Finding, ...]:
    """What is the matter with the keyring, the gravest first; nothing if all is well.

    Args:
        found: The keyring that is there, or `None` if it cannot be opened.
        seen: The keyring that was seen last, or `None` if none ever was.
        problem: Why it cannot be opened.
        check: Of a look into its slots.
        now: The present, UTC.
    """
    if found is None:
        return (Finding("keyring_unusable", Severity.FATAL, problem or "there is no keyring", _RESTORE),)
    return (*identity(found.mark, seen), *_condition(found, check), *_backups(found, now))


def identity(found: KeyringMark, seen: KeyringSeen | None) -> tuple[Finding, ...]:
    """Whether it is the keyring that was seen last, or one that came of it."""
    if seen is None:
        return ()
    if found.keyring_id != seen.keyring_id:
        return (
            Finding(
                "keyring_foreign",
                Severity.FATAL,
                f"this is keyring {found.keyring_id[:8]}, and this installation's is {seen.keyring_id[:8]}: none of "
                "the people here can be read with it",
                _RESTORE,
            ),
        )
    if found.epoch < seen.epoch:
        return (
            Finding(
                "keyring_older",
                Severity.FATAL,
                f"this keyring is a copy from earlier: it is at epoch {found.epoch}, and was at {seen.epoch} on "
                f"{seen.seen_at:%Y-%m-%d %H:%M}Z. It lacks the keys of people who came since, and holds those of "
                "people who were erased since",
                f"{_RESTORE}; if there is none, go on with this one: luminescent-cloud keyring accept",
            ),
        )
    return ()


def _condition(found: KeyringStatus, check: SlotCheck | None) -> tuple[Finding, ...]:
    findings = []
    if found.next_root_key_id is not None:
        findings.append(
            Finding(
                "rotation_under_way",
                Severity.WARNING,
                f"the keyring is being moved to root key {found.next_root_key_id}",
                "if no rotation runs, finish it: luminescent-cloud keyring rotate --root",
            )
        )
    for tenant_id in found.rotating_tenants:
        findings.append(
            Finding(
                "rotation_under_way",
                Severity.WARNING,
                f"the key of tenant {tenant_id} is being rotated",
                f"if no rotation runs, finish it: luminescent-cloud keyring rotate --tenant {tenant_id}",
            )
        )
    if check is not None and check.unreadable:
        findings.append(
            Finding(
                "keys_unreadable",
                Severity.FATAL,
                f"{check.unreadable} of {check.checked} keys do not open: the slots file is damaged or does not belong "
                "to this index",
                _RESTORE,
            )
        )
    return tuple(findings)


def _backups(found: KeyringStatus, now: datetime) -> tuple[Finding, ...]:
    findings = []
    living = [backup for backup in found.backups if backup.complete and backup.expires_at > now]
    if not living:
        findings.append(
            Finding(
                "backup_missing",
                Severity.WARNING,
                "there is no backup of the keyring that has not expired; who loses the keyring loses everything",
                "luminescent-cloud keyring backup --out FILE, on another machine",
            )
        )
    elif max(backup.made_at for backup in living) < now - _BACKUP_SOON:
        findings.append(
            Finding(
                "backup_old",
                Severity.WARNING,
                f"the newest backup of the keyring is more than {_BACKUP_SOON.days} days old",
                "luminescent-cloud keyring backup --out FILE, on another machine",
            )
        )
    expired = expired_backups(found, now)
    if expired:
        findings.append(
            Finding(
                "backup_expired",
                Severity.WARNING,
                f"{len(expired)} backup(s) of the keyring have expired; an erasure is final when their files are gone",
                "luminescent-cloud keyring backups names them; delete their files",
            )
        )
    return tuple(findings)


def expired_backups(found: KeyringStatus, now: datetime) -> Sequence[str]:
    """The ids of the backups whose files have to be deleted."""
    return [backup.backup_id for backup in found.backups if backup.expires_at <= now]
