"""What the operator is told about the keyring. No number and no id here says anything about one person."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.keys.diagnosis import Finding
from cloud.keys.reports import KeyringBackup, KeyringStatus, Rotated, SlotCheck


@dataclass(frozen=True, slots=True)
class CustodyStatus:
    """The keyring, and what is the matter with it.

    Attributes:
        keyring: How it is; `None` if it cannot be opened.
        check: Of a look into its slots, if one was asked for.
        former_root_keys: Root keys that lie beside the root key file and are not in use.
        findings: What is the matter, the gravest first.
    """

    keyring: KeyringStatus | None
    check: SlotCheck | None
    former_root_keys: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class RootRotated:
    """What a rotation of the root key did.

    Attributes:
        rotated: Counts.
        root_key_id: The root key that the keyring is under now.
        former: The one before.
        in_file: Whether the root key file holds the new one; if not, the settings have to be changed.
        needed_by: Backups that have not expired and need the former root key.
    """

    rotated: Rotated
    root_key_id: str
    former: str
    in_file: bool
    needed_by: tuple[KeyringBackup, ...]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How a keyring compares with the control plane.

    Attributes:
        destroyed_again: People who had been erased, whose keys a copy from earlier brought back; destroyed again.
        tenants_destroyed_again: Tenants that had been closed, the same; their people are not counted above.
        unreadable: People who have memories and no key: their memories cannot be read any more.
        tenants_without_key: Tenants that have no key.
    """

    destroyed_again: int
    tenants_destroyed_again: int
    unreadable: int
    tenants_without_key: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What restoring did.

    Attributes:
        backup: What was restored.
        reconciled: How it compares with the control plane.
        keyring: The keyring now.
    """

    backup: KeyringBackup
    reconciled: Reconciled
    keyring: KeyringStatus
