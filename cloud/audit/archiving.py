"""The archiver: moves old months of the logs into archives, and deletes archives that were kept long enough.

Rules

1. A month goes run by run: the file is written and durable, read back and proven by the log's tree, and recorded; then
   its leaves and events are removed from the database, in batches. A kill anywhere loses nothing, and the same again
   goes on from there.
2. Nothing of a log is archived that is not what was signed for it, or the only proof of that would be thrown away.
3. An archive is marked as deleted before its file goes: what is recorded as kept is kept.
4. Two events each, in the log concerned: the intent and the outcome. A log in which nothing else happened than that
   is left alone, or it would fill with events of its own archiving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from cloud.audit.archive import Archive, ArchivedLeaf, Progress, proven
from cloud.audit.archive_files import ArchiveFiles
from cloud.audit.heads import AllTrees, HeadFault, head_fault
from cloud.audit.keyfile import AuditKeys
from cloud.audit.model import Actor, AuditDraft, Category, Details, Outcome
from cloud.audit.outside import OutsideHeads
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.audit.retention import Month, RetentionRules, archived_from, deleted_from
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, LuminescentError, OperationInProgressError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id, new_request_id
from cloud.kernel.scope import PrincipalKind

_FIRST_AFTER_S: Final = 900.0
_EVERY_S: Final = 86_400.0
_OWN_ACTIONS: Final = Action.AUDIT_ARCHIVE.value
_ARCHIVER: Final = Actor(PrincipalKind.SYSTEM, "archiver")
_STEPS: Final = {
    Action.AUDIT_ARCHIVE: Action.AUDIT_ARCHIVE_STEP,
    Action.AUDIT_ARCHIVE_DELETE: Action.AUDIT_ARCHIVE_DELETE_STEP,
}

_log = logging.getLogger(__name__)

Drafts = Callable[[Action, Details], AuditDraft]
"""Begins an event of the archiver's."""


class Archives(Protocol):
    """What is archived, and what may be (`PostgresArchives`)."""

    def alone(self) -> AbstractContextManager[bool]: ...
    def months(self) -> Sequence[Month]: ...
    def logs(self) -> Mapping[str, str | None]: ...
    def first_leaf(self, log_id: str, month: Month) -> int | None: ...
    def is_quiet(self, log_id: str, before: datetime, actions: str) -> bool: ...
    def run(self, log_id: str, month: Month, first: int) -> Iterator[ArchivedLeaf]: ...
    def of(self, log_id: str, first: int = 0, end: int | None = None) -> Sequence[Archive]: ...
    def record(self, archive: Archive) -> None: ...
    def remove(self, archive: Archive) -> int: ...
    def drop(self, month: Month) -> bool: ...
    def mark_deleted(self, archive: Archive, at: datetime) -> None: ...


@dataclass(slots=True)
class Due:
    """What a log has to have done.

    Attributes:
        log_id: The log.
        months: Months to be archived.
        expired: Archives to be deleted.
    """

    log_id: str
    months: list[Month] = field(default_factory=list)
    expired: list[Archive] = field(default_factory=list)


@dataclass(slots=True)
class Archived:
    """What was done, or is due where nothing was done yet.

    Attributes:
        archives: Archives that were written, or gone on with.
        deleted: Archives that were deleted.
        due: What was due.
        failed: Logs of which something could not be done, and why.
    """

    archives: list[Archive] = field(default_factory=list)
    deleted: list[Archive] = field(default_factory=list)
    due: list[Due] = field(default_factory=list)
    failed: dict[str, LuminescentError] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """Events that were archived."""
        return sum(archive.end - archive.first for archive in self.archives)


def due(
    archives: Archives, files: ArchiveFiles, rules: RetentionRules, now: datetime, tenants: Sequence[str] | None = None
) -> list[Due]:
    """What was to be done at a moment, of these logs or of all."""
    months = archives.months()
    found = []
    for log_id, plan in archives.logs().items():
        if tenants is not None and log_id not in tenants:
            continue
        retention = rules.of(log_id, plan)
        one = Due(log_id)
        for month in months:
            moment = archived_from(month, retention)
            if moment is not None and moment <= now and archives.first_leaf(log_id, month) is not None:
                one.months.append(month)
        if one.months and archives.is_quiet(log_id, one.months[-1].ends, _OWN_ACTIONS):
            one.months.clear()
        for archive in archives.of(log_id):
            moment = deleted_from(archive.month, archive.newest_at, retention, minimum_days=rules.minimum_days)
            # A file that a kill left behind is deleted too.
            is_left = archive.deleted_at is not None and archive.deleted_at <= now and files.path(archive).exists()
            if is_left or (archive.deleted_at is None and moment is not None and moment <= now):
                one.expired.append(archive)
        if one.months or one.expired:
            found.append(one)
    return found


