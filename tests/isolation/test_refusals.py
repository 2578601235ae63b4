"""Refusals of strangers: each is counted before it is answered, few are events, and none is lost."""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.audit.model import UNKNOWN_ACTOR, AuditDraft
from cloud.kernel.access import Action
from cloud.kernel.errors import AuthenticationError, LuminescentError, PermissionDeniedError, TenantIsolationError
from cloud.kernel.ids import new_event_id, new_request_id
from cloud.memory import CloudMemoryProvider
from cloud.memory.calls import Calls
from cloud.storage import engine as engine_module
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import CONTROL_DATABASE, WORKER_ROLE
from cloud.tenancy.admission import Admissions
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.postgres_refusals import PostgresRefusals
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.refusals import Refusals
from cloud.tenancy.refusals import _report as report_draft
from src.testing.samples import sample_memory
from tests.isolation.probes import Event, Onlooker

EACH, SOURCES = 3, 5
REPORT = "security.authentication_failures"


class Book:
    """Refusals under narrow limits, and what the log says of them."""

    def __init__(self, runtime: CloudRuntime, onlooker: Onlooker) -> None:
        engines = runtime._installation.engines
        self.runtime, self.onlooker = runtime, onlooker
        self.now = datetime.now(UTC)
        self.store = PostgresRefusals(engines.app, engines.worker)
        self.refusals = self.process()

    def process(self) -> Refusals:
        """What another process of the installation has."""
        keyring = self.runtime.pixeltable_config.keyring
        return Refusals(self.store, keyring, lambda: self.now, each=EACH, sources=SOURCES)

    def refuse(self, times: int = 1, *, reason: str = "invalid_key", key_id: str | None = None) -> None:
        for _ in range(times):
            draft = AuditDraft(Action.MEMORY_STORE, UNKNOWN_ACTOR, new_request_id())
            self.refusals.count(draft, AuthenticationError(reason, "x", key_id=key_id))

    def later(self) -> None:
        """Let the minutes be over, as far as the counts are concerned."""
        self.owner("UPDATE refusals SET minute = minute - interval '1 hour'")

    def owner(self, statement: str) -> None:
        with self.runtime._installation.server._server.cluster.connect("luminescent_control") as connection:
            connection.execute(statement.encode())

    def counted(self) -> list[tuple[str, int, dict[str, int]]]:
        rows = self.onlooker.rows("SELECT source, failures, further FROM refusals ORDER BY source, minute")
        return [(source, failures, further) for source, failures, further in rows]


@pytest.fixture
def book(runtime: CloudRuntime, onlooker: Onlooker) -> Iterator[Book]:
    made = Book(runtime, onlooker)
    made.owner("DELETE FROM refusals")
    yield made
    made.owner("DELETE FROM refusals")


def told(events: list[Event]) -> tuple[Counter[str], Counter[str]]:
    """Failures by source that have an event of their own, and those that reports count."""
    single: Counter[str] = Counter()
    further: Counter[str] = Counter()
    for event in events:
        assert (event["log_id"], event["outcome"]) == ("_system", "denied")
        source = event["details"]["source"]
        if event["action"] == REPORT:
            assert event["counts"]["failures"] == sum(event["details"]["reasons"].values())
            further[source] += event["counts"]["failures"]
        else:
            single[source] += 1
    return single, further


def test_the_first_are_recorded_at_once_and_the_others_when_the_minute_is_over(book: Book, onlooker: Onlooker) -> None:
    with onlooker.new_events() as events:
        book.refuse(EACH)
        book.refuse(4, reason="expired_key")
        book.refuse(2, reason="malformed_credential")
    single, further = told(events)
    # A minute may have ended meanwhile.
    assert EACH <= single["unknown"] <= 2 * EACH
    assert all(event["reason"].startswith("authentication:") for event in events)
    with onlooker.new_events() as reports:
        book.later()
        book.refusals.report()
    late = told(reports)[1]
    assert single["unknown"] + further["unknown"] + late["unknown"] == EACH + 6
    assert book.counted() == []
    if len(reports) == 1:
        (report,) = reports
        assert report["details"]["reasons"] == {
            "authentication:expired_key": 4,
            "authentication:malformed_credential": 2,
        }
        assert (report["category"], report["reason"]) == ("security", "repeated")
        assert report["actor"] == {"kind": "system", "id": "refusals", "roles": []}
        assert datetime.fromisoformat(report["details"]["minute"]).second == 0


