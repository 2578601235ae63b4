"""Laws of archiving: an archived log is the same evidence as before, and nothing is lost, early or in silence gone."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from cloud import CloudRuntime, request_context
from cloud.audit.archive import Archive
from cloud.audit.archive_files import ArchiveFiles
from cloud.audit.archives_postgres import PostgresArchives
from cloud.audit.archiving import Archived, Archiver
from cloud.audit.exports import Evidence
from cloud.audit.retention import AuditRetention, Month, RetentionRules
from cloud.audit.verify import verify_bundle
from cloud.audit.whole import WholeLogs
from cloud.kernel import failpoints
from cloud.kernel.clock import Clock, system_clock
from cloud.kernel.errors import ConfigurationError, OperationInProgressError, UnreadableFileError
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE
from src.testing.samples import sample_memory
from tests.support.lost_commits import lost_commit

PAST = (datetime.now(UTC) - timedelta(days=620)).replace(day=10, hour=0, minute=0, second=0, microsecond=0)
MONTH, NEXT = Month.of(PAST), Month.of(PAST + timedelta(days=31))
"""Months so long past that the database lets their leaves go, and an archive of them can have been kept long enough."""
RULES = RetentionRules({"free": AuditRetention(90, 400), "team": AuditRetention(400, None)}, 365)


@pytest.fixture
def owner(runtime: CloudRuntime) -> Iterator[ControlEngine]:
    engine = ControlEngine(runtime._installation.server.url(OWNER_ROLE, CONTROL_DATABASE), pool_size=1)
    yield engine
    engine.close()


@dataclass
class Log:
    """A tenant's log, and an archiver of its own that is not bound by the real time."""

    runtime: CloudRuntime
    owner: ControlEngine
    log_id: str
    directory: Path

    @property
    def files(self) -> ArchiveFiles:
        return ArchiveFiles(self.directory)

    @property
    def archives(self) -> PostgresArchives:
        return PostgresArchives(self.runtime._installation.engines.maintenance)

    def evidence(self) -> Evidence:
        proofs = self.runtime._installation.proofs
        whole = WholeLogs(proofs.trees, self.archives, self.files)
        return Evidence(whole, proofs.sequencing, proofs.outside, proofs.keys.keys, lambda: None)

    def archiver(self, clock: Clock = system_clock, rules: RetentionRules = RULES) -> Archiver:
        proofs = self.runtime._installation.proofs
        return Archiver(
            self.archives, self.files, proofs.trees, proofs.outside, proofs.keys.keys, self.runtime.audit, rules, clock
        )

    def archive(self, **more: Any) -> Archived:
        return self.archiver(**more).run(tenants=[self.log_id])

    def write(self, count: int) -> None:
        for number in range(count):
            self.runtime.audit.log_event("deploy", "a", f"s{number}", "x", "success", {"tenant_id": self.log_id})
        self.evidence().catch_up(self.log_id)

    def age(self, first: int, end: int, at: datetime, *, occurred: bool = False) -> None:
        """Let these leaves be of then. The events' own times in the table, which no hash covers, may follow."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.text("SELECT lc_audit_month(:at)"), {"at": at})
            bound = {"at": at, "log": self.log_id, "first": first, "end": end}
            chosen = "log_id = :log AND leaf_index >= :first AND leaf_index < :end"
            connection.execute(sa.text(f"UPDATE audit_leaves SET sequenced_at = :at WHERE {chosen}"), bound)
            if occurred:
                connection.execute(
                    sa.text(
                        "UPDATE audit_events SET occurred_at = :at WHERE event_id IN"
                        f" (SELECT event_id FROM audit_leaves WHERE {chosen})"
                    ),
                    bound,
                )

        self.owner.transaction(work)

    def export(self, directory: Path, **span: datetime) -> dict[str, bytes]:
        """The files of an export, which verifies."""
        asked: dict[str, datetime | None] = {"since": None, "until": None, **span}
        with self.evidence().exported(self.log_id, directory, **asked, view=None, progress=lambda *_: None) as bundle:
            pass
        result = verify_bundle(directory, key=bundle.verifier_key)
        assert result.origin_established
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def online(self) -> int:
        query = "SELECT count(*) FROM audit_events WHERE log_id = :log"
        return int(self.owner.rows(sa.text(query), {"log": self.log_id})[0][0])

    def events(self) -> list[tuple[str, str]]:
        return [
            (str(e["action"]), str(e["outcome"]))
            for e in self.runtime.audit._store.events(self.log_id, since=None, until=None)
        ]


@pytest.fixture
def log(runtime: CloudRuntime, owner: ControlEngine, tenant_id: str, tmp_path: Path) -> Iterator[Log]:
    name = f"{tenant_id}-free"
    runtime.tenants.create(name, plan="free")
    found = Log(runtime, owner, name, tmp_path / "archives")
    found.write(1)
    yield found
    # The installation is everybody's: nothing of the log may be due, or be missed, in it.
    for statement in (
        "DELETE FROM audit_archives WHERE log_id = :log",
        "UPDATE audit_leaves SET sequenced_at = lc_audit_now() WHERE log_id = :log",
    ):
        owner.transaction(lambda c, s=statement: c.execute(sa.text(s), {"log": name}))  # type: ignore[misc]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


def test_an_export_of_archived_events_is_the_one_of_before(log: Log, tmp_path: Path) -> None:
    log.write(30)
    log.age(0, 10, PAST)
    log.age(10, 20, PAST + timedelta(days=31))
    before = log.export(tmp_path / "before")
    done = log.archive()
    assert [(one.month, one.first, one.end) for one in done.archives] == [
        (MONTH, 0, 10),
        (NEXT, 10, 20),
    ]
    for archive in done.archives:
        path = log.files.path(archive)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.name == f"{archive.month}-{archive.first}.parquet"
    assert log.online() == 32 - 20 + 4, "but for the archived ones, and intent and outcome of each month"
    assert MONTH not in log.archives.months(), "an empty month is dropped"
    after = log.export(tmp_path / "after")
    old, new = (files["events.ndjson"].splitlines() for files in (before, after))
    assert new[: len(old)] == old
    assert log.events()[-4:] == [("audit.archive.step", "allowed"), ("audit.archive", "allowed")] * 2
    assert log.archive().due == [], "the same again finds nothing to do"


def test_a_span_of_time_is_found_where_its_ends_are_archived(log: Log, tmp_path: Path) -> None:
    log.write(30)
    for first in (0, 5, 10, 15):
        at = PAST + timedelta(days=31 * (first // 10), hours=first)
        log.age(first, first + 5, at, occurred=True)
    spans: list[dict[str, datetime]] = [
        {"since": PAST + timedelta(hours=5), "until": PAST + timedelta(days=31, hours=11)},
        {"since": PAST + timedelta(hours=6)},
        {"until": PAST + timedelta(hours=1)},
        {"until": PAST},
        {"since": PAST - timedelta(days=1), "until": PAST + timedelta(days=40)},
    ]
    before = [log.export(tmp_path / f"before-{at}", **span)["events.ndjson"] for at, span in enumerate(spans)]
    assert [len(text.splitlines()) for text in before] == [12, 23, 6, 1, 21]
    log.archive()
    after = [log.export(tmp_path / f"after-{at}", **span)["events.ndjson"] for at, span in enumerate(spans)]
    for old, new in zip(before, after, strict=True):
        assert new.startswith(old)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "was changed"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"deploy", b"DEPLOY") + b"x"), "was changed"),
        (lambda path: (shutil.move(path, f"{path}.away"), path.symlink_to(f"{path}.away")), "cannot be read"),
    ],
)
def test_an_archive_that_is_missing_or_changed_is_named_with_its_leaves(
    log: Log, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    log.write(10)
    log.age(0, 6, PAST)
    (archive,) = log.archive().archives
    path = log.files.path(archive)
    spoil(path)
    with pytest.raises(UnreadableFileError, match=said) as refused:
        log.export(tmp_path / "out")
    assert str(path) in str(refused.value)
    assert f"leaves 0 to 5 of the audit log of {log.log_id}" in str(refused.value)
    log.write(1)
    since = log.owner.rows(sa.text("SELECT max(occurred_at) FROM audit_events WHERE log_id = :l"), {"l": log.log_id})
    log.export(tmp_path / "later", since=since[0][0])


def test_a_log_that_was_changed_is_not_archived_and_stays_as_it_is(log: Log) -> None:
    log.write(10)
    log.age(0, 6, PAST)
    edit = (
        "UPDATE audit_events SET event = jsonb_set(event, '{outcome}', '\"denied\"') WHERE event_id ="
        " (SELECT event_id FROM audit_leaves WHERE log_id = :log AND leaf_index = 3)"
    )
    log.owner.transaction(lambda c: c.execute(sa.text(edit), {"log": log.log_id}))
    online = log.online()
    done = log.archive()
    assert list(done.failed) == [log.log_id]
    assert "leaf 3 is not what the log's tree has" in str(done.failed[log.log_id])
    assert log.online() == online + 2
    assert log.events()[-1] == ("audit.archive", "failed")
    assert log.archives.of(log.log_id) == []


def test_leaves_that_do_not_follow_each_other_in_a_month_are_archives_of_their_own(log: Log, tmp_path: Path) -> None:
    """As a clock makes them that jumps back over the turn of a month."""
    log.write(20)
    log.age(0, 20, PAST)
    log.age(5, 8, PAST + timedelta(days=31))
    before = log.export(tmp_path / "before")["events.ndjson"]
    done = log.archive()
    assert [(str(one.month), one.first, one.end) for one in done.archives] == [
        (str(MONTH), 0, 5),
        (str(MONTH), 8, 20),
        (str(NEXT), 5, 8),
    ]
    assert log.export(tmp_path / "after")["events.ndjson"].startswith(before)


@pytest.mark.parametrize("place", [name for name in failpoints.NAMES if name.startswith("audit_archive.")])
def test_what_was_broken_off_anywhere_is_gone_on_with(log: Log, tmp_path: Path, place: str) -> None:
    class Killed(Exception):  # noqa: N818 - stands for the end of a process, not for an error
        pass

    def die() -> None:
        raise Killed

    log.write(10)
    log.age(0, 6, PAST)
    before = log.export(tmp_path / "before")["events.ndjson"]
    failpoints.arm(place, die)
    with pytest.raises(Killed):
        log.archive()
    assert log.export(tmp_path / "between")["events.ndjson"].startswith(before)
    failpoints.disarm_all()
    log.archive()
    assert [(one.first, one.end) for one in log.archives.of(log.log_id)] == [(0, 6)]
    assert log.archives.first_leaf(log.log_id, MONTH) is None
    assert log.export(tmp_path / "after")["events.ndjson"].startswith(before)


def test_the_database_removes_nothing_that_is_in_no_archive_or_young(log: Log, runtime: CloudRuntime) -> None:
    log.write(10)
    log.age(0, 6, PAST)
    written = log.files.write(log.log_id, MONTH, 0, log.archives.run(log.log_id, MONTH, 0))
    assert written is not None
    online = log.online()
    with pytest.raises(ConfigurationError, match="in no archive"):
        log.archives.remove(written)
    this = Month.of(datetime.now(UTC))
    young = Archive(log.log_id, 6, 12, this, PAST, PAST, b"x" * 32, 1)
    log.archives.record(young)
    with pytest.raises(ConfigurationError, match="not a week past"):
        log.archives.remove(young)
    assert not log.archives.drop(this)
    assert log.online() == online
    delete = sa.text("DELETE FROM audit_leaves WHERE log_id = :log")
    with pytest.raises(DBAPIError, match="permission denied"):
        runtime._installation.engines.maintenance.transaction(lambda c: c.execute(delete, {"log": log.log_id}))


def test_an_archive_whose_record_was_committed_unanswered_is_recorded_once(log: Log, runtime: CloudRuntime) -> None:
    archive = Archive(log.log_id, 0, 6, MONTH, PAST, PAST, b"x" * 32, 1)
    with lost_commit(runtime._installation.engines.maintenance):
        log.archives.record(archive)
    assert log.archives.of(log.log_id) == [archive]
    with pytest.raises(ConfigurationError, match="leaves 0 to 5 .* in another archive"):
        log.archives.record(replace(archive, sha256=b"y" * 32))
    assert log.archives.of(log.log_id) == [archive]


def test_an_archive_is_deleted_when_it_was_kept_long_enough_and_its_export_says_so(log: Log, tmp_path: Path) -> None:
    log.write(20)
    log.age(0, 10, PAST, occurred=True)
    log.age(10, 15, PAST + timedelta(days=62), occurred=True)
    done = log.archive(clock=lambda: PAST + timedelta(days=300))
    assert len(done.archives) == 2
    kept = MONTH.ends + timedelta(days=400)
    assert log.archive(clock=lambda: kept - timedelta(seconds=1)).deleted == []
    minimum = RetentionRules(RULES.plans, 500)
    assert log.archive(clock=lambda: kept + timedelta(days=99), rules=minimum).deleted == []
    (gone,) = log.archive(clock=lambda: kept).deleted
    assert (gone.first, gone.end) == (0, 10)
    assert not log.files.path(gone).exists()
    assert log.events()[-2:] == [("audit.archive_delete.step", "allowed"), ("audit.archive_delete", "allowed")]
    for number, span in enumerate(({}, {"since": PAST}, {"until": PAST + timedelta(days=1)})):
        with pytest.raises(ConfigurationError, match=f"were kept until {kept:%Y-%m-%d} and are deleted") as refused:
            log.export(tmp_path / f"gone-{number}", **span)
    assert f"--since {PAST:%Y-%m-%d}T00:00:01Z" in str(refused.value)
    later = log.export(tmp_path / "later", since=PAST + timedelta(seconds=1))
    assert verify_bundle(tmp_path / "later").first == 10
    assert later["events.ndjson"].count(b"\n") >= 10
    assert log.archive(clock=lambda: kept).deleted == []


def test_a_file_that_a_kill_left_behind_goes_the_next_time(log: Log) -> None:
    class Killed(Exception):  # noqa: N818 - stands for the end of a process, not for an error
        pass

    def die() -> None:
        raise Killed

    log.write(10)
    log.age(0, 6, PAST, occurred=True)
    (archive,) = log.archive(clock=lambda: PAST + timedelta(days=300)).archives
    late = MONTH.ends + timedelta(days=500)
    failpoints.arm("audit_archive_delete.marked", die)
    with pytest.raises(Killed):
        log.archive(clock=lambda: late)
    assert log.files.path(archive).exists()
    failpoints.disarm_all()
    log.archive(clock=lambda: late)
    assert not log.files.path(archive).exists()


def test_a_log_in_which_nothing_happens_is_left_alone(log: Log) -> None:
    """Or each archived month would make another month to archive, for ever."""
    log.write(5)
    log.evidence().catch_up(log.log_id)
    log.age(0, 7, PAST)
    assert len(log.archive().archives) == 1
    log.evidence().catch_up(log.log_id)
    log.age(7, 9, PAST + timedelta(days=31))
    assert log.archive().due == []
    log.write(1)
    log.age(7, 10, PAST + timedelta(days=31))
    assert len(log.archive().archives) == 1, "together with what happened"


def test_one_archives_at_a_time(log: Log) -> None:
    with log.archives.alone() as alone:
        assert alone
        with pytest.raises(OperationInProgressError):
            log.archive()
    log.archive()


def test_an_operator_is_told_what_is_due_before_it_is_done(log: Log, runtime: CloudRuntime) -> None:
    log.write(5)
    log.age(0, 4, PAST)
    due = {one.log_id: one.months for one in runtime.audit_archives.archive(dry_run=True).due}
    assert due[log.log_id] == [MONTH]
    assert log.archives.of(log.log_id) == []
    done = runtime.audit_archives.archive()
    assert [one.first for one in done.archives if one.log_id == log.log_id] == [0]
    said = [e for e in runtime.audit._store.events("_system", since=None, until=None) if e["action"] == "audit.archive"]
    assert [event["reason"] for event in said[-2:]] == ["preview", "requested"]


async def test_the_erasure_of_a_person_breaks_neither_tree_nor_archive(
    log: Log, runtime: CloudRuntime, tmp_path: Path
) -> None:
    with request_context(tenant_id=log.log_id, user_id="alice", roles={"service"}):
        for number in range(6):
            await runtime.memory.store(sample_memory("alice", content=f"thing {number}"), {})
    log.evidence().catch_up(log.log_id)
    person = runtime.pixeltable_config.keyring.resolve_subject(log.log_id, "alice", create=False)
    assert person is not None
    log.age(0, 5, PAST)
    log.archive()
    erased = await runtime.gdpr.delete_user_data("alice", log.log_id, confirmed=True, reason="request 17")
    assert erased is not None
    events = log.export(tmp_path / "out")["events.ndjson"]
    assert events.count(person.subject_id.encode()) >= 6, "in the archive and in the database; it points to nobody"
    assert b"alice" not in events


def test_a_file_that_holds_something_else_is_not_overwritten(log: Log) -> None:
    log.write(6)
    log.age(0, 4, PAST)
    draft = Archive(log.log_id, 0, 1, MONTH, PAST, PAST, b"", 0)
    path = log.files.path(draft)
    for directory in (log.directory, path.parent):
        directory.mkdir(mode=0o700)
    path.write_bytes(b"of before a restore")
    log.archive()
    kept = [one for one in path.parent.iterdir() if ".kept." in one.name]
    assert [one.read_bytes() for one in kept] == [b"of before a restore"]
    log.files.check(log.archives.of(log.log_id)[0])
