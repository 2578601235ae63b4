"""Any history of charges, holds and months agrees with a plain model, meter by meter; and the books always agree.

The model knows no locks, shards, ledger or generations: a dictionary of numbers, and the rule that used, held and
requested together never exceed a limit.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import LuminescentError, QuotaExceededError, ReservationClosedError
from cloud.usage.model import Meter, Reservation, next_month
from src.memory.schemas import Memory
from src.testing.samples import sample_memory
from tests.support.ledgers import Clock, as_owner, events
from tests.support.loops import LoopThread, loop_thread

_T = TypeVar("_T")

_LIMITS = {"memories": 7, "stored_bytes": 900, "memories_per_subject": 4, "writes": 12, "reads": 5, "tokens": 40}
_PEOPLE = ("alice", "bob")
_FLOWS = ("writes", "reads", "tokens")
_BEGIN = datetime(2031, 1, 31, 12, tzinfo=UTC)
_numbers = itertools.count(1)


@dataclass(slots=True)
class Hold:
    """A reservation as it should be."""

    reservation: Reservation
    expires_at: datetime
    state: str = "held"
    actual: int = 0


@dataclass(slots=True)
class Model:
    """A tenant's meters as they should be."""

    now: datetime = _BEGIN
    memories: dict[str, tuple[str, int]] = field(default_factory=dict)
    flows: Counter[tuple[str, str]] = field(default_factory=Counter)
    holds: list[Hold] = field(default_factory=list)
    tracked: set[str] = field(default_factory=set)
    passed: Counter[tuple[str, int]] = field(default_factory=Counter)

    def used(self, meter: str) -> int:
        """Units of a meter; of a person's memories nobody's."""
        match meter:
            case "memories":
                return len(self.memories)
            case "stored_bytes":
                return sum(size for _, size in self.memories.values())
        return self.flows[meter, f"{self.now:%Y-%m}"]

    def held(self, meter: str) -> int:
        """Units of a meter that holds keep."""
        return sum(
            hold.reservation.amount
            for hold in self.holds
            if hold.reservation.meter == meter and hold.state == "held" and hold.expires_at > self.now
        )

    def of(self, person: str) -> int:
        """Memories of one person."""
        return sum(owner == person for owner, _ in self.memories.values())

    def full(self, meter: str, requested: int) -> bool:
        """Whether that many more do not fit."""
        return self.used(meter) + self.held(meter) + requested > _LIMITS[meter]

    def charge(self, meter: str, units: int) -> None:
        """Count, and note which thresholds that takes the meter over."""
        self._pass(meter, self.used(meter), self.used(meter) + units, _LIMITS[meter])
        if meter in _FLOWS:
            self.flows[meter, f"{self.now:%Y-%m}"] += units

    def accept(self, ids: list[tuple[str, str, int]]) -> None:
        """Memories are stored: id, person and size of each."""
        self.charge("memories", len(ids))
        self.charge("stored_bytes", sum(size for _, _, size in ids))
        self.charge("writes", len(ids))
        for person, added in Counter(person for _, person, _ in ids).items():
            before = self.of(person)
            self._pass("memories_per_subject", before, before + added, _LIMITS["memories_per_subject"])
        self.memories.update({memory_id: (person, size) for memory_id, person, size in ids})

    def _pass(self, meter: str, before: int, after: int, limit: int) -> None:
        for percent in (80, 100):
            if before * 100 < limit * percent <= after * 100:
                self.passed[meter, percent] += 1


