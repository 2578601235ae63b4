"""Laws of the sequencer: every committed event becomes one leaf, once, in a tree that nobody can fork."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime
from cloud.audit.canonical import canonical
from cloud.audit.keyfile import AuditKeys
from cloud.audit.sequencer import Growth, PendingEvent, Sequencer, TreeReader
from cloud.audit.trees_postgres import PostgresTreeStore, _write
from cloud.audit.verify import LeafRange, leaf_hash, open_checkpoint
from cloud.kernel.errors import ProviderUnavailableError
from cloud.storage.engine import ControlEngine
from src.memory.ids import _Uuid7Source

_LEAVES = sa.text(
    "SELECT l.leaf_index, l.leaf_hash, e.event FROM audit_leaves l JOIN audit_events e USING (event_id)"
    " WHERE l.log_id = :log ORDER BY l.leaf_index"
)


@pytest.fixture
def keys(runtime: CloudRuntime) -> AuditKeys:
    return runtime._installation.proofs.keys.keys()


@pytest.fixture
def worker(runtime: CloudRuntime) -> ControlEngine:
    return runtime._installation.engines.worker


@pytest.fixture
def sequencer(worker: ControlEngine, keys: AuditKeys) -> Sequencer:
    """One beside the installation's own, which is at work all the time."""
    return Sequencer(PostgresTreeStore(worker), lambda: keys)


@pytest.fixture
def drained(runtime: CloudRuntime, sequencer: Sequencer) -> Callable[[str], None]:
    """Sequences, together with the installation's own, until a log has no pending event."""

    def drain(log_id: str) -> None:
        while runtime._installation.proofs.trees.pending(log_id):
            sequencer.round()

    return drain


def assert_whole(runtime: CloudRuntime, worker: ControlEngine, keys: AuditKeys, log_id: str) -> int:
    """The log's leaves are its events, each once and in its place; its head is signed for them."""
    maintenance = runtime._installation.engines.maintenance
    leaves = maintenance.rows(_LEAVES, {"log": log_id})
    assert [row[0] for row in leaves] == list(range(len(leaves)))
    whole = LeafRange()
    for _, hashed, event in leaves:
        assert bytes(hashed) == leaf_hash(canonical(event))
        whole.append(bytes(hashed))
    ((events,),) = maintenance.rows(sa.text("SELECT count(*) FROM audit_events WHERE log_id = :log"), {"log": log_id})
    assert events == len(leaves)
    ((size, note),) = maintenance.rows(
        sa.text("SELECT size, checkpoint FROM audit_trees WHERE log_id = :log"), {"log": log_id}
    )
    head = open_checkpoint(note, [keys.current.verifier(keys.origin(log_id))])
    assert (head.size, head.root) == (size, whole.root())
    assert size == len(leaves)
    return len(leaves)


def write(runtime: CloudRuntime, tenant_id: str, count: int) -> None:
    for number in range(count):
        runtime.audit.log_event("deploy", "alice", f"service {number}", "x", "success", {"tenant_id": tenant_id})


def test_every_event_becomes_the_next_leaf_of_its_own_log(
    runtime: CloudRuntime, worker: ControlEngine, drained: Callable[[str], None], keys: AuditKeys, tenant_id: str
) -> None:
    for count in (1, 2, 5):
        write(runtime, tenant_id, count)
        drained(tenant_id)
        assert_whole(runtime, worker, keys, tenant_id)
    assert assert_whole(runtime, worker, keys, tenant_id) == 1 + 8, "one of them made the tenant"


