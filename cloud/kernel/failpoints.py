"""Named places at which a test may stop, kill or delay the process.

Production code calls `reach(name)`, which does nothing unless a test armed that name in this process. The names are
the contract between the code and the crash tests: each of `NAMES` is killed in turn.
"""

from __future__ import annotations

from collections.abc import Callable

NAMES = (
    "store.sealed",
    "store.committed",
    "delete.committed",
    "update.sealed",
    "update.committed",
    "supersede.committed",
    "undelete.committed",
    "materializer.selected",
    "materializer.replaced",
    "materializer.inserted",
    "materializer.cleared",
    "erase.frozen",
    "erase.key_destroyed",
    "erase.ledger_deleted",
    "erase.rows_deleted",
    "erase.rewritten",
    "erase.verified",
    "close.frozen",
    "close.key_destroyed",
    "close.ledger_deleted",
    "close.rows_deleted",
    "close.rewritten",
    "close.verified",
    "rotate.root.begun",
    "rotate.root.slot",
    "rotate.root.batch",
    "rotate.root.ended",
    "rotate.root.promoted",
    "rotate.tenant.begun",
    "rotate.tenant.kept",
    "rotate.tenant.changed",
    "rotate.tenant.slot",
    "rotate.tenant.batch",
    "rotate.tenant.ended",
    "backup.registered",
    "backup.written",
    "restore.unpacked",
    "restore.put_aside",
    "restore.in_place",
    "move.begun",
    "move.copied",
    "move.synced",
    "move.switched",
    "move.cleaned",
    "embeddings.begun",
    "embeddings.column_added",
    "embeddings.page_filled",
    "embeddings.backfilled",
    "embeddings.gated",
    "embeddings.switched",
    "embeddings.made_stale",
    "embeddings.emptied",
    "purge.selected",
    "purge.rows_deleted",
    "purge.ledger_deleted",
    "import.begun",
    "import.batch_stored",
    "import.chunk_stored",
    "import.checkpointed",
    "import.recorded",
    "export.begun",
    "export.person_written",
    "export.written",
    "export.recorded",
    "sequencer.written",
    "sequencer.committed",
    "sequencer.kept",
    "audit_export.written",
    "audit_export.recorded",
    "audit_archive.written",
    "audit_archive.recorded",
    "audit_archive.emptied",
    "audit_archive.removed",
    "audit_archive_delete.marked",
    "ledger.appended",
    "data_backup.registered",
    "data_backup.snapshots",
    "data_backup.dumped",
    "data_backup.named",
    "data_backup.emptied",
    "data_restore.marked",
    "data_restore.emptied",
    "data_restore.loaded",
    "data_restore.replayed",
    "data_restore.accepted",
    "data_restore.erased",
    "replay.erased",
    "rewrite.copied",
    "rewrite.places_changed",
    "rewrite.files",
    "rewrite.wal",
)

_armed: dict[str, Callable[[], None]] = {}


def arm(name: str, action: Callable[[], None]) -> None:
    """Run `action` whenever `name` is reached in this process. For tests."""
    if name not in NAMES:
        raise KeyError(name)
    _armed[name] = action


def disarm_all() -> None:
    """Forget every armed action."""
    _armed.clear()


def reach(name: str) -> None:
    """Mark a place; runs what a test armed there."""
    action = _armed.get(name)
    if action is not None:
        action()
