"""Exports logs as evidence, and publishes what it is verified with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from cloud.audit.bundle import AuditBundle, Draft, Part, Progress, write_bundle
from cloud.audit.heads import Fault, Head, head_fault
from cloud.audit.keyfile import AuditKeys
from cloud.audit.outside import OutsideHeads
from cloud.audit.proofs import Leaf, Proven, proven
from cloud.audit.sequencing import Sequencing
from cloud.audit.tiles import LoadTile
from cloud.audit.verify import EMPTY_ROOT, Checkpoint, open_checkpoint
from cloud.audit.views import View
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError

_WAIT_S: Final = 30.0
_POLL_S: Final = 0.05
_PENDING: Final = 10_000


class LogTrees(Protocol):
    """The trees of all logs, read."""

    def head(self, log_id: str) -> Head | None:
        """The head of a log, or `None` if it has no leaf."""
        ...

    def leaves(self, log_id: str, first: int, end: int) -> Iterator[Mapping[str, object]]:
        """The events that are the leaves from `first` to `end`, in their order."""
        ...

    def tiles(self, log_id: str) -> LoadTile:
        """The hashes of a log's tree."""
        ...

    def pending(self, log_id: str, *, batch: int) -> Sequence[str]:
        """Events of a log that have no leaf yet, at most so many."""
        ...

    def any_pending(self, log_id: str, event_ids: Sequence[str]) -> bool:
        """Whether one of these events of a log has no leaf yet."""
        ...

    def span(self, log_id: str, size: int, *, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """The shortest run of leaves that holds every event of a time."""
        ...

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        """The latest event of a log that has a leaf and contains all of `like`."""
        ...


class Evidence:
    """Evidence of an installation's logs.

    Args:
        trees: Its trees.
        sequencing: The sequencer, to bring a log up to date.
        outside: Heads that were kept outside the database.
        keys: The keys as they are now.
        rotate: Adds a key.
    """

    def __init__(
        self,
        trees: LogTrees,
        sequencing: Sequencing,
        outside: OutsideHeads,
        keys: Callable[[], AuditKeys],
        rotate: Callable[[], object],
    ) -> None:
        self._trees = trees
        self._sequencing = sequencing
        self._outside = outside
        self._keys = keys
        self._rotate = rotate

    @contextmanager
    def exported(
        self,
        log_id: str,
        directory: Path,
        *,
        since: datetime | None,
        until: datetime | None,
        view: View | None,
        progress: Progress,
    ) -> Iterator[AuditBundle]:
        """A bundle that is written when the block begins, and gets its name when it ends well.

        Raises:
            ConfigurationError: The directory is not empty or cannot be written.
            ProviderUnavailableError: The control plane did not answer, or the sequencer did not catch up.
        """
        asked = {
            "log": log_id,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "view": view.value if view else None,
        }
        keys = self._keys()

        def part() -> Part:
            # Before the head: another process may let the log grow at any time, and keep its newer head outside.
            kept = self._outside.heads().get(log_id)
            self.catch_up(log_id)
            head = self._trees.head(log_id) or _empty(log_id, keys)
            first, end = self._trees.span(log_id, head.size, since=since, until=until)
            # One of before the part cannot be compared with it.
            earlier = () if kept is None or kept.size < first else (keys.current.checkpoint(kept),)
            return Part(head, first, end, earlier)

        with Draft(directory, asked) as draft:
            chosen = draft.begin(part)
            bundle = write_bundle(draft, log_id, chosen, self._trees, keys, view=view, progress=progress)
            yield bundle
            failpoints.reach("audit_export.recorded")
            draft.finish()

    def catch_up(self, log_id: str) -> None:
        """Every event of the log that is committed has its leaf when this returns, unless the log is held.

        Raises:
            ProviderUnavailableError: That took too long.
        """
        while len(pending := self._trees.pending(log_id, batch=_PENDING)) == _PENDING:
            # There may be more than memory holds.
            self._await(log_id, pending)
            if self._sequencing.is_held(log_id):
                return
        self._await(log_id, pending)

    def _await(self, log_id: str, pending: Sequence[str]) -> None:
        """Each of these has its leaf when this returns, unless the log is held."""
        end_s = time.monotonic() + _WAIT_S
        while pending and self._trees.any_pending(log_id, pending):
            # Another process may hold the sequencer's lock: then it does the work.
            if self._sequencing.round():
                end_s = time.monotonic() + _WAIT_S
            elif self._sequencing.is_held(log_id):
                return  # What is there is exported; the verifier says what is wrong with it.
            elif time.monotonic() > end_s:
                raise ProviderUnavailableError("sequencer of the audit log", reason="did not catch up")
            else:
                time.sleep(_POLL_S)

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        """The latest event of a log that contains all of `like`, with every event that is committed looked at.

        Raises:
            ProviderUnavailableError: The sequencer did not catch up, or the control plane did not answer.
        """
        self.catch_up(log_id)
        return self._trees.latest(log_id, like)

    def proven(self, log_id: str, leaves: Sequence[Leaf]) -> Proven:
        """These leaves of a log, proven against its present head.

        Raises:
            ConfigurationError: The tree does not hold them: somebody changed it.
            ProviderUnavailableError: The control plane did not answer.
        """
        head = self._trees.head(log_id) or _empty(log_id, self._keys())
        try:
            return proven(leaves, head, self._trees.tiles(log_id))
        except ValueError as exc:
            raise ConfigurationError(f"the audit log of {log_id!r} proves nothing: {exc}") from exc

    def keys(self) -> AuditKeys:
        """The keys as they are now."""
        return self._keys()

    def verifier_key(self, log_id: str) -> str:
        """The key that a log's exports are verified with, as text."""
        keys = self._keys()
        return keys.current.verifier(keys.origin(log_id)).text()

    def checkpoint(self, log_id: str) -> str:
        """The head of a log as a signed note, with every event that is committed; to be kept elsewhere.

        Raises:
            ProviderUnavailableError: The sequencer did not catch up.
        """
        self.catch_up(log_id)
        return (self._trees.head(log_id) or _empty(log_id, self._keys())).checkpoint

    def accept(self, log_id: str, reason: str) -> tuple[int, int]:
        """Let a log that was cut off go on from the head that it has, as after a restore from a backup.

        Args:
            log_id: The log.
            reason: Why; kept, signed, outside the database.

        Returns:
            How many leaves it has, and how many had been signed.

        Raises:
            ConfigurationError: It was not cut off, or it is not what was signed for it at all.
        """
        keys = self._keys()
        kept, head = self._outside.heads().get(log_id), self._trees.head(log_id)
        fault = head_fault(log_id, head, kept, self._trees.tiles(log_id), keys) if head or kept else None
        if fault is not Fault.CUT_OFF or kept is None:
            raise ConfigurationError(
                f"the audit log of {log_id!r} was not cut off: {fault or 'nothing is wrong with it'}"
            )
        head = head or _empty(log_id, keys)
        signed = open_checkpoint(head.checkpoint, keys.verifiers(log_id))
        # A log that was cut off and changed is not what anybody restored.
        if head_fault(log_id, head, signed, self._trees.tiles(log_id), keys) is not None:
            raise ConfigurationError(f"the audit log of {log_id!r} was changed too; no restore explains that")
        self._outside.restart(signed, reason)
        self._sequencing.look_again()
        return signed.size, kept.size

    def rotate_key(self) -> None:
        """Sign with a new key from now on."""
        self._rotate()


def _empty(log_id: str, keys: AuditKeys) -> Head:
    return Head(0, keys.current.checkpoint(Checkpoint(keys.origin(log_id), 0, EMPTY_ROOT)))