class Archiver:
    """Archives what is due.

    Args:
        archives: What is archived, and what may be.
        files: The files.
        trees: The trees that prove what is archived.
        outside: The heads that were kept outside the database.
        keys: The keys as they are now.
        audit: The log.
        rules: How long what is kept.
        clock: The time, UTC.
    """

    def __init__(
        self,
        archives: Archives,
        files: ArchiveFiles,
        trees: AllTrees,
        outside: OutsideHeads,
        keys: Callable[[], AuditKeys],
        audit: TransactionalAuditLogger,
        rules: RetentionRules,
        clock: Clock,
    ) -> None:
        self._archives = archives
        self._files = files
        self._trees = trees
        self._outside = outside
        self._keys = keys
        self._audit = audit
        self._rules = rules
        self._clock = clock

    def work(self, stop: threading.Event) -> None:
        """Once a day, archive what is due, until `stop` is set."""
        wait_s = _FIRST_AFTER_S
        while not stop.wait(wait_s):
            wait_s = _EVERY_S
            try:
                self.run(stop=stop)
            except OperationInProgressError:
                pass  # Somebody else does it today.
            except LuminescentError as error:
                # What was done is done, and the rest is as it was: tomorrow again.
                _log.error("the audit log could not be archived: %s", error)  # noqa: TRY400 - the text says it all

    def due(self, tenants: Sequence[str] | None = None) -> list[Due]:
        """What is to be done now, of these logs or of all."""
        return due(self._archives, self._files, self._rules, self._clock(), tenants)

    def run(
        self,
        *,
        drafts: Drafts | None = None,
        tenants: Sequence[str] | None = None,
        progress: Progress = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Archived:
        """Do what is due; a log of which something fails is left for the next time, and the others go on.

        Args:
            drafts: Begins the events; as the service itself when left out.
            tenants: Only these logs; all if `None`.
            progress: Told how many events are archived.
            stop: No further log is begun when it is set.

        Raises:
            OperationInProgressError: Another process is at it.
            ProviderUnavailableError: The control plane did not answer.
        """
        done = Archived()
        with self._archives.alone() as alone:
            if not alone:
                raise OperationInProgressError("the audit log is being archived by another process; try again later")
            done.due = self.due(tenants)
            for due in done.due:
                if stop is not None and stop.is_set():
                    break
                request = new_request_id()
                begun = drafts or partial(_of_the_service, request)
                try:
                    telemetry.named(
                        Action.AUDIT_ARCHIVE.value, due.log_id, partial(self._of_log, due, begun, done, progress)
                    )
                except LuminescentError as error:
                    _log.error("the audit log of %s is not archived: %s", due.log_id, error)  # noqa: TRY400
                    done.failed[due.log_id] = error
            for month in self._archives.months():
                self._archives.drop(month)
        return done

    def _of_log(self, due: Due, drafts: Drafts, done: Archived, progress: Progress) -> None:
        for month in due.months:
            while (first := self._archives.first_leaf(due.log_id, month)) is not None:
                draft = drafts(Action.AUDIT_ARCHIVE, _about(month, first))
                with self._recorded(draft, due.log_id) as counts:
                    archive = self._archived(due.log_id, month, first)
                    counts |= {"events": archive.end - archive.first, "bytes": archive.bytes}
                done.archives.append(archive)
                progress(done.events)
        for archive in due.expired:
            with self._recorded(drafts(Action.AUDIT_ARCHIVE_DELETE, _about(archive.month, archive.first)), due.log_id):
                self._archives.mark_deleted(archive, self._clock())
                failpoints.reach("audit_archive_delete.marked")
                self._files.remove(archive)
                done.deleted.append(archive)

    @contextmanager
    def _recorded(self, draft: AuditDraft, log_id: str) -> Iterator[dict[str, int]]:
        """The intent before, and the outcome after, with what the block counts."""
        counts: dict[str, int] = {}
        with recorded_failure(self._audit, draft, log_id):
            intent = replace(draft, action=_STEPS[draft.action], event_id=new_event_id())
            self._audit.record(log_id, intent, Outcome.ALLOWED)
            yield counts
            self._audit.record(log_id, draft, Outcome.ALLOWED, counts=counts)

    def _archived(self, log_id: str, month: Month, first: int) -> Archive:
        archive = next(iter(self._archives.of(log_id, first, first + 1)), None)
        if archive is None:
            archive = self._written(log_id, month, first)
        else:
            # An earlier process was killed in the middle of removing what it had archived.
            self._files.check(archive)
        while self._archives.remove(archive):
            failpoints.reach("audit_archive.emptied")
        failpoints.reach("audit_archive.removed")
        return archive

    def _written(self, log_id: str, month: Month, first: int) -> Archive:
        self._require_signed(log_id)
        load = self._trees.tiles(log_id)
        leaves = proven(self._archives.run(log_id, month, first), "database", first, load)
        archive = self._files.write(log_id, month, first, leaves)
        if archive is None:
            raise ConfigurationError(f"leaf {first} of the audit log of {log_id} is gone; nothing was archived")
        failpoints.reach("audit_archive.written")
        read = sum(1 for _ in proven(self._files.leaves(archive), str(self._files.path(archive)), first, load))
        if read != archive.end - first:
            raise ConfigurationError(f"{self._files.path(archive)} does not hold what was written; nothing was removed")
        self._archives.record(archive)
        failpoints.reach("audit_archive.recorded")
        return archive

    def _require_signed(self, log_id: str) -> None:
        """The log is what was signed for it."""
        # In this order: the log may grow at any time, and its newer head be kept outside.
        kept = self._outside.heads().get(log_id)
        head = self._trees.all_heads().get(log_id)
        fault = head_fault(log_id, head, kept, self._trees.tiles(log_id), self._keys())
        if fault is not None:
            found = HeadFault(log_id, fault, head.size if head else 0, kept.size if kept else 0)
            raise ConfigurationError(f"{found}; nothing of it is archived")


def _about(month: Month, first: int) -> Details:
    return {"month": str(month), "first": first}


def _of_the_service(request_id: str, action: Action, details: Details) -> AuditDraft:
    return AuditDraft(action, _ARCHIVER, request_id, category=Category.ADMINISTRATION, details=details)


class AuditArchives:
    """Archives on an operator's word, and records who gave it.

    Args:
        archiver: Does it.
        admissions: The door for operators.
        audit: Records it.
    """

    def __init__(self, archiver: Archiver, admissions: Admission, audit: TransactionalAuditLogger) -> None:
        self._archiver = archiver
        self._admissions = admissions
        self._audit = audit

    @telemetry.operation()
    def archive(self, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Archived:
        """Archive what is due now, of every log, and delete the archives that were kept long enough.

        Args:
            dry_run: Only say what is due.
            progress: Told how many events are archived.

        Returns:
            What was done; a log of which something failed stands in `failed`, and the others are done.

        Raises:
            PermissionDeniedError: The caller is no operator.
            OperationInProgressError: Another process is at it.
            ProviderUnavailableError: The control plane did not answer; repeating the call goes on.
        """
        draft = self._admissions.operate(Action.AUDIT_ARCHIVE)

        def of_the_operator(action: Action, details: Details) -> AuditDraft:
            return replace(draft, action=action, details=details, event_id=new_event_id())

        with recorded_failure(self._audit, draft):
            done = (
                Archived(due=self._archiver.due())
                if dry_run
                else self._archiver.run(drafts=of_the_operator, progress=progress)
            )
            # The word itself, beside what was done to each log because of it.
            self._audit.record(
                SYSTEM_LOG,
                draft,
                Outcome.ALLOWED,
                reason="preview" if dry_run else "requested",
                counts={
                    "logs": len(done.due),
                    "events": done.events,
                    "deleted": len(done.deleted),
                    "failed": len(done.failed),
                },
            )
        return done
