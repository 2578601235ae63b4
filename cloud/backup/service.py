"""`DataBackups`: makes, lists and expires backups of both databases; each leaves one event, making also an intent.

A backup is known before its first byte is written, in the control plane and in the erasure ledger outside it: an
erasure names the day on which the last copy of a person is gone, so no copy may exist that nobody counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from cloud.audit.keyfile import AuditKeys
from cloud.audit.model import AuditDraft, Category, Details, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.backup import manifest as manifests
from cloud.backup.model import Contents, DataBackup, Expired, Manifest
from cloud.backup.package import DUMPS, Draft, check_free, clear, empty
from cloud.backup.ports import BackupStore
from cloud.backup.programs import Programs
from cloud.backup.snapshots import Connection, Moment, counts_of, newest_event, one_moment, rows_of
from cloud.gdpr.ledger import Entry, FileErasureLedger, LedgerRecord
from cloud.gdpr.levels import Level, LevelState
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, PermissionDeniedError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.keys.ports import RootKey
from cloud.keys.reports import KeyringMark
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import BACKUP_ROLE
from cloud.storage.server import Server
from cloud.tenancy.system import system_predicate

MAX_BACKUP_DAYS: Final = 3650
_log = logging.getLogger(__name__)

Told = Callable[[str, int], None]
"""Told what is done now, and how many bytes of it."""


class Operators(Protocol):
    """Lets operators in."""

    def operate(self, action: Action) -> AuditDraft:
        """The begun event of an operator's `action`.

        Raises:
            AuthenticationError: A credential does not hold.
            PermissionDeniedError: The caller is no operator.
        """
        ...


class NoOperators:
    """`Operators` where nobody calls: for what the service does by itself."""

    def operate(self, action: Action) -> AuditDraft:
        raise PermissionDeniedError(action=action.value, reason="nobody_calls")


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """What a backup is made of.

    Attributes:
        server: The server.
        connect: Connects to a database as the role of backups, outside a transaction.
        engine: Engine that takes the placements' locks.
        programs: PostgreSQL's programs.
        keyring: The keyring that the backup will need.
        keys: The audit keys, which sign the manifest.
        ledger: The erasure ledger.
    """

    server: Server
    connect: Callable[[str], contextlib.AbstractContextManager[Connection]]
    engine: ControlEngine
    programs: Programs
    keyring: Callable[[], KeyringMark]
    keys: Callable[[], AuditKeys]
    ledger: FileErasureLedger


class DataBackups:
    """Backups of both databases.

    Args:
        sources: What they are made of.
        store: Which there are.
        operators: Lets operators in and begins events.
        audit: Records what was done.
        clock: The present, UTC.
        days: How long a backup is kept if nobody says otherwise.
        rebuild: Makes the erasure ledger anew of what the control plane knows; returns how many records it has.
    """

    def __init__(
        self,
        sources: Sources,
        store: BackupStore,
        operators: Operators,
        audit: TransactionalAuditLogger,
        clock: Clock,
        *,
        days: int,
        rebuild: Callable[[], int],
    ) -> None:
        self._sources = sources
        self._store = store
        self._operators = operators
        self._audit = audit
        self._clock = clock
        self._days = days
        self._rebuild = rebuild

    def now(self) -> datetime:
        """The time by which backups expire (UTC)."""
        return self._clock()

    @telemetry.operation()
    def create(
        self,
        directory: Path,
        *,
        days: int | None = None,
        key: RootKey | None = None,
        told: Told = lambda *_: None,
    ) -> Manifest:
        """A whole backup of both databases is in `directory` when this returns, of one moment of them.

        Everything that was acknowledged before this was called is in it.

        Args:
            directory: A new directory, best on another machine.
            days: How long it may be kept, 1 to 3650.
            key: Seals it; `None` to leave it as it is: rows are sealed under people's keys in any case.
            told: Told how far it is.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: It cannot be written there.
            ProviderUnavailableError: A part did not answer, or the disk is full; nothing is left. One whose directory
                could not be flushed is gone, and counted.
        """
        draft = self._operators.operate(Action.BACKUP_CREATE)
        with recorded_failure(self._audit, draft):
            kept = self._days if days is None else days
            if not 1 <= kept <= MAX_BACKUP_DAYS:
                raise ConfigurationError(f"a backup is kept for 1 to {MAX_BACKUP_DAYS} days")
            directory = directory.absolute()
            check_free(directory)
            backup = self._registered(directory, timedelta(days=kept), draft)
            failpoints.reach("data_backup.registered")
            made = self._written(backup, key, told)
            failpoints.reach("data_backup.named")
            self._store.complete(backup.backup_id)
        self._record(
            draft,
            {"backup_id": backup.backup_id, "expires_at": backup.expires_at.isoformat()},
            {"bytes": made.size_bytes, "memories": made.contents.counts.get("memories", 0)},
        )
        return made

    @telemetry.operation()
    def list(self) -> tuple[DataBackup, ...]:
        """Every backup whose files may exist, oldest first.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._operators.operate(Action.BACKUP_LIST)
        with recorded_failure(self._audit, draft):
            found = tuple(backup for backup in self._store.all() if backup.deleted_at is None)
        self._record(draft, {}, {"backups": len(found)})
        return found

    @telemetry.operation()
    def expire(self, deleted_by_hand: Collection[str] = ()) -> Expired:
        """The files of backups that have expired are deleted, where they can be reached from here.

        Args:
            deleted_by_hand: Ids of backups that have expired, of which the operator says so. Where files are found all
                the same, they are deleted as those of the others, or out of reach.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: Such an id is of no backup that has expired; nothing has changed.
        """
        draft = self._operators.operate(Action.BACKUP_EXPIRE)
        said: Details = {"deleted_by_hand": sorted(deleted_by_hand)} if deleted_by_hand else {}
        with recorded_failure(self._audit, draft):
            if not {backup.backup_id for backup in self._due()}.issuperset(deleted_by_hand):
                raise ConfigurationError(
                    "not every id is one of a backup that has expired: luminescent-cloud backup list"
                )
            done = self._expired(deleted_by_hand)
        self._record(draft, said, {"deleted": len(done.deleted), "out_of_reach": len(done.out_of_reach)})
        return done

    def expire_due(self) -> None:
        """As `expire`, for the service itself; nothing is recorded where nothing is due."""
        if self._due():
            telemetry.named(Action.BACKUP_EXPIRE.value, None, self._expire_due)

    @telemetry.operation()
    def rebuild_ledger(self) -> int:
        """The erasure ledger is made anew of what the control plane knows; returns how many records it has.

        For when it is lost or does not hold. Whoever was erased after the backup that these databases came from is not
        in it.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: It cannot be written.
        """
        draft = self._operators.operate(Action.BACKUP_LEDGER)
        with recorded_failure(self._audit, draft):
            records = self._rebuild()
        self._record(draft, {}, {"records": records})
        return records

    def level(self, before: datetime) -> LevelState:
        """The level of backups for what was erased at that time: reached, or due when the last of them expires."""
        now = self._clock()

        def may_hold(made_at: datetime) -> bool:
            # One that was made after this moment was made with a clock that was ahead: when, nobody knows.
            return made_at <= before or made_at > now

        open_data = [one for one in self._store.all() if may_hold(one.made_at) and one.deleted_at is None]
        open_keyring = [
            expires_at
            for made_at, expires_at in self._store.keyring_expiries()
            if may_hold(made_at) and expires_at > now
        ]
        evidence: dict[str, int | str] = {"data_backups": len(open_data), "keyring_backups": len(open_keyring)}
        ends = [*(one.expires_at for one in open_data), *open_keyring]
        if not ends:
            return LevelState(Level.BACKUPS, now, evidence=evidence)
        overdue = sum(1 for one in open_data if one.expires_at <= now)
        if overdue:
            evidence["expired_and_not_deleted"] = overdue
        return LevelState(Level.BACKUPS, None, max(ends), evidence)

    def _registered(self, directory: Path, keep: timedelta, draft: AuditDraft) -> DataBackup:
        now = self._clock()
        backup = DataBackup(secrets.token_hex(8), directory, now, now + keep, complete=False)
        step = dataclasses.replace(
            draft,
            action=Action.BACKUP_CREATE_STEP,
            event_id=new_event_id(),
            details={"backup_id": backup.backup_id, "expires_at": backup.expires_at.isoformat()},
        )
        self._audit.record(SYSTEM_LOG, step, Outcome.ALLOWED, reason="intent")
        self._sources.ledger.add(
            LedgerRecord(
                Entry.BACKUP,
                now,
                reference=backup.backup_id,
                expires_at=backup.expires_at,
                location=str(backup.location),
            )
        )
        self._store.add(backup)
        return backup

    def _written(self, backup: DataBackup, key: RootKey | None, told: Told) -> Manifest:
        try:
            draft = Draft(backup.location, backup.backup_id, key)
            try:
                draft.begin()
                with one_moment(self._sources.engine, self._sources.connect, self._store.placements) as moment:
                    failpoints.reach("data_backup.snapshots")
                    contents = self._contents(moment, key)
                    for database, name in DUMPS.items():
                        url = self._sources.server.url(BACKUP_ROLE, database)
                        pieces = self._sources.programs.dump(url, moment.exported[database])
                        draft.add(name, pieces, partial(told, name))
                made = Manifest(dataclasses.replace(backup, complete=True), contents, draft.files)
                draft.finish(manifests.encode(made, self._sources.keys()))
            except BaseException:
                # Whatever ended it, an interruption too: half of a backup must not lie about, nor count as one. What
                # may be on the disk whole counts until it has expired.
                if draft.drop():
                    self._gone(backup)
                raise
        except OSError as exc:
            raise ProviderUnavailableError("backup", reason=f"could not be written: {exc.strerror}") from exc
        return made

    def _contents(self, moment: Moment, key: RootKey | None) -> Contents:
        keyring = self._sources.keyring()
        counts = counts_of(moment.control)
        return Contents(
            installation=self._sources.keys().installation,
            software=importlib.metadata.version("luminescent-cloud"),
            revision=self._store.revision(),
            pixeltable=importlib.metadata.version("pixeltable"),
            server=moment.control.info.server_version,
            sealed_with=key.key_id if key is not None else None,
            ledger=self._sources.ledger.end(),
            keyring_id=keyring.keyring_id,
            keyring_epoch=keyring.epoch,
            newest_event_at=newest_event(moment.control),
            counts=counts,
            rows=rows_of(counts_of(moment.data)),
        )

    def _expire_due(self) -> None:
        draft = self._audit.draft(
            system_predicate("operator", "backups").scope, Action.BACKUP_EXPIRE, category=Category.ADMINISTRATION
        )
        done = self._expired()
        if done.deleted:
            self._record(draft, {}, {"deleted": len(done.deleted), "out_of_reach": len(done.out_of_reach)})

    def _due(self) -> tuple[DataBackup, ...]:
        now = self._clock()
        return tuple(one for one in self._store.all() if one.deleted_at is None and one.expires_at <= now)

    def _expired(self, deleted_by_hand: Collection[str] = ()) -> Expired:
        deleted, out_of_reach = [], []
        for backup in self._due():
            try:
                place = empty(backup.location, backup.backup_id, partial(self._is, backup))
            except (OSError, ConfigurationError) as error:
                # Also where a manifest does not hold: nobody knows whose files these are.
                reason = error.strerror if isinstance(error, OSError) else error
                _log.error("backup %s has expired and is not deleted: %s", backup.backup_id, reason)  # noqa: TRY400
                out_of_reach.append(backup)
                continue
            if place is None and backup.backup_id not in deleted_by_hand:
                _log.warning("backup %s has expired and is not to be found where it was put", backup.backup_id)
                out_of_reach.append(backup)
                continue
            failpoints.reach("data_backup.emptied")
            self._gone(backup)
            deleted.append(backup)
            if place is not None:
                self._cleared(place, backup)
        return Expired(tuple(deleted), tuple(out_of_reach))

    def _cleared(self, place: Path, backup: DataBackup) -> None:
        try:
            clear(place)
        except OSError as error:
            # No copy of anything is in it.
            _log.warning("an empty directory of backup %s is left: %s", backup.backup_id, error.strerror)

    def _is(self, backup: DataBackup, directory: Path) -> bool:
        found = manifests.read(directory, self._sources.keys())
        return found.backup.backup_id == backup.backup_id

    def _gone(self, backup: DataBackup) -> None:
        now = self._clock()
        self._sources.ledger.add(LedgerRecord(Entry.BACKUP_GONE, now, reference=backup.backup_id))
        self._store.deleted(backup.backup_id, now)

    def _record(self, draft: AuditDraft, details: Details, counts: Mapping[str, int]) -> None:
        self._audit.record(SYSTEM_LOG, dataclasses.replace(draft, details=details), Outcome.ALLOWED, counts=counts)
