"""What custody needs of the control plane, and of whoever lets operators in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cloud.audit.model import AuditDraft
from cloud.kernel.access import Action
from cloud.keys.diagnosis import KeyringSeen
from cloud.keys.layout import KeyringFiles
from cloud.keys.ports import Keyring
from cloud.keys.reports import KeyringBackup, KeyringMark
from cloud.keys.rootkeys import RootKeys


class KeptKeyring(Keyring, Protocol):
    """A keyring in files, which can be rotated, backed up and looked into."""

    @property
    def files(self) -> KeyringFiles:
        """Its open files."""
        ...

    def drop_spares(self, tenant_id: str) -> int:
        """Destroy keys made ahead, which may be somebody's since this copy was made; returns how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class KeyringPlace:
    """Where the keyring is and how it is opened.

    Attributes:
        directory: Its directory.
        root_keys: The root keys within reach.
        open: Opens a keyring in a directory, under these root keys.
        keyring: The open keyring, or `None` if it cannot be opened.
        problem: Why not.
    """

    directory: Path
    root_keys: RootKeys
    open: Callable[[Path], KeptKeyring]
    keyring: KeptKeyring | None
    problem: str | None = None


class Operators(Protocol):
    """Lets operators in."""

    def operate(self, action: Action) -> AuditDraft:
        """The begun event of an operator's `action`.

        Raises:
            AuthenticationError: A credential does not hold.
            PermissionDeniedError: The caller is no operator.
        """
        ...


class CustodyStore(Protocol):
    """Which keyring the control plane saw last, and whom it knows."""

    def seen(self) -> KeyringSeen | None:
        """The keyring that was seen last."""
        ...

    def note(self, keyring: KeyringMark, now: datetime) -> None:
        """Remembers the keyring that belongs here; an epoch that was seen already never becomes smaller."""
        ...

    def settle(self, keyring: KeyringMark, now: datetime) -> None:
        """Takes this keyring for the one that belongs here, whatever was seen before."""
        ...

    def add_backup(self, keyring_id: str, backup: KeyringBackup) -> None:
        """Remembers a backup, before its file begins; a keyring restored from an earlier one does not know it."""
        ...

    def backups(self, keyring_id: str) -> tuple[KeyringBackup, ...]:
        """Every backup of a keyring that was remembered."""
        ...

    def tenants(self) -> tuple[str, ...]:
        """Every tenant that is not closed, sorted."""
        ...

    def closed(self, tenant_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these tenants are closed; neither one that is being closed nor one that is not known here."""
        ...

    def erased(self, tenant_id: str, subject_ids: Collection[str]) -> tuple[str, ...]:
        """Which of these subjects of a tenant are erased."""
        ...

    def living(self, tenant_id: str) -> tuple[str, ...]:
        """The subjects of a tenant that are not erased and have memories."""
        ...
