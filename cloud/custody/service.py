"""`Custody`: what an operator does to the keyring as a whole; each leaves one audit event, long work also an intent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cloud.audit.model import AuditDraft, Category, Details, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.custody.model import CustodyStatus, Reconciled, Restored, RootRotated
from cloud.custody.ports import CustodyStore, KeptKeyring, KeyringPlace, Operators
from cloud.custody.reconciling import counts_of, reconcile
from cloud.custody.restoring import Restoring, raise_epoch
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.keys.backup import back_up, header_of
from cloud.keys.diagnosis import diagnose, identity
from cloud.keys.inspection import check_slots, mark_of, status_of
from cloud.keys.reports import KeyringBackup, Progress, Rotated, no_progress
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rotation import rotate_root
from cloud.tenancy.system import system_predicate

_COMPONENT: Final = "custody"
_INSTALLATION: Final = "operator"
MAX_BACKUP_DAYS: Final = 3650


class Custody:
    """Rotates, backs up, restores and diagnoses the keyring.

    Args:
        place: The keyring.
        store: What the control plane knows of it.
        operators: Lets operators in and begins events.
        audit: Records what was done.
        clock: The present, UTC.
        on_root_key: Is told which root key the keyring is under, before another one goes: what else is wrapped under
            root keys follows.
    """

    def __init__(
        self,
        place: KeyringPlace,
        store: CustodyStore,
        operators: Operators,
        audit: TransactionalAuditLogger,
        clock: Clock,
        *,
        on_root_key: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._place = place
        self._on_root_key = on_root_key
        self._store = store
        self._restoring = Restoring(place, store, clock)
        self._operators = operators
        self._audit = audit
        self._clock = clock

    # Looking

    @telemetry.operation()
    def status(self, *, check: bool = False, progress: Progress = no_progress) -> CustodyStatus:
        """How the keyring is and what is the matter with it, also if it cannot be opened.

        Args:
            check: Whether to try every key; otherwise the tenants' and a sample of their people's are tried.
            progress: Told how many of how many keys were tried.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._operators.operate(Action.KEYRING_STATUS)
        with recorded_failure(self._audit, draft):
            keyring = self._place.keyring
            found = status_of(keyring.files) if keyring is not None else None
            tried = (
                check_slots(keyring.files, everything=check, progress=progress)
                if keyring is not None and found is not None and not identity(found.mark, self._store.seen())
                else None
            )
            findings = diagnose(found, self._store.seen(), problem=self._place.problem, check=tried, now=self._clock())
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"findings": len(findings)})
        return CustodyStatus(found, tried, self._place.root_keys.former(), findings)

    @telemetry.operation()
    def backups(self) -> tuple[KeyringBackup, ...]:
        """Every backup of the keyring, oldest first.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._operators.operate(Action.KEYRING_STATUS)
        with recorded_failure(self._audit, draft):
            found = self._keyring().backups()
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"backups": len(found)})
        return found

    def now(self) -> datetime:
        """The time by which backups expire (UTC)."""
        return self._clock()

    def note(self) -> None:
        """Lets the control plane know how far the keyring is; called after what must not be undone by an older copy."""
        self._store.note(mark_of(self._keyring().files), self._clock())

    # Rotation

    @telemetry.operation()
    def rotate_root(self, new_root_key_file: Path | None = None, *, progress: Progress = no_progress) -> RootRotated:
        """Every key is under a new root key when this returns; others read and write meanwhile.

        A rotation that was interrupted is finished by the next call.

        Args:
            new_root_key_file: File with the new root key. Left out, the interrupted rotation goes on, or a new root
                key is made where the present one comes from a file.
            progress: Told how many of how many keys are done.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The new root key cannot be used, or a running process could not reach it; nothing
                has changed.
            ProviderUnavailableError: Another rotation is under way, or the storage failed; calling again continues.
        """
        draft = self._operators.operate(Action.KEYRING_ROTATE)
        with recorded_failure(self._audit, draft):
            files, root_keys = self._keyring().files, self._place.root_keys
            former = files.register.root_key_id()
            new_id = self._new_root_key(new_root_key_file, files.register.next_root_key_id())
            details: Details = {"of": "root_key", "from": former, "to": new_id}
            self._intend(draft, details)
            rotated = rotate_root(files, new_id, now=self._clock(), progress=progress)
            self._promote(new_id)
            self.note()
        needed = tuple(
            backup
            for backup in self._keyring().backups()
            if backup.root_key_id == former and backup.expires_at > self._clock()
        )
        self._record(draft, details, counts=_counts(rotated))
        return RootRotated(rotated, new_id, former, root_keys.file is not None, needed)

    @telemetry.operation()
    def rotate_tenant(self, tenant_id: str, *, progress: Progress = no_progress) -> Rotated:
        """The tenant has a new key when this returns; others read and write meanwhile.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
            ProviderUnavailableError: Another rotation is under way, or the storage failed; calling again continues.
        """
        draft = self._operators.operate(Action.KEYRING_ROTATE)
        with recorded_failure(self._audit, draft, tenant_id):
            if tenant_id != SYSTEM_LOG and tenant_id not in self._store.tenants():
                raise UnknownTenantError
            details: Details = {"of": "tenant_key"}
            self._intend(draft, details, log_id=tenant_id)
            rotated = self._keyring().rotate_tenant(tenant_id, now=self._clock(), progress=progress)
            self.note()
        self._record(draft, details, log_id=tenant_id, counts=_counts(rotated))
        return rotated

    def resume(self) -> int:
        """Finishes the rotations that a process was killed in, unless one runs; returns how many.

        Raises:
            ConfigurationError: The root key that it moves to is not within reach.
            ProviderUnavailableError: A rotation is under way in another process.
        """
        files = self._keyring().files
        if files.rotation_lock.is_held():
            return 0
        finished = 0
        moving_to = files.register.next_root_key_id()
        if moving_to is not None:
            finished += self._resumed(
                SYSTEM_LOG,
                {"of": "root_key", "to": moving_to},
                partial(rotate_root, files, moving_to, now=self._clock()),
            )
        self._promote(files.register.root_key_id())
        for tenant_id in files.register.rotating_tenants():
            finished += self._resumed(
                tenant_id,
                {"of": "tenant_key"},
                partial(self._keyring().rotate_tenant, tenant_id, now=self._clock()),
            )
        return finished

    @telemetry.operation()
    def destroy_root_key(self, key_id: str, *, despite_backups: bool = False) -> bool:
        """Overwrites a former root key that lies beside the root key file; whether there was one.

        Args:
            key_id: The root key.
            despite_backups: Also if a backup that has not expired needs it.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The keyring is under it, or a backup needs it.
        """
        draft = self._operators.operate(Action.KEYRING_DESTROY_ROOT_KEY)
        with recorded_failure(self._audit, draft):
            register = self._keyring().files.register
            if key_id in (register.root_key_id(), register.next_root_key_id()):
                raise ConfigurationError("the keyring is under this root key; rotate first")
            needing = [b for b in register.backups() if b.root_key_id == key_id and b.expires_at > self._clock()]
            if needing and not despite_backups:
                last = max(backup.expires_at for backup in needing)
                raise ConfigurationError(
                    f"{len(needing)} backup(s) cannot be restored without this root key until they expire on "
                    f"{last:%Y-%m-%d}; wait until then, or say that they may be lost"
                )
            self._on_root_key(register.root_key_id())
            destroyed = self._place.root_keys.destroy(key_id)
        self._record(draft, {"root_key_id": key_id}, counts={"destroyed": int(destroyed)})
        return destroyed

    # Backup

    @telemetry.operation()
    def backup(self, path: Path, *, days: int = 30) -> KeyringBackup:
        """A whole backup is at `path` when this returns, sealed under the root key and registered.

        Args:
            path: A new file, best on another machine.
            days: How long it may be kept, 1 to 3650.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: It cannot be written there, or a rotation was interrupted.
            ProviderUnavailableError: The disk is full, the control plane did not answer, or a rotation is under way;
                no file is left, and it may be counted all the same until it would have expired.
        """
        draft = self._operators.operate(Action.KEYRING_BACKUP)
        with recorded_failure(self._audit, draft):
            if not 1 <= days <= MAX_BACKUP_DAYS:
                raise ConfigurationError(f"a backup is kept for 1 to {MAX_BACKUP_DAYS} days")
            files = self._keyring().files
            self._intend(draft, {"days": days})
            # Counted here before its file begins: no erasure may be certified as if there were no copy of a key.
            count = partial(self._store.add_backup, files.slots.keyring_id.hex())
            made = back_up(files, path, now=self._clock(), keep=timedelta(days=days), count=count)
            self.note()
        self._record(draft, {"backup_id": made.backup_id, "expires_at": made.expires_at.isoformat()})
        return made

    @telemetry.operation()
    def restore(self, path: Path, *, replace: bool = False, expired: bool = False) -> Restored:
        """The keyring of a backup is in its place when this returns, without the people who were erased since.

        Args:
            path: The backup.
            replace: Whether a keyring that is there is given up.
            expired: Whether the backup may have expired.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The backup cannot be used, there is a keyring already, or a process has it open;
                nothing has changed.
        """
        draft = self._operators.operate(Action.KEYRING_RESTORE)
        with recorded_failure(self._audit, draft):
            header = header_of(path)
            self._restoring.check(header, expired=expired)
            self._intend(draft, {"backup_id": header.backup.backup_id})
            restored = self._restoring.restore(path, replace=replace)
        self._record(draft, {"backup_id": header.backup.backup_id}, counts=counts_of(restored.reconciled))
        return restored

    @telemetry.operation()
    def reconcile(self) -> Reconciled:
        """Destroys again whoever was erased and whichever tenant was closed, and counts whom the keyring lacks.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The keyring cannot be opened, or is another installation's; nothing has changed.
        """
        draft = self._operators.operate(Action.KEYRING_RECONCILE)
        with recorded_failure(self._audit, draft):
            keyring = self._keyring()
            for finding in identity(mark_of(keyring.files), self._store.seen()):
                if finding.code == "keyring_foreign":
                    # Its tenants may be called as tenants that were closed here.
                    raise ConfigurationError(f"{finding.message}. {finding.remedy}")
            reconciled = reconcile(keyring, self._store)
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts=counts_of(reconciled))
        return reconciled

    @telemetry.operation()
    def accept(self) -> Reconciled:
        """Goes on with the keyring that is there, though the one that was seen last was another or later.

        Whoever was erased and whichever tenant was closed is destroyed again, other tenants without a key get one, and
        whoever has no key stays unreadable.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The keyring cannot be opened.
        """
        draft = self._operators.operate(Action.KEYRING_ACCEPT)
        with recorded_failure(self._audit, draft):
            keyring = self._keyring()
            reconciled = reconcile(keyring, self._store)
            for tenant_id in self._store.tenants():
                keyring.create_tenant(tenant_id)
            raise_epoch(keyring, self._store)
            self._store.settle(mark_of(keyring.files), self._clock())
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts=counts_of(reconciled))
        return reconciled

    def _new_root_key(self, path: Path | None, moving_to: str | None) -> str:
        """The id of the root key to rotate to, within reach of this process and durable."""
        root_keys = self._place.root_keys
        if path is None:
            if moving_to is not None:
                return moving_to
            if root_keys.file is None:
                raise ConfigurationError(
                    "name the new root key's file, and give it to every process as other_root_key_file first"
                )
            new = LocalRootKey.generate()
        else:
            new = LocalRootKey.from_file(path)
        if root_keys.file is not None:
            root_keys.keep(new)
        elif root_keys.named(new.key_id) is None:
            raise ConfigurationError(
                f"root key {new.key_id!r} is not configured here; set other_root_key_file to its file everywhere first"
            )
        return new.key_id

    def _promote(self, key_id: str) -> None:
        root_keys = self._place.root_keys
        self._on_root_key(key_id)
        if key_id in root_keys.former():
            root_keys.promote(key_id)
            failpoints.reach("rotate.root.promoted")

    def _resumed(self, log_id: str, details: Details, work: Callable[[], Rotated]) -> int:
        def rotate() -> None:
            draft = self._audit.draft(
                system_predicate(_INSTALLATION, _COMPONENT).scope,
                Action.KEYRING_ROTATE,
                category=Category.ADMINISTRATION,
                details=details,
            )
            with recorded_failure(self._audit, draft, log_id):
                rotated = work()
                self.note()
            self._audit.record(log_id, draft, Outcome.ALLOWED, reason="resumed", counts=_counts(rotated))

        telemetry.named(Action.KEYRING_ROTATE.value, None if log_id == SYSTEM_LOG else log_id, rotate)
        return 1

    def _keyring(self) -> KeptKeyring:
        if self._place.keyring is None:
            raise ConfigurationError(self._place.problem or "there is no keyring")
        return self._place.keyring

    def _intend(self, draft: AuditDraft, details: Details, *, log_id: str = SYSTEM_LOG) -> None:
        step = dataclasses.replace(
            draft,
            action=Action.KEYRING_STEP,
            event_id=new_event_id(),
            details={"operation": draft.action.value, **details},
        )
        self._audit.record(log_id, step, Outcome.ALLOWED, reason="intent")

    def _record(
        self,
        draft: AuditDraft,
        details: Details,
        *,
        log_id: str = SYSTEM_LOG,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._audit.record(log_id, dataclasses.replace(draft, details=details), Outcome.ALLOWED, counts=counts or {})


def _counts(rotated: Rotated) -> dict[str, int]:
    return {"wrapped": rotated.wrapped, "unreadable": rotated.unreadable}
