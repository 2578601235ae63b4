"""Lets the audit logs of a restored database go on, which are cut off by nature.

What was signed and kept outside is never taken back: a restart, signed and with its reason, says from which head each
log goes on. Whoever holds a newer checkpoint sees that the log was cut off, and can be shown why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud.audit.heads import AllTrees, Head, compared, head_fault
from cloud.audit.keyfile import AuditKeys
from cloud.audit.outside import OutsideHeads
from cloud.audit.verify import EMPTY_ROOT, Checkpoint, VerificationError, open_checkpoint
from cloud.kernel.errors import ConfigurationError


class Trees(AllTrees, Protocol):
    """Trees, read."""

    def head(self, log_id: str) -> Head | None:
        """The head of a log, or `None` if it has no leaf."""
        ...


@dataclass(frozen=True, slots=True)
class LogCut:
    """A log that goes on from an earlier head.

    Attributes:
        log_id: The log.
        size: Leaves that it has.
        signed: Leaves that had been signed.
    """

    log_id: str
    size: int
    signed: int


def accept_restored(
    trees: Trees, outside: OutsideHeads, keys: Callable[[], AuditKeys], reason: str
) -> Sequence[LogCut]:
    """Every log whose head outside is not that of the restored database goes on from what was restored.

    Args:
        trees: The restored trees.
        outside: Heads that were kept outside.
        keys: The installation's keys.
        reason: Why; kept, signed, outside the database.

    Raises:
        ConfigurationError: A restored tree is not what this installation signed for it.
    """
    cut = []
    kept = outside.heads()
    for fault in compared(trees, kept, keys()).faults:
        signed = _own_head(trees, fault.log_id, keys())
        outside.restart(signed, reason)
        cut.append(LogCut(fault.log_id, signed.size, fault.kept))
    if cut:
        outside.summarize()
    return cut


def _own_head(trees: Trees, log_id: str, keys: AuditKeys) -> Checkpoint:
    """The head of a restored log, once it is certain that it is whole and signed by these keys."""
    head = trees.head(log_id)
    if head is None:
        return Checkpoint(keys.origin(log_id), 0, EMPTY_ROOT)
    try:
        signed = open_checkpoint(head.checkpoint, keys.verifiers(log_id))
    except VerificationError:
        signed = None
    if signed is None or head_fault(log_id, head, signed, trees.tiles(log_id), keys) is not None:
        raise ConfigurationError(
            f"the restored audit log of {log_id!r} is not what this installation signed for it; no restore explains "
            "that: use another backup"
        )
    return signed
