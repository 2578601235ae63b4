"""Compares the trees of the database with the heads that were kept outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import root_of
from cloud.audit.tiles import LoadTile, subtrees
from cloud.audit.verify import Checkpoint, VerificationError, open_checkpoint


@dataclass(frozen=True, slots=True)
class Head:
    """A log's tree as it stands: how many leaves, and the checkpoint signed for them."""

    size: int
    checkpoint: str


class Fault(StrEnum):
    """What is wrong with a log."""

    UNSIGNED = "unsigned"
    CUT_OFF = "cut_off"
    CHANGED = "changed"


_MEANING = {
    Fault.UNSIGNED: "its head is not signed by this installation",
    Fault.CUT_OFF: "it was cut off or rolled back",
    Fault.CHANGED: "it was changed or forked",
}


@dataclass(frozen=True, slots=True)
class HeadFault:
    """A log whose tree is not what was signed for it.

    Attributes:
        log_id: The log.
        fault: What is wrong.
        size: Leaves that its tree has.
        kept: Leaves of the head that was kept outside, 0 if there is none.
    """

    log_id: str
    fault: Fault
    size: int
    kept: int

    def __str__(self) -> str:
        return (
            f"the audit log of {self.log_id}: {_MEANING[self.fault]} ({self.size} leaves; {self.kept} were signed and"
            " kept outside the database)"
        )


class AllTrees(Protocol):
    """Trees, read to be compared."""

    def all_heads(self) -> Mapping[str, Head]:
        """The head of every log that has one."""
        ...

    def tiles(self, log_id: str) -> LoadTile:
        """The hashes of a log's tree."""
        ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison of all logs found.

    Attributes:
        faults: Logs whose tree is not what was signed for it.
        ahead: Signed heads of trees that begin with what was kept outside, and are larger.
    """

    faults: Sequence[HeadFault]
    ahead: Sequence[str]


def compared(trees: AllTrees, outside: Mapping[str, Checkpoint], keys: AuditKeys) -> Comparison:
    """Look whether each tree begins with what was kept outside, and has a head that is signed by these keys.

    Args:
        trees: The database's.
        outside: The head of each log that was kept outside.
        keys: The installation's keys.

    Raises:
        ProviderUnavailableError: The control plane did not answer.
    """
    heads = trees.all_heads()
    faults, ahead = [], []
    for log_id in sorted(heads.keys() | outside.keys()):
        head, kept = heads.get(log_id), outside.get(log_id)
        size, signed = head.size if head else 0, kept.size if kept else 0
        fault = head_fault(log_id, head, kept, trees.tiles(log_id), keys)
        if fault is not None:
            faults.append(HeadFault(log_id, fault, size, signed))
        elif head is not None and size > signed:
            ahead.append(head.checkpoint)
    return Comparison(faults, ahead)


def head_fault(
    log_id: str, head: Head | None, kept: Checkpoint | None, load: LoadTile, keys: AuditKeys
) -> Fault | None:
    """What is wrong with a log's tree, if anything.

    Args:
        log_id: The log.
        head: Its head in the database.
        kept: Its head that was kept outside the database.
        load: The hashes of its tree.
        keys: The installation's keys.
    """
    if head is None:
        # Nothing is missing of a log that was let go on from nothing.
        return None if kept is not None and kept.size == 0 else Fault.CUT_OFF
    try:
        signed = open_checkpoint(head.checkpoint, keys.verifiers(log_id))
    except VerificationError:
        return Fault.UNSIGNED
    if signed.size != head.size:
        return Fault.UNSIGNED
    if kept is not None and kept.size > signed.size:
        return Fault.CUT_OFF
    try:
        subtree = subtrees(load)
        if root_of(signed.size, subtree) != signed.root:
            return Fault.CHANGED
        # A head that was signed last may not be outside yet: what was kept must be where it begins.
        if kept is not None and root_of(kept.size, subtree) != kept.root:
            return Fault.CHANGED
    except ValueError:
        return Fault.CHANGED
    return None
