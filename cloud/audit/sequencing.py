"""The sequencer at work: rounds, what is kept outside the database after each, and whom a security event alarms."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, Protocol

from cloud.audit.abuse import Abuse, Abuses
from cloud.audit.alerts import Alerts, alert_of
from cloud.audit.heads import AllTrees, HeadFault, compared
from cloud.audit.intents import Intent
from cloud.audit.keyfile import AuditKeys
from cloud.audit.outside import OutsideHeads
from cloud.audit.sequencer import BATCH, Round, Sequencer
from cloud.kernel import failpoints
from cloud.kernel.clock import Clock
from cloud.kernel.errors import LuminescentError

_PAUSE_S: Final = 0.5
"""Between rounds, also while events come: each round is a commit and a file that is flushed, beside every write's own;
a leaf within a second is what is promised."""
_TROUBLE_S: Final = 2.0
_SUMMARY_EVERY_S: Final = 60.0
_REPORT_EVERY_S: Final = 3600.0
_REPORT_BATCH: Final = 100
_LOOK_EVERY_S: Final = 5.0
"""Also how long a process must be gone: the server may still commit what it was sent, and takes no longer for that."""
UNKNOWN_AFTER: Final = timedelta(hours=24)
"""Longer than anything takes that is still at work: whoever began it may be on another machine."""

_log = logging.getLogger(__name__)


class Intents(Protocol):
    """Work that was begun and has no outcome yet."""

    def cut_off(self, before: datetime, *, batch: int) -> Sequence[Intent]:
        """What was begun before then, oldest first."""
        ...

    def left_by(self, processes: Collection[str]) -> Sequence[Intent]:
        """What these processes began, has no outcome, and is gone on with by nobody."""
        ...

    def unsequenced_of(self, processes: Collection[str]) -> Collection[str]:
        """Those of these processes that began something of which the trees do not know yet."""
        ...

    def forget(self, intent: Intent) -> None:
        """It has an outcome."""
        ...


class Processes(Protocol):
    """The processes of this machine."""

    def gone(self) -> AbstractContextManager[frozenset[str]]:
        """The ids of those that are gone; while the block runs nobody else is given the same ones."""
        ...

    def forget(self, process: str) -> None:
        """Nothing is left to know of one that is gone."""
        ...


class Records(Protocol):
    """Events of what the sequencer itself finds."""

    def tampering(self, fault: HeadFault) -> None:
        """A log is not what was signed for it."""
        ...

    def abuse(self, abuse: Abuse) -> None:
        """A tenant goes on asking for what its quota refuses."""
        ...

    def unknown(self, intent: Intent) -> None:
        """Nobody said how this ended."""
        ...


class Sequencing:
    """Runs the sequencer until it is told to stop.

    Args:
        sequencer: Grows the trees.
        trees: The trees, to be compared at the start.
        outside: Where heads are kept outside the database.
        keys: The keys as they are now.
        alerts: Is told of security events.
        records: Records what it finds.
        intents: Work without an outcome.
        processes: Who is at work on this machine.
        clock: The time, UTC.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        trees: AllTrees,
        outside: OutsideHeads,
        keys: Callable[[], AuditKeys],
        alerts: Alerts,
        records: Records,
        intents: Intents,
        processes: Processes,
        clock: Clock,
    ) -> None:
        self._sequencer = sequencer
        self._trees = trees
        self._outside = outside
        self._keys = keys
        self._alerts = alerts
        self._records = records
        self._intents = intents
        self._processes = processes
        self._gone: frozenset[str] = frozenset()
        self._abuses = Abuses()
        self._clock = clock
        self._turn = threading.Lock()
        self._unkept: dict[str, tuple[int, str]] = {}
        self._unsummarized = False
        self._told: set[HeadFault] = set()

    def run(self, stop: threading.Event) -> None:
        """Compare, then sequence until `stop` is set."""
        self._try("the heads of the audit logs could not be compared", lambda: len(self.compare()))
        self._try("work without an outcome could not be looked for", self.report_unknown)
        next_summary_s = time.monotonic() + _SUMMARY_EVERY_S
        next_report_s = time.monotonic() + _REPORT_EVERY_S
        next_look_s = time.monotonic()
        while not stop.is_set():
            went_well, done = self._try("the sequencer of the audit log waits", self.round)
            if time.monotonic() >= next_summary_s:
                self._summarize()
                self._sequencer.look_again()
                next_summary_s = time.monotonic() + _SUMMARY_EVERY_S
            if time.monotonic() >= next_report_s:
                self._try("work without an outcome could not be looked for", self.report_unknown)
                next_report_s = time.monotonic() + _REPORT_EVERY_S
            if time.monotonic() >= next_look_s:
                self._try("what was cut off could not be looked for", self.report_cut_off)
                next_look_s = time.monotonic() + _LOOK_EVERY_S
            if done < BATCH:
                stop.wait(_PAUSE_S if went_well else _TROUBLE_S)
        self._try("the last events get their leaves at the next start", self.drain)
        self._summarize()

    def compare(self) -> list[HeadFault]:
        """Look whether each log begins with what was kept outside; what does not is recorded.

        Heads that were signed and not written outside, because of a kill or a full disk, are written there now.

        Raises:
            ConfigurationError: What is kept outside cannot be read, does not hold or cannot be written.
            ProviderUnavailableError: The control plane did not answer.
        """
        found = compared(self._trees, self._outside.heads(), self._keys())
        # Of those alone that were compared, and after that: a log that was rolled back must not vouch for itself.
        with self._turn:
            self._remember(found.ahead)
        for fault in found.faults:
            self._tell(fault)
        with self._turn:
            self._keep()
        return list(found.faults)

    def report_unknown(self, older_than: timedelta = UNKNOWN_AFTER) -> int:
        """Record of what was begun so long ago and has no outcome that it is unknown; returns how much that was.

        Raises:
            ProviderUnavailableError: The control plane did not answer.
        """
        done = 0
        while True:
            found = self._intents.cut_off(self._clock() - older_than, batch=_REPORT_BATCH)
            # Where a log is held the outcome may be among what is pending.
            cut_off = [intent for intent in found if not self._sequencer.is_held(intent.log_id)]
            for intent in cut_off:
                self._records.unknown(intent)
                self._intents.forget(intent)
            done += len(cut_off)
            if len(cut_off) < _REPORT_BATCH:
                return done

    def report_cut_off(self) -> int:
        """Record that it is unknown what became of what processes began that are gone since the last look.

        What the service goes on with itself is left alone, and what began on another machine: that is for
        `report_unknown`.

        Returns:
            How much that was.

        Raises:
            ProviderUnavailableError: The control plane did not answer.
        """
        done = 0
        with self._processes.gone() as gone:
            for_long, self._gone = gone & self._gone, gone
            if not for_long:
                return 0
            waiting = self._intents.unsequenced_of(for_long)
            for intent in self._intents.left_by(for_long):
                self._records.unknown(intent)
                self._intents.forget(intent)
                done += 1
            for process in for_long.difference(waiting):
                self._processes.forget(process)
        return done

    def look_again(self) -> None:
        """Compare every log again before it is grown."""
        self._sequencer.look_again()

    def round(self) -> int:
        """One round; returns how many events it gave their leaves and logs it found to be held.

        Raises:
            ConfigurationError: The keys cannot be read, or the heads cannot be written outside.
            ProviderUnavailableError: The control plane did not answer.
        """
        # Whoever wants a leaf at once works beside the worker.
        with self._turn:
            return self._round()

    def _round(self) -> int:
        done = self._sequencer.round()
        self._remember(done.checkpoints)
        try:
            if done.checkpoints:
                # After the commit: outside must never be ahead of a database that lost nothing.
                failpoints.reach("sequencer.committed")
            self._keep()
            if done.checkpoints:
                failpoints.reach("sequencer.kept")
        finally:
            # Also if nothing could be written outside: these events are pending no more, and in no later round.
            self._look_at(done)
        return len(done.events) + len(done.held)

    def _remember(self, checkpoints: Sequence[str]) -> None:
        """These are to be kept outside: as there, of each log the largest counts, and of one size the first."""
        for note in checkpoints:
            origin, size, _ = note.split("\n", 2)
            if origin not in self._unkept or int(size) > self._unkept[origin][0]:
                self._unkept[origin] = (int(size), note)

    def _keep(self) -> None:
        """Write outside what is not there; what cannot be written stays for the next round.

        Raises:
            ConfigurationError: It cannot be written.
        """
        while self._unkept:
            some = dict(islice(self._unkept.items(), BATCH))
            self._outside.append([note for _, note in some.values()])
            self._unsummarized = True
            for origin in some:
                del self._unkept[origin]

    def _look_at(self, done: Round) -> None:
        """Alarm and count; first what cannot fail."""
        abuses = []
        for event in done.events:
            alert = alert_of(event.event)
            if alert is not None:
                self._alerts.send(alert)
            abuse = self._abuses.seen(event.log_id, event.event)
            if abuse is not None:
                abuses.append(abuse)
        for fault in done.held:
            self._tell(fault)
        for abuse in abuses:
            self._records.abuse(abuse)

    def is_held(self, log_id: str) -> bool:
        """Whether this log is not grown, because it is not what was signed for it."""
        return self._sequencer.is_held(log_id)

    def drain(self) -> None:
        """Rounds until nothing is pending."""
        while self.round():
            pass

    def _tell(self, fault: HeadFault) -> None:
        """Once in a process: nobody reads an alarm that comes every minute."""
        if fault not in self._told:
            _log.error("%s; its events get no leaves until it is seen to", fault)
            self._records.tampering(fault)
            self._told.add(fault)

    def _summarize(self) -> None:
        if self._unsummarized:
            went_well, _ = self._try("the list of the audit logs' heads could not be written", self._outside.summarize)
            self._unsummarized = not went_well

    def _try(self, what: str, work: Callable[[], int | None]) -> tuple[bool, int]:
        """Whether `work` went well, and how much it did."""
        try:
            return True, work() or 0
        except LuminescentError as error:
            # Nothing is lost: events stay pending, and are protected from when they get their leaves; heads that
            # could not be written outside are written with the next round, or at the next start.
            _log.error("%s: %s", what, error)  # noqa: TRY400 - the text says it all
            return False, 0
