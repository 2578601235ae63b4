"""Laws of the sequencer at work: what cannot be written outside is written later, and takes no alarm with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from cloud.audit.abuse import REFUSALS, Abuse
from cloud.audit.alerts import Alert
from cloud.audit.heads import Fault, Head, HeadFault
from cloud.audit.intents import Intent
from cloud.audit.keyfile import AuditKeys
from cloud.audit.outside import DirectoryHeads
from cloud.audit.sequencer import Growth, PendingEvent, Sequencer, TreeReader
from cloud.audit.sequencing import Intents, Processes, Sequencing
from cloud.audit.signing import SigningKey
from cloud.audit.tiles import LoadTile, Place
from cloud.kernel.errors import ConfigurationError, QuotaExceededError

KEYS = AuditKeys("0011223344556677", (SigningKey.new(),))
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Trees:
    """Trees, and events without a leaf, in this process."""

    def __init__(self) -> None:
        self.pending: list[PendingEvent] = []
        self.grown: dict[str, Head] = {}
        self.hashes: dict[str, dict[Place, bytes]] = {}

    def add(self, log_id: str, count: int = 1, **fields: object) -> None:
        for _ in range(count):
            event_id = str(len(self.pending))
            event = {"event_id": event_id, "log_id": log_id, "occurred_at": NOW.isoformat(), **fields}
            self.pending.append(PendingEvent(event_id, log_id, event))

    def round(
        self,
        grow: Callable[[Sequence[PendingEvent], TreeReader], Sequence[Growth]],
        *,
        batch: int,
        held: Collection[str] = (),
    ) -> int:
        given = [event for event in self.pending if event.log_id not in held][:batch]
        for growth in grow(given, self):
            self.hashes[growth.log_id] = {**self.hashes.get(growth.log_id, {}), **growth.tiles}
            self.grown[growth.log_id] = Head(growth.first + len(growth.event_ids), growth.checkpoint)
            self.pending = [event for event in self.pending if event.log_id != growth.log_id]
        return len(given)

    def heads(self, log_ids: Iterable[str]) -> Mapping[str, Head]:
        return {log_id: self.grown[log_id] for log_id in log_ids if log_id in self.grown}

    def all_heads(self) -> Mapping[str, Head]:
        return dict(self.grown)

    def tiles(self, log_id: str) -> LoadTile:
        hashes = dict(self.hashes.get(log_id, {}))
        return lambda place: hashes.get(place, b"")


class Disk(DirectoryHeads):
    """Heads on a disk that the test fills."""

    is_full = False

    def append(self, notes: Sequence[str]) -> None:
        if self.is_full:
            raise ConfigurationError("the disk is full")
        super().append(notes)

    def sizes(self) -> dict[str, int]:
        return {log_id: head.size for log_id, head in self.heads().items()}


class Told:
    """`Alerts` and `Records` that a test reads."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.faults: list[HeadFault] = []
        self.abuses: list[Abuse] = []

    def send(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def close(self) -> None:
        pass

    def tampering(self, fault: HeadFault) -> None:
        self.faults.append(fault)

    def abuse(self, abuse: Abuse) -> None:
        self.abuses.append(abuse)

    def unknown(self, intent: Intent) -> None:
        raise AssertionError(intent)


@pytest.fixture
def trees() -> Trees:
    return Trees()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "heads", lambda: KEYS, lambda: NOW)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def started(trees: Trees, disk: Disk, told: Told) -> Callable[[], Sequencing]:
    """A process that begins; whatever another one remembered is gone."""

    def start() -> Sequencing:
        sequencer = Sequencer(trees, lambda: KEYS, disk.heads)
        no_work, no_processes = cast(Intents, None), cast(Processes, None)
        return Sequencing(sequencer, trees, disk, lambda: KEYS, told, told, no_work, no_processes, lambda: NOW)

    return start


