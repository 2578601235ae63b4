"""The audit log: it begins with what was signed and kept outside, events get their leaves, archives are there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cloud.audit.archives_postgres import PostgresArchives
from cloud.audit.archiving import due
from cloud.audit.heads import compared
from cloud.audit.outside import DirectoryHeads
from cloud.audit.trees_postgres import LEFT_BY, PostgresTrees
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import UnreadableFileError
from cloud.kernel.findings import Finding, ok, problem, warning
from cloud.startup.auditing import archive_files, audit_key_file, heads_directory, retention_rules
from cloud.startup.doctor.context import Check, Context
from cloud.storage.presence import Processes
from cloud.storage.roles import MAINTENANCE_ROLE
from cloud.usage.plans import read_plans

_LATE: Final = (
    "SELECT count(*) FROM audit_pending p JOIN audit_events e USING (event_id)"
    " WHERE e.occurred_at < clock_timestamp() - interval '1 minute'"
)
_OPEN: Final = (
    "SELECT i.action, i.log_id, count(*) FROM audit_intents i"
    " WHERE i.occurred_at < clock_timestamp() - interval '1 hour' GROUP BY 1, 2 ORDER BY 1, 2"
)
_CUT_OFF: Final = f"SELECT i.action, i.log_id, count(*){LEFT_BY} GROUP BY 1, 2 ORDER BY 1, 2"
_DIGESTED_BYTES: Final = 256 << 20
"""How much is read to compare digests; of what is beyond that the sizes alone are looked at."""
_LATE_BY: Final = timedelta(days=3)
_NAMED: Final = 5
_ADVICE: Final = (
    "if the database was restored from a backup on purpose, keep the records of that; otherwise keep everything as it"
    " is, export the log with audit export, and compare it with checkpoints that others keep"
)


def audit_heads(context: Context) -> Iterator[Finding]:
    """No log was rolled back, cut off, forked or signed anew."""
    context.require("revision")
    context.require(f"role {MAINTENANCE_ROLE}")
    keys = audit_key_file(context.settings, context.root_keys)
    trees = PostgresTrees(context.engine(MAINTENANCE_ROLE))
    if not keys.exists() and not trees.is_any():
        yield ok("audit heads", "no log was signed yet")
        return
    if not heads_directory(context.settings).is_dir():
        text = f"the heads that were kept outside the database are not there: {heads_directory(context.settings)}"
        yield problem("audit heads", text, "restore them from a backup, or set audit_heads_dir to where they are")
        return
    outside = DirectoryHeads(heads_directory(context.settings), keys.keys, system_clock).heads()
    faults = compared(trees, outside, keys.keys()).faults
    for fault in faults:
        yield problem("audit heads", str(fault), _ADVICE)
    if not faults:
        yield ok("audit heads", f"{len(outside)} logs begin with what was signed and kept outside the database")


def audit_sequence(context: Context) -> Iterator[Finding]:
    """Events get their leaves."""
    context.require("revision")
    ((late,),) = context.rows(MAINTENANCE_ROLE, _LATE)
    if late:
        text = f"{late} events of more than a minute ago are in no tree yet"
        yield warning("audit sequence", text, "let a worker run: luminescent-cloud worker")
    else:
        yield ok("audit sequence", "every event of more than a minute ago is in its log's tree")


def audit_outcomes(context: Context) -> Iterator[Finding]:
    """What was begun has ended."""
    context.require("revision")
    with Processes(context.settings.home / "locks").gone() as gone:
        cut_off = context.rows(MAINTENANCE_ROLE, _CUT_OFF, processes=list(gone))
    for action, log_id, count in cut_off:
        text = f"{count} x {action} in the log of {log_id} was begun by a process that is gone, and has no outcome"
        yield warning("audit outcomes", text, "let a worker run: it goes on with it, or records that it is unknown")
    rows = context.rows(MAINTENANCE_ROLE, _OPEN)
    for action, log_id, count in rows:
        text = f"{count} x {action} in the log of {log_id} began more than an hour ago and has no outcome"
        yield warning("audit outcomes", text, "see whether it is still at work; after a day it is recorded as unknown")
    if not rows and not cut_off:
        yield ok("audit outcomes", "whatever began more than an hour ago has its outcome")


def audit_archives(context: Context) -> Iterator[Finding]:
    """Archives are there and are what was recorded; nothing has been due for long."""
    context.require("revision")
    files, archives = archive_files(context.settings), PostgresArchives(context.engine(MAINTENANCE_ROLE))
    kept = [archive for archive in archives.all() if archive.deleted_at is None]
    left, digested, wrong = _DIGESTED_BYTES, 0, 0
    # The newest first: of those somebody may still have the events elsewhere.
    for archive in reversed(kept):
        left -= archive.bytes
        try:
            files.check(archive, digest=left >= 0)
            digested += left >= 0
        except UnreadableFileError as error:
            wrong += 1
            advice = "restore the file from a backup, or set audit_archive_dir to where the archives are"
            yield problem("audit archives", str(error), advice)
    plans = read_plans(context.settings.plans_file, audit_minimum_days=context.settings.audit_minimum_days)
    rules = retention_rules(context.settings, plans)
    late = due(archives, files, rules, system_clock() - _LATE_BY)
    if late:
        logs = ", ".join(one.log_id for one in late[:_NAMED]) + (", …" if len(late) > _NAMED else "")
        text = f"{len(late)} logs have had something to archive or to delete for {_LATE_BY.days} days: {logs}"
        yield warning("audit archives", text, "let a worker run, or see why not: luminescent-cloud audit archive")
    if not wrong and not late:
        size = f"; the digests of {digested} hold" if kept else ""
        yield ok("audit archives", f"{len(kept)} archives are there{size}; nothing is overdue")


CHECKS: Final[tuple[Check, ...]] = (audit_heads, audit_sequence, audit_outcomes, audit_archives)