class Quota(RuleBasedStateMachine):
    """Does to a tenant and to the model the same."""

    runtime: CloudRuntime
    loop: LoopThread

    def __init__(self) -> None:
        super().__init__()
        self.tenant_id = f"quota-{next(_numbers)}"
        self.runtime.tenants.create(self.tenant_id, plan="enterprise", limits=_LIMITS)
        self.model = Model()
        self.clock = Clock(self.runtime, self.tenant_id)
        self.clock.set(self.model.now)

    def teardown(self) -> None:
        self.clock.let_go()

    def call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        with request_context(tenant_id=self.tenant_id, roles={"service", "tenant_admin"}):
            return self.loop.run(work())

    def attempt(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T | LuminescentError:
        try:
            return self.call(work)
        except LuminescentError as error:
            return error

    @rule(people=st.lists(st.sampled_from(_PEOPLE), min_size=1, max_size=3), advice=st.booleans())
    def store(self, people: list[str], advice: bool) -> None:
        batch: list[Memory] = [sample_memory(person, content="x" * 60) for person in people]
        # With a key no advice is asked for: the transaction decides and knows every size.
        context = {} if advice else {"idempotency_key": f"k-{next(_numbers)}"}
        answer = self.attempt(lambda: self.runtime.memory.store_many(batch, context))
        if isinstance(answer, QuotaExceededError):
            model, wanted = self.model, len(people)
            assert answer.requested >= 1
            assert answer.limit == _LIMITS[answer.meter]
            if answer.meter == "memories_per_subject":
                added = Counter(people)
                assert any(model.of(person) + added[person] > answer.limit for person in added)
                assert answer.used + answer.requested > answer.limit
            else:
                assert answer.used == model.used(answer.meter) + model.held(answer.meter)
                assert answer.used + answer.requested > answer.limit
            flow = answer.meter in _FLOWS
            assert (answer.resets_at is not None) is flow
            if not advice and answer.meter in ("memories", "writes"):
                assert (answer.requested, model.full(answer.meter, wanted)) == (wanted, True)
            return
        assert isinstance(answer, list | tuple), answer
        query = "SELECT size_bytes FROM memories WHERE memory_id = :id"
        sizes = [int(as_owner(self.runtime, query, id=memory_id)[0][0]) for memory_id in answer]
        for meter, units in (("memories", len(people)), ("writes", len(people)), ("stored_bytes", sum(sizes))):
            assert not self.model.full(meter, units), f"{meter} was full"
        for person, added in Counter(people).items():
            assert self.model.of(person) + added <= _LIMITS["memories_per_subject"]
        self.model.accept(list(zip(answer, people, sizes, strict=True)))

    @rule(choice=st.integers(0, 100))
    @precondition(lambda self: self.model.memories)
    def delete(self, choice: int) -> None:
        memory_id = sorted(self.model.memories)[choice % len(self.model.memories)]
        assert self.call(lambda: self.runtime.memory.delete(memory_id))
        del self.model.memories[memory_id]

    @rule(person=st.sampled_from(_PEOPLE))
    def erase(self, person: str) -> None:
        self.call(
            lambda: self.runtime.gdpr.delete_user_data(person, self.tenant_id, confirmed=True, reason="stateful test")
        )
        self.model.memories = {key: held for key, held in self.model.memories.items() if held[0] != person}

    @rule(person=st.sampled_from(_PEOPLE))
    def read(self, person: str) -> None:
        answer = self.attempt(lambda: self.runtime.memory.retrieve("x", person))
        if self.model.full("reads", 1):
            assert isinstance(answer, QuotaExceededError)
            assert (answer.meter, answer.used) == ("reads", self.model.used("reads") + self.model.held("reads"))
            return
        assert isinstance(answer, list), answer
        self.model.charge("reads", 1)

    @rule(tokens=st.integers(0, 12), name=st.sampled_from(["a", "b", "c", None]))
    def track(self, tokens: int, name: str | None) -> None:
        metadata: dict[str, object] = {"tenant_id": self.tenant_id} | ({"event_id": name} if name else {})
        self.runtime.usage.track("generate", tokens, metadata)
        if name is None or name not in self.model.tracked:
            self.model.charge("tokens", tokens)
        if name is not None:
            self.model.tracked.add(name)

    @rule(meter=st.sampled_from(_FLOWS), amount=st.integers(1, 8), ttl_s=st.integers(1, 7_200))
    def reserve(self, meter: str, amount: int, ttl_s: int) -> None:
        full = self.model.full(meter, amount)
        if full:
            with pytest.raises(QuotaExceededError) as refused:
                self.runtime.usage.reserve(self.tenant_id, meter, amount, ttl_s=ttl_s)
            assert refused.value.used == self.model.used(meter) + self.model.held(meter)
            return
        hold = self.runtime.usage.reserve(self.tenant_id, meter, amount, ttl_s=ttl_s)
        self.model.holds.append(Hold(hold, self.model.now + timedelta(seconds=ttl_s)))

    @rule(choice=st.integers(0, 100), actual=st.none() | st.integers(0, 10), commit=st.booleans())
    @precondition(lambda self: self.model.holds)
    def settle(self, choice: int, actual: int | None, commit: bool) -> None:
        hold = self.model.holds[choice % len(self.model.holds)]
        if not commit:
            self.runtime.usage.release(hold.reservation)
            if hold.state == "held":
                hold.state = "released"
            return
        if hold.state == "released":
            with pytest.raises(ReservationClosedError):
                self.runtime.usage.commit(hold.reservation, actual)
            return
        booked = self.runtime.usage.commit(hold.reservation, actual)
        if hold.state == "held":
            hold.state, hold.actual = "committed", hold.reservation.amount if actual is None else actual
            self.model.charge(hold.reservation.meter, hold.actual)
        assert booked == hold.actual

    @rule(minutes=st.integers(1, 600))
    def time_passes(self, minutes: int) -> None:
        self.model.now += timedelta(minutes=minutes)
        self.clock.set(self.model.now)

    @rule()
    def next_month_begins(self) -> None:
        self.model.now = next_month(self.model.now)
        self.clock.set(self.model.now)

    @invariant()
    def every_meter_is_what_the_model_says(self) -> None:
        balances = self.runtime.usage._store.balances(self.tenant_id, tuple(Meter))
        assert balances is not None
        for meter, balance in balances.items():
            if meter is Meter.MEMORIES_PER_SUBJECT:
                assert balance.used == max(self.model.of(person) for person in _PEOPLE)
            else:
                assert (meter, balance.used) == (meter, self.model.used(meter))
            assert (meter, balance.held) == (meter, self.model.held(meter))

    @invariant()
    def each_threshold_left_its_events(self) -> None:
        found = events(self.runtime, self.tenant_id, "usage.threshold")
        assert Counter((event["details"]["meter"], event["details"]["percent"]) for event in found) == self.model.passed

    @invariant()
    def the_books_agree(self) -> None:
        assert self.runtime.usage.reconcile(self.tenant_id) == []


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with loop_thread() as running:
        yield running


def test_the_meters_agree_with_a_plain_model(runtime: CloudRuntime, loop: LoopThread) -> None:
    machine = type("QuotaOfThisRun", (Quota,), {"runtime": runtime, "loop": loop})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