def test_alarms_are_given_once_whatever_becomes_of_the_heads(
    trees: Trees, disk: Disk, told: Told, started: Callable[[], Sequencing]
) -> None:
    sequencing = started()
    trees.add("acme", category="security", action="token.theft")
    trees.add("acme", REFUSALS, category="memory", reason=QuotaExceededError.code)
    disk.is_full = True
    with pytest.raises(ConfigurationError, match="the disk is full"):
        sequencing.round()
    assert trees.pending == []
    disk.is_full = False
    sequencing.round()
    assert [alert["action"] for alert in told.alerts] == ["token.theft"]
    assert told.abuses == [Abuse("acme", "memories", REFUSALS)]


def test_a_head_that_could_not_be_written_outside_is_written_when_there_is_room(
    trees: Trees, disk: Disk, started: Callable[[], Sequencing]
) -> None:
    sequencing = started()
    disk.is_full = True
    for log_id, count in (("acme", 3), ("other", 1), ("acme", 2)):
        trees.add(log_id, count)
        with pytest.raises(ConfigurationError):
            sequencing.round()
    with pytest.raises(ConfigurationError):
        sequencing.round()
    disk.is_full = False
    assert sequencing.round() == 0
    assert disk.sizes() == {"acme": 5, "other": 1}


def test_a_log_that_is_rolled_back_while_nothing_can_be_written_is_noticed(
    trees: Trees, disk: Disk, told: Told, started: Callable[[], Sequencing]
) -> None:
    sequencing = started()
    trees.add("acme", 3)
    sequencing.round()
    before = trees.grown["acme"], trees.hashes["acme"]
    disk.is_full = True
    trees.add("acme", 2)
    with pytest.raises(ConfigurationError):
        sequencing.round()
    trees.grown["acme"], trees.hashes["acme"] = before
    trees.add("acme")
    with pytest.raises(ConfigurationError):
        sequencing.round()
    disk.is_full = False
    sequencing.round()
    assert disk.sizes() == {"acme": 5}
    assert started().compare() == told.faults == [HeadFault("acme", Fault.CUT_OFF, 4, 5)]


def test_heads_that_a_process_died_with_are_written_at_the_next_start(
    trees: Trees, disk: Disk, told: Told, started: Callable[[], Sequencing]
) -> None:
    """So that cutting off a log that grows no more is noticed."""
    sequencing = started()
    trees.add("acme", 3)
    sequencing.round()
    before = trees.grown["acme"], trees.hashes["acme"]
    disk.is_full = True
    trees.add("acme", 2)
    trees.add("other", 1)
    with pytest.raises(ConfigurationError):
        sequencing.round()
    with pytest.raises(ConfigurationError):
        started().compare()
    disk.is_full = False
    assert started().compare() == []
    assert disk.sizes() == {"acme": 5, "other": 1}
    trees.grown["acme"], trees.hashes["acme"] = before
    assert started().compare() == told.faults == [HeadFault("acme", Fault.CUT_OFF, 3, 5)]


def test_a_log_that_is_not_what_was_signed_for_it_does_not_vouch_for_itself_at_a_start(
    trees: Trees, disk: Disk, started: Callable[[], Sequencing]
) -> None:
    sequencing = started()
    trees.add("acme", 3)
    trees.add("forked", 3)
    trees.add("other", 1)
    sequencing.round()
    was = {log_id: head.checkpoint for log_id, head in trees.grown.items()}
    del trees.grown["forked"], trees.hashes["forked"]
    trees.add("forked", 5, fork=True)
    trees.add("other", 1)
    # By somebody who has the keys: it looks at nothing outside.
    Sequencer(trees, lambda: KEYS).round()
    trees.grown["acme"] = Head(2, was["acme"])
    faults = [HeadFault("acme", Fault.UNSIGNED, 2, 3), HeadFault("forked", Fault.CHANGED, 5, 3)]
    assert started().compare() == faults
    assert disk.sizes() == {"acme": 3, "forked": 3, "other": 2}