def test_sequencers_and_writers_at_once_lose_nothing_and_fork_nothing(
    runtime: CloudRuntime, worker: ControlEngine, drained: Callable[[str], None], keys: AuditKeys, tenant_id: str
) -> None:
    stop = threading.Event()

    def sequence() -> None:
        mine = Sequencer(PostgresTreeStore(worker), lambda: keys)
        while not stop.is_set():
            mine.round()

    sequencers = [threading.Thread(target=sequence) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(runtime, tenant_id, 40)) for _ in range(4)]
    for thread in (*sequencers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in sequencers:
        thread.join()
    drained(tenant_id)
    assert assert_whole(runtime, worker, keys, tenant_id) == 1 + 160


def test_who_looks_again_in_the_middle_of_a_round_waits_for_its_end(
    runtime: CloudRuntime, worker: ControlEngine, keys: AuditKeys, tenant_id: str
) -> None:
    """An erasure that wants its leaf at once and the worker share a sequencer."""

    class Interrupted(PostgresTreeStore):
        def round(self, *arguments: Any, **options: Any) -> int:
            done = super().round(*arguments, **options)
            threading.Thread(target=shared.look_again).start()
            time.sleep(0.05)
            return done

    shared = Sequencer(Interrupted(worker), lambda: keys)
    while not shared.round().events:
        # The installation's own sequencer was first: then there was nothing to do.
        write(runtime, tenant_id, 3)


def test_a_round_that_does_not_commit_leaves_nothing_behind(
    runtime: CloudRuntime, worker: ControlEngine, drained: Callable[[str], None], keys: AuditKeys, tenant_id: str
) -> None:
    class Killed(Exception):  # noqa: N818 - stands for the end of a process, not for an error
        pass

    class Ends:
        """Stands after the last growth of a round: all was written, and nothing is committed."""

        def __getattr__(self, _: str) -> object:
            raise Killed

    real = Sequencer(PostgresTreeStore(worker), lambda: keys)

    def grow(pending: Sequence[PendingEvent], trees: TreeReader) -> Sequence[Growth]:
        return [*real._grown(pending, trees)[0], cast(Growth, Ends())]

    killed = written = 0
    while killed < 3:
        # The installation's own sequencer may have been first: then there was nothing to do.
        write(runtime, tenant_id, 3)
        written += 3
        try:
            PostgresTreeStore(worker).round(grow, batch=100)
        except Killed:
            killed += 1
    drained(tenant_id)
    assert assert_whole(runtime, worker, keys, tenant_id) == 1 + written


def test_a_tree_is_grown_from_the_size_that_was_read_or_not_at_all(
    runtime: CloudRuntime, worker: ControlEngine, drained: Callable[[str], None], keys: AuditKeys, tenant_id: str
) -> None:
    """As by a sequencer that lost its lock and does not know; the key of the leaves holds their time, and lets it."""
    drained(tenant_id)
    size = assert_whole(runtime, worker, keys, tenant_id)
    log_id = f"fork-{tenant_id}"
    late = Growth(tenant_id, 0, [], [], {}, "stale")
    for growth, begins in (
        (Growth(tenant_id, size - 1, ["0" * 32], [b"x" * 32], {}, "stale"), "has grown meanwhile"),
        (late, "has grown meanwhile"),
        (Growth(log_id, 0, ["0" * 32], [b"x" * 32], {}, "stale"), "have leaves already"),
        (Growth(log_id, 5, ["0" * 32], [b"x" * 32], {}, "stale"), "has grown meanwhile"),
    ):
        with pytest.raises(ProviderUnavailableError, match=begins):
            worker.transaction(lambda c, g=growth: _write(c, g, datetime.now(UTC)))  # type: ignore[misc]
    assert assert_whole(runtime, worker, keys, tenant_id) == size
    assert runtime._installation.proofs.trees.head(log_id) is None


@pytest.mark.parametrize("clock", [lambda now: now - 7_200, lambda now: now + 7_200])
def test_a_clock_that_jumps_does_not_break_the_order(
    runtime: CloudRuntime,
    worker: ControlEngine,
    drained: Callable[[str], None],
    keys: AuditKeys,
    tenant_id: str,
    clock: Callable[[float], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import time

    write(runtime, tenant_id, 2)
    drained(tenant_id)
    real = time.time_ns
    with monkeypatch.context() as patched:
        # A source of its own: the process's never goes back behind an id that it gave.
        patched.setattr("src.memory.ids._source", _Uuid7Source())
        patched.setattr("src.memory.ids.time.time_ns", lambda: int(clock(real() / 1e9) * 1e9))
        write(runtime, tenant_id, 2)
        drained(tenant_id)
    write(runtime, tenant_id, 1)
    drained(tenant_id)
    assert assert_whole(runtime, worker, keys, tenant_id) == 6


def test_an_event_has_its_leaf_within_a_second(runtime: CloudRuntime, tenant_id: str) -> None:
    """By the installation's own sequencer, while more events come."""
    for _ in range(20):
        write(runtime, tenant_id, 1)
        time.sleep(0.1)
    deadline_s = time.monotonic() + 10
    while runtime._installation.proofs.trees.pending(tenant_id):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    took = runtime._installation.engines.maintenance.rows(
        sa.text(
            "SELECT extract(epoch FROM l.sequenced_at - e.occurred_at) FROM audit_leaves l"
            " JOIN audit_events e USING (event_id) WHERE l.log_id = :log"
        ),
        {"log": tenant_id},
    )
    # The median: a machine that is busy with other things may stop anybody for a moment.
    assert statistics.median(float(seconds) for (seconds,) in took) < 1
