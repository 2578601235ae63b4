"""Backups and the erasure ledger: nobody is back who was erased, and no backup is kept longer than it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloud.backup.marker import RestoreMarker
from cloud.backup.postgres import PostgresBackupStore
from cloud.gdpr.ledger import Entry, LedgerPlace
from cloud.gdpr.ledger_postgres import PostgresLedgerView
from cloud.kernel.clock import system_clock
from cloud.kernel.findings import Finding, ok, problem, warning
from cloud.startup.auditing import audit_key_file
from cloud.startup.doctor.context import Check, Context
from cloud.startup.erasures import erasure_ledger, ledger_directory
from cloud.storage.roles import MAINTENANCE_ROLE
from cloud.tenancy.system import system_predicate


def restoring(context: Context) -> Iterator[Finding]:
    """No restore was interrupted."""
    context.require_home()
    if RestoreMarker(context.settings.home).phase() is None:
        yield ok("restoring", "none is under way")
    else:
        text = "a restore is under way or was interrupted; nothing is served until it ends well"
        yield problem("restoring", text, "run it again: luminescent-cloud restore DIR")


def ledger(context: Context) -> Iterator[Finding]:
    """The erasure ledger is the one that these databases know, and nobody is back whom it names."""
    context.require("revision")
    context.require(f"role {MAINTENANCE_ROLE}")
    view = PostgresLedgerView(context.engine(MAINTENANCE_ROLE))
    known = view.place()
    if not ledger_directory(context.settings).is_dir():
        if known is None or known == LedgerPlace():
            yield ok("ledger", "nobody was erased yet")
        else:
            text = f"the erasure ledger is not there: {ledger_directory(context.settings)}"
            mend = "put it back, or set erasure_ledger_dir; if it is lost: luminescent-cloud backup ledger --rebuild"
            yield problem("ledger", text, mend)
        return
    found = erasure_ledger(context.settings, audit_key_file(context.settings, context.root_keys))
    # All of it: what the databases have followed must be there still, and what follows must be signed.
    records = [record for _, record in found.since(LedgerPlace())]
    found.since(known or LedgerPlace())
    named: dict[str, list[str]] = {}
    for record in records:
        if record.entry is Entry.ERASURE and record.tenant_id and record.subject_id:
            named.setdefault(record.tenant_id, []).append(record.subject_id)
    back = sum(len(view.back(system_predicate(tenant_id, "doctor"), people)) for tenant_id, people in named.items())
    tenants = view.tenants_back({one.tenant_id for one in records if one.entry is Entry.CLOSING and one.tenant_id})
    if back or tenants:
        yield problem(
            "ledger",
            f"{back} people who were erased and {len(tenants)} tenants that were closed are in the databases again: a"
            " backup was restored by hand",
            "start the service, which erases them again before it serves",
        )
    else:
        yield ok("ledger", f"{len(records)} records, signed and whole; nobody whom it names is in the databases")


def backups(context: Context) -> Iterator[Finding]:
    """There is a backup, and none is kept longer than it says."""
    context.require("revision")
    context.require(f"role {MAINTENANCE_ROLE}")
    now = system_clock()
    kept = [one for one in PostgresBackupStore(context.engine(MAINTENANCE_ROLE)).all() if one.deleted_at is None]
    overdue = [one for one in kept if one.expires_at <= now]
    if overdue:
        text = f"{len(overdue)} backups of the data have expired and are not deleted: erasures wait for it"
        yield warning("backups", text, "luminescent-cloud backup expire")
    complete = [one for one in kept if one.complete and one.expires_at > now]
    if not complete:
        yield warning("backups", "there is no backup of the data", "luminescent-cloud backup DIR, and a drill of it")
    elif not overdue:
        newest = max(one.made_at for one in complete)
        yield ok("backups", f"{len(complete)}, the newest of {newest:%Y-%m-%d %H:%M}Z; none is overdue")


CHECKS: Final[tuple[Check, ...]] = (restoring, ledger, backups)
