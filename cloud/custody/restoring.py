"""Restores the keyring from a backup, so that nobody comes back who was erased since."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cloud.custody.model import Reconciled, Restored
from cloud.custody.ports import CustodyStore, KeptKeyring, KeyringPlace
from cloud.custody.reconciling import reconcile
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError
from cloud.keys.backup import header_of, restore
from cloud.keys.backupfile import BackupHeader
from cloud.keys.inspection import check_slots, status_of
from cloud.keys.reports import KeyringBackup
from cloud.keys.rotation import rotate_root


class Restoring:
    """Decides whether a backup may be restored, and prepares it before it is put in its place.

    Args:
        place: Where the keyring belongs.
        store: Tells who was erased.
        clock: The present, UTC.
    """

    def __init__(self, place: KeyringPlace, store: CustodyStore, clock: Clock) -> None:
        self._place = place
        self._store = store
        self._clock = clock

    def check(self, header: BackupHeader, *, expired: bool) -> None:
        """Refuses a backup of another keyring, and one that has expired unless `expired` allows it.

        Raises:
            ConfigurationError: It may not be restored.
        """
        seen, backup = self._store.seen(), header.backup
        if seen is not None and seen.keyring_id != header.keyring_id and self._store.tenants():
            raise ConfigurationError(
                f"this is a backup of keyring {header.keyring_id[:8]}, and this installation's is {seen.keyring_id[:8]}"
            )
        if backup.expires_at <= self._clock() and not expired:
            raise ConfigurationError(
                f"this backup expired on {backup.expires_at:%Y-%m-%d}: erasures count on its being deleted; delete "
                "it, or restore it with --expired if there is no other"
            )

    def restore(self, path: Path, *, replace: bool) -> Restored:
        """The keyring of the backup is in its place, and is the one that belongs here from now on.

        Raises:
            ConfigurationError: Nothing has changed; the message says why.
            ProviderUnavailableError: The same, and it may work later.
        """
        backup = header_of(path).backup
        reconciled: list[Reconciled] = []
        restore(
            self._place.directory,
            path,
            self._place.root_keys,
            replace=replace,
            prepare=lambda draft: reconciled.append(self._prepared(draft, backup)),
        )
        keyring = self._place.open(self._place.directory)
        try:
            found = status_of(keyring.files)
        finally:
            keyring.close()
        self._store.settle(found.mark, self._clock())
        return Restored(backup, reconciled[0], found)

    def _prepared(self, directory: Path, backup: KeyringBackup) -> Reconciled:
        keyring = self._place.open(directory)
        try:
            tried = check_slots(keyring.files, everything=True)
            if tried.unreadable:
                raise ConfigurationError(f"{tried.unreadable} of {tried.checked} keys in this backup do not open")
            reconciled = reconcile(keyring, self._store)
            files = keyring.files
            with files.lock.held(), files.index.transaction():
                # Later backups than this one exist still, though it cannot know them.
                for known in (backup, *self._store.backups(files.slots.keyring_id.hex())):
                    files.register.add_backup(dataclasses.replace(known, complete=True))
            raise_epoch(keyring, self._store)
            present = self._present_root_key()
            if files.register.root_key_id() != present:
                rotate_root(files, present, now=self._clock())
        finally:
            keyring.close()
        return reconciled

    def _present_root_key(self) -> str:
        """The root key that the installation is under: a backup from before a rotation is under an earlier one."""
        seen, root_keys = self._store.seen(), self._place.root_keys
        if seen is not None and root_keys.named(seen.root_key_id) is not None:
            return seen.root_key_id
        return root_keys.first.key_id


def raise_epoch(keyring: KeptKeyring, store: CustodyStore) -> None:
    """Makes this keyring later than any that was seen: whichever copy comes after it is older than it."""
    seen = store.seen()
    with keyring.files.lock.held(), keyring.files.index.transaction():
        present = keyring.files.index.number("epoch")
        keyring.files.index.set_meta("epoch", max(present, seen.epoch if seen is not None else 0))