def test_a_source_that_failed_seldom_needs_no_report(book: Book, onlooker: Onlooker) -> None:
    book.refuse(EACH)
    book.later()
    with onlooker.new_events() as events:
        assert book.refusals.report() >= 0
        assert book.refusals.report() == 0
    assert [event for event in events if event["action"] == REPORT] == []
    assert book.counted() == []


def test_failures_of_eight_threads_in_two_processes_are_counted_exactly(book: Book, onlooker: Onlooker) -> None:
    processes = [book.process(), book.process()]
    with onlooker.new_events() as events:
        threads = [
            threading.Thread(target=_fail, args=(processes[number % 2], number, 25), name=f"stranger-{number}")
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        book.later()
        book.refusals.report()
    single, further = told(events)
    assert sum(single.values()) + sum(further.values()) == 8 * 25
    assert set(single) == {"unknown", "key:00000000000a"}
    for source in single:
        assert single[source] + further[source] == 4 * 25
        assert EACH <= single[source] <= 2 * EACH


def _fail(refusals: Refusals, number: int, times: int) -> None:
    for _ in range(times):
        draft = AuditDraft(Action.MEMORY_STORE, UNKNOWN_ACTOR, new_request_id())
        key_id = "00000000000a" if number % 2 else None
        refusals.count(draft, AuthenticationError("invalid_key", "x", key_id=key_id))


def test_however_many_sources_there_are_the_log_stays_short(book: Book, onlooker: Onlooker) -> None:
    with onlooker.new_events() as events:
        threads = [threading.Thread(target=_wander, args=(book, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        book.later()
        book.refusals.report()
    single, further = told(events)
    assert sum(single.values()) + sum(further.values()) == 8 * 20
    minutes = 2
    assert len(set(single) - {"others"}) <= SOURCES * minutes
    assert len(events) <= (SOURCES + 1) * (EACH + 1) * minutes
    assert further["others"] > 0


def _wander(book: Book, number: int) -> None:
    for step in range(20):
        with request_context(client_address=f"198.51.{number}.{step}"):
            book.refuse()


def test_reporting_twice_at_once_reports_each_count_once(book: Book, onlooker: Onlooker) -> None:
    for number in range(SOURCES):
        book.refuse(EACH + 2, key_id=f"{number:012x}")
    counted = sum(failures for _, failures, _ in book.counted())
    book.later()
    with onlooker.new_events() as events:
        threads = [threading.Thread(target=book.process().report) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(told(events)[1].values()) <= counted
    assert book.counted() == []
    sources = [event["details"]["source"] for event in events if event["action"] == REPORT]
    assert len(sources) <= 2 * SOURCES


def test_the_next_new_source_reports_what_is_over(book: Book, onlooker: Onlooker) -> None:
    book.refuse(EACH + 2)
    book.later()
    with onlooker.new_events() as events:
        book.refuse(1, key_id="00000000000b")
    assert told(events)[1]["unknown"] == 2
    assert told(events)[0] == {"key:00000000000b": 1}


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_an_hour_loses_no_count(book: Book, onlooker: Onlooker, hours: int) -> None:
    """Set back, it leaves counts in a minute that is yet to come: they are not of the present one either."""
    book.refuse(EACH + 2)
    counted = sum(failures for _, failures, _ in book.counted())
    book.owner(f"UPDATE refusals SET minute = minute + interval '{hours} hour'")
    with onlooker.new_events() as events:
        book.refusals.report()
    assert sum(told(events)[1].values()) in (counted - EACH, counted - 2 * EACH)
    assert book.counted() == []


def test_a_report_that_does_not_commit_loses_no_count(book: Book, onlooker: Onlooker) -> None:
    """What was taken comes back with the transaction that took it."""
    book.refuse(EACH + 2)
    book.later()
    before = book.counted()
    with onlooker.connected_as("luminescent_worker") as connection:
        taken = connection.execute(
            "SELECT lc_report('{\"schema\": 1}'::jsonb, ARRAY[gen_random_uuid(), gen_random_uuid()])"
        ).fetchone()
        assert taken is not None
        assert taken[0] == len(before)
    assert book.counted() == before


def test_a_report_that_was_committed_unanswered_loses_no_count(
    book: Book, onlooker: Onlooker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated, it takes other counts: those of the first attempt are gone, and their events are there."""
    for key_id in ("0" * 12, "1" * 12):
        book.refuse(EACH + 2, key_id=key_id)
    book.later()
    counted = sum(sum(further.values()) for _, _, further in book.counted())
    engine = ControlEngine(book.runtime._installation.server.url(WORKER_ROLE, CONTROL_DATABASE), pool_size=1)
    store, real, attempts = PostgresRefusals(engine, engine), engine._translated, itertools.count()

    def lost_at_first(*given: Any, **named: Any) -> object:
        answer = real(*given, **named)
        if next(attempts) == 0:
            raise engine_module._Transient
        return answer

    monkeypatch.setattr(engine, "_translated", lost_at_first)
    with onlooker.new_events() as events:
        while store.report(report_draft(), [new_event_id()]):
            pass
    engine.close()
    assert sum(told(events)[1].values()) == counted
    assert book.counted() == []


# Sources


def test_an_address_is_told_apart_without_being_known_and_not_for_long(book: Book) -> None:
    def source(address: str) -> str:
        with request_context(client_address=address):
            return book.refusals._source(AuthenticationError("x", "x"))

    first = source("203.0.113.7")
    assert re.fullmatch(r"address:[0-9a-f]{16}", first)
    assert source("203.0.113.7") == source("::ffff:203.0.113.7") == first
    assert source("203.0.113.8") != first
    assert source("2001:db8:0:1::1") == source("2001:db8:0:1:ffff::2") != source("2001:db8:0:2::1")
    book.now += timedelta(days=1)
    assert source("203.0.113.7") != first


@pytest.fixture
def memory(runtime: CloudRuntime, book: Book) -> Iterator[CloudMemoryProvider]:
    """A provider whose refusals go to the book."""
    config = runtime.pixeltable_config
    resolver = IdentityResolver(config.identities._keys, config.keyring, config.clock, refusals=book.refusals)
    made = CloudMemoryProvider(config, CloudTenantProvider(resolver), runtime.audit, runtime.usage)
    made._calls = Calls(Admissions(CloudTenantProvider(resolver), resolver, runtime.audit), runtime.audit)
    yield made
    made.close()


async def test_a_stranger_cannot_flood_the_log_and_every_attempt_is_counted(
    memory: CloudMemoryProvider, book: Book, onlooker: Onlooker, runtime: CloudRuntime, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"service"})
    wrong = f"{key[:-64]}{'0' * 64}"
    attempts: list[Callable[[], dict[str, object]]] = [
        dict,
        lambda: {"authorization": "nonsense"},
        lambda: {"authorization": f"lc_{secrets.token_hex(6)}_{'0' * 64}"},
        lambda: {"x-tenant-id": tenant_id},
        lambda: {"tenant_id": "NOBODY"},
        lambda: {"tenant_id": tenant_id, "x-tenant-id": "globex"},
        lambda: {"authorization": wrong},
    ]
    with onlooker.new_events() as events, request_context(client_address="203.0.113.99"):
        for _ in range(10):
            for attempt in attempts:
                with pytest.raises((AuthenticationError, TenantIsolationError)):
                    await memory.store(sample_memory("alice"), attempt())
        book.later()
        book.refusals.report()
    single, further = told(events)
    assert sum(single.values()) + sum(further.values()) == 10 * len(attempts)
    assert len(events) <= 2 * 2 * (EACH + 1)
    of_key = f"key:{key.split('_')[1]}"
    assert single[of_key] + further[of_key] == 10
    assert len(set(single)) == 2
    assert "203.0.113" not in repr(events)


async def test_a_caller_that_is_known_leaves_one_event_for_each_refusal(
    memory: CloudMemoryProvider, onlooker: Onlooker, runtime: CloudRuntime, tenant_id: str
) -> None:
    key = runtime.api_keys.create(tenant_id, roles={"auditor"})
    with onlooker.new_events() as events:
        for _ in range(EACH + 4):
            with pytest.raises(PermissionDeniedError):
                await memory.store(sample_memory("alice"), {"authorization": key})
    assert [(e["log_id"], e["outcome"]) for e in events] == [(tenant_id, "denied")] * (EACH + 4)


async def test_where_a_refusal_cannot_be_counted_the_caller_is_not_answered_as_if_it_were(
    memory: CloudMemoryProvider, book: Book
) -> None:
    book.owner("ALTER TABLE refusals RENAME TO refusals_away")
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is, it is not the answer
            await memory.store(sample_memory("alice"), {"authorization": "nonsense"})
        assert not isinstance(raised.value, LuminescentError)
    finally:
        book.owner("ALTER TABLE refusals_away RENAME TO refusals")
