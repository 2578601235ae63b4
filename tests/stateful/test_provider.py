"""Any history of two tenants with people of the same names agrees with plain dictionaries.

The model knows nothing of hot tiers, intake, Pixeltable, generations or keys; drains and forgotten snapshots, which
move memories between those, must therefore change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cloud import CloudRuntime, request_context
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.kernel.errors import (
    IdempotencyConflictError,
    LuminescentError,
    MemoryNotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RevisionConflictError,
)
from src.memory.filters import parse_filters
from src.memory.lifecycle import ChangeKind, MemoryPage
from src.memory.predicates import matches
from src.memory.schemas import Memory
from src.testing.strategies import filters, memories
from tests.isolation.probes import Onlooker
from tests.support.loops import LoopThread, loop_thread

_T = TypeVar("_T")

_LIMIT = 6
_USERS = ("alice", "bob", "alice2")
_UNREAD = {"id", "last_accessed_at"}
_numbers = itertools.count(1)


@dataclass(slots=True)
class Model:
    """A tenant as it should be.

    Attributes:
        tenant_id: Its id.
        limit: How many memories it may have.
        people: Memories of each person by id.
        subjects: The subject id of each person who has one.
        superseded: Memories of each person that others took the place of.
        deleted: Whose each deleted memory was, and what it was.
        revisions: Of every memory that is or was there.
        requests: What each idempotency key stood for, and the id it got.
        suspended: Whether it is refused.
        events: How many events its log holds.
    """

    tenant_id: str
    limit: int | None
    people: dict[str, dict[str, Memory]] = field(default_factory=lambda: {user: {} for user in _USERS})
    subjects: dict[str, str] = field(default_factory=dict)
    superseded: dict[str, dict[str, Memory]] = field(default_factory=lambda: {user: {} for user in _USERS})
    deleted: dict[str, tuple[str, Memory]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    requests: dict[str, tuple[Memory, str]] = field(default_factory=dict)
    suspended: bool = False
    events: int = 1

    def used(self) -> int:
        return sum(len(held) for held in self.people.values())

    def fits(self, count: int) -> bool:
        return self.limit is None or self.used() + count <= self.limit

    def owner(self, memory_id: str) -> str | None:
        return next((user for user, held in self.people.items() if memory_id in held), None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who acts: a member as itself, or a service."""

    user_id: str | None

    def may_act_for(self, user_id: str) -> bool:
        return self.user_id in (None, user_id)


_callers = st.sampled_from([Caller(None), *(Caller(user) for user in _USERS)])
_tenants = st.sampled_from([0, 1])
_users = st.sampled_from(_USERS)
_limits = st.sampled_from([1, 2, 5, 1000])
_queries = st.sampled_from(["", "tea", "deploys on fridays"])


class ProviderMachine(RuleBasedStateMachine):
    """Does the same to the provider and to the model."""

    runtime: CloudRuntime
    onlooker: Onlooker
    loop: LoopThread

    def __init__(self) -> None:
        super().__init__()
        number = next(_numbers)
        self.tenants = [self._created(f"stateful-{number}-{at}", limit) for at, limit in enumerate((_LIMIT, None))]
        self.ids: list[str] = []
        self.erased: set[str] = set()

    def _created(self, tenant_id: str, limit: int | None) -> Model:
        self.runtime.tenants.create(tenant_id, plan="enterprise", limits={"memories": limit})
        return Model(tenant_id, limit)

    # What is done

    @rule(at=_tenants, caller=_callers, memory=memories(users=_users))
    def store(self, at: int, caller: Caller, memory: Memory) -> None:
        stored = self._writing(at, caller, [memory], lambda: self.runtime.memory.store(memory, {}))
        if stored is not None:
            self._hold(self.tenants[at], [memory], [stored])

    @rule(at=_tenants, caller=_callers, batch=st.lists(memories(users=_users), max_size=4))
    def store_many(self, at: int, caller: Caller, batch: list[Memory]) -> None:
        stored = self._writing(at, caller, batch, lambda: self.runtime.memory.store_many(batch, {}))
        if stored is not None:
            self._hold(self.tenants[at], batch, stored)

    @rule(at=_tenants, key=st.sampled_from("ab"), memory=memories(users=_users))
    def store_once(self, at: int, key: str, memory: Memory) -> None:
        model = self.tenants[at]
        memory = memory.model_copy(update={"content": f"once {key}"})
        prior = model.requests.get(key)

        def call() -> Coroutine[Any, Any, str]:
            return self.runtime.memory.store(memory, {"idempotency_key": key})

        if prior is not None and not model.suspended:
            same = _request(prior[0]) == _request(memory)
            answer = self._done(at, Caller(None), call, None if same else IdempotencyConflictError)
            assert answer == (prior[1] if same else None)
            # The transaction refuses it, and by then the person it is about has a key.
            self._learn(model, memory.user_id)
            return
        stored = self._writing(at, Caller(None), [memory], call)
        if stored is None and not model.suspended:
            self._learn(model, memory.user_id)
        if stored is not None:
            model.requests[key] = (memory, stored)
            self._hold(model, [memory], [stored])

    @rule(at=_tenants, caller=_callers, pick=st.integers(0, 1000))
    def delete(self, at: int, caller: Caller, pick: int) -> None:
        if not self.ids:
            return
        memory_id = self.ids[pick % len(self.ids)]
        model = self.tenants[at]
        owner = model.owner(memory_id)
        deleted = self._reading(at, caller, None, lambda: self.runtime.memory.delete(memory_id))
        if deleted is None:
            return
        assert deleted is (owner is not None and caller.may_act_for(owner))
        if deleted and owner is not None:
            model.deleted[memory_id] = (owner, model.people[owner].pop(memory_id))

    @rule(
        at=_tenants,
        caller=_callers,
        pick=st.integers(0, 1000),
        content=st.sampled_from(["tea", "Deploys on Mondays"]),
        expected=st.none() | st.integers(1, 3),
    )
    def update(self, at: int, caller: Caller, pick: int, content: str, expected: int | None) -> None:
        if not self.ids:
            return
        memory_id, model = self.ids[pick % len(self.ids)], self.tenants[at]
        owner = model.owner(memory_id)
        error = self._refusal(at, caller, None)
        if error is None and (owner is None or not caller.may_act_for(owner)):
            error = MemoryNotFoundError
        elif error is None and expected not in (None, model.revisions[memory_id]):
            error = RevisionConflictError

        def call() -> Coroutine[Any, Any, int]:
            return self.runtime.memory.update(memory_id, {"content": content}, expected_revision=expected)

        revision = self._done(at, caller, call, error)
        if error is None and owner is not None:
            model.revisions[memory_id] += 1
            assert revision == model.revisions[memory_id]
            held = model.people[owner]
            held[memory_id] = held[memory_id].model_copy(update={"content": content})

    @rule(at=_tenants, caller=_callers, pick=st.integers(0, 1000), memory=memories(users=_users))
    def supersede(self, at: int, caller: Caller, pick: int, memory: Memory) -> None:
        if not self.ids:
            return
        memory_id, model = self.ids[pick % len(self.ids)], self.tenants[at]
        error = self._refusal(at, caller, memory.user_id)
        if error is None and model.owner(memory_id) != memory.user_id:
            error = MemoryNotFoundError
        new = self._done(at, caller, lambda: self.runtime.memory.supersede(memory_id, memory, {}), error)
        if error is None and new is not None:
            user = memory.user_id
            model.superseded[user][memory_id] = model.people[user].pop(memory_id)
            self._hold(model, [memory], [new])

    @rule(at=_tenants, caller=_callers, pick=st.integers(0, 1000))
    def undelete(self, at: int, caller: Caller, pick: int) -> None:
        model = self.tenants[at]
        if not model.deleted:
            return
        memory_id = sorted(model.deleted)[pick % len(model.deleted)]
        owner, memory = model.deleted[memory_id]
        error = self._refusal(at, caller, None)
        if error is None and caller.may_act_for(owner) and not model.fits(1):
            error = QuotaExceededError
        back = self._done(at, caller, lambda: self.runtime.memory.undelete(memory_id), error)
        if error is None:
            assert back is caller.may_act_for(owner)
        if back:
            model.people[owner][memory_id] = memory
            del model.deleted[memory_id]

    @rule(at=_tenants, user=_users)
    def erase(self, at: int, user: str) -> None:
        model = self.tenants[at]
        done = self.loop.run(
            self.runtime.gdpr.delete_user_data(user, model.tenant_id, confirmed=True, reason="request 17")
        )
        assert isinstance(done, Erasure)
        assert done.is_done
        known = self._subject(model, user) is None and user in model.subjects
        assert (done.subject_id is not None) is known
        assert done.subject_id == model.subjects.pop(user, None)
        model.events += 2 if known else 1
        if done.subject_id is not None:
            self.erased.add(done.subject_id)
        model.deleted = {key: kept for key, kept in model.deleted.items() if kept[0] != user}
        model.superseded[user].clear()
        gone = model.people[user]
        model.requests = {
            key: (memory, memory_id) for key, (memory, memory_id) in model.requests.items() if memory.user_id != user
        }
        gone.clear()

    @rule(at=_tenants)
    def suspend_or_resume(self, at: int) -> None:
        model = self.tenants[at]
        tenants = self.runtime.tenants
        (tenants.resume if model.suspended else tenants.suspend)(model.tenant_id)
        model.suspended = not model.suspended
        model.events += 1

    @rule()
    def drain(self) -> None:
        self.loop.run(self.runtime.drain())

    @rule()
    def forget_what_is_hot(self) -> None:
        self.runtime.pixeltable_config.hot.clear()

    # What is asked

    @rule(at=_tenants, caller=_callers, user=_users, query=_queries, limit=_limits)
    def retrieve(self, at: int, caller: Caller, user: str, query: str, limit: int) -> None:
        found = self._reading(at, caller, user, lambda: self.runtime.memory.retrieve(query, user, limit=limit))
        if found is not None:
            self._are_some_of(self.tenants[at].people[user], found, limit)

    @rule(at=_tenants, caller=_callers, user=_users, wanted=filters(), limit=_limits)
    def search(self, at: int, caller: Caller, user: str, wanted: dict[str, Any], limit: int) -> None:
        found = self._reading(at, caller, user, lambda: self.runtime.memory.search(user, wanted, limit=limit))
        if found is None:
            return
        passing = self._passing(at, user, wanted)
        assert [memory.id for memory in found] == _newest_first(passing)[:limit]
        self._are_some_of(passing, found, limit)

    @rule(at=_tenants, caller=_callers, user=_users, wanted=filters(), query=_queries, limit=_limits)
    def search_ranked(self, at: int, caller: Caller, user: str, wanted: dict[str, Any], query: str, limit: int) -> None:
        asked = {**wanted, "query": query}
        found = self._reading(at, caller, user, lambda: self.runtime.memory.search(user, asked, limit=limit))
        if found is not None:
            self._are_some_of(self._passing(at, user, wanted), found, limit)

    @rule(at=_tenants, caller=_callers, user=_users, wanted=filters())
    def search_everything_there_was(self, at: int, caller: Caller, user: str, wanted: dict[str, Any]) -> None:
        asked = {**wanted, "include_invalid": True}
        found = self._reading(at, caller, user, lambda: self.runtime.memory.search(user, asked, limit=1000))
        if found is not None:
            self._are_some_of(self._passing(at, user, wanted, superseded=True), found, 1000)

    @rule(at=_tenants, caller=_callers, user=_users, wanted=filters(), limit=_limits, all_=st.booleans())
    def walk(self, at: int, caller: Caller, user: str, wanted: dict[str, Any], limit: int, all_: bool) -> None:
        asked = {**wanted, "include_invalid": all_}
        passing = self._passing(at, user, wanted, superseded=all_)
        seen: list[Memory] = []
        cursor: str | None = None
        while True:

            def call(cursor: str | None = cursor) -> Coroutine[Any, Any, MemoryPage]:
                return self.runtime.memory.list(user, filters=asked, limit=limit, cursor=cursor)

            page = self._reading(at, caller, user, call)
            if page is None:
                return
            seen += page.memories
            cursor = page.next_cursor
            if cursor is None:
                break
        assert [memory.id for memory in seen] == _newest_first(passing)
        self._are_some_of(passing, seen, len(passing))

    @rule(at=_tenants, caller=_callers, user=_users, wanted=filters(), all_=st.booleans())
    def count(self, at: int, caller: Caller, user: str, wanted: dict[str, Any], all_: bool) -> None:
        asked = {**wanted, "include_invalid": all_}
        counted = self._reading(at, caller, user, lambda: self.runtime.memory.count(user, asked))
        if counted is not None:
            assert counted == len(self._passing(at, user, wanted, superseded=all_))

    @rule(at=_tenants, caller=_callers, pick=st.integers(0, 1000))
    def history(self, at: int, caller: Caller, pick: int) -> None:
        if not self.ids:
            return
        memory_id, model = self.ids[pick % len(self.ids)], self.tenants[at]
        lines = self._reading(at, caller, None, lambda: self.runtime.memory.history(memory_id))
        if lines is None:
            return
        superseded = next((user for user, held in model.superseded.items() if memory_id in held), None)
        owner = model.owner(memory_id) or superseded or model.deleted.get(memory_id, (None,))[0]
        if owner is None or not caller.may_act_for(owner):
            assert lines == []
            return
        assert lines[-1].revision == model.revisions[memory_id]
        assert [line.kind for line in lines].count(ChangeKind.UPDATED) == model.revisions[memory_id] - 1
        assert (lines[-1].kind is ChangeKind.SUPERSEDED) is (superseded is not None)
        assert (lines[-1].kind is ChangeKind.DELETED) is (memory_id in model.deleted)

    @rule(at=_tenants, caller=_callers, pick=st.integers(0, 1000))
    def get_by_id(self, at: int, caller: Caller, pick: int) -> None:
        if not self.ids:
            return
        memory_id = self.ids[pick % len(self.ids)]
        model = self.tenants[at]
        refused = self._refusal(at, caller, None)
        found = self._done(at, caller, lambda: self.runtime.memory.get_by_id(memory_id), refused)
        owner = model.owner(memory_id)
        if refused is not None or owner is None or not caller.may_act_for(owner):
            assert found is None
            return
        assert found is not None
        self._are_some_of({memory_id: model.people[owner][memory_id]}, [found], 1)

    @rule(at=_tenants, user=_users)
    def preview(self, at: int, user: str) -> None:
        model = self.tenants[at]
        seen = self.loop.run(self.runtime.gdpr.delete_user_data(user, model.tenant_id))
        assert isinstance(seen, ErasurePreview)
        assert seen.subject_id == model.subjects.get(user)
        assert seen.memories >= len(model.people[user])
        model.events += 1

    # What always holds

    @invariant()
    def the_stock_is_what_is_there(self) -> None:
        for model in self.tenants:
            active = self.onlooker.ledger(model.tenant_id, state="active")
            assert self.onlooker.used(model.tenant_id) == active == model.used()

    @invariant()
    def whoever_was_erased_stays_erased(self) -> None:
        for model in self.tenants:
            assert not self.erased & set(self.runtime.pixeltable_config.keyring.subjects(model.tenant_id))

    @invariant()
    def every_operation_left_its_event(self) -> None:
        for model in self.tenants:
            (counted,) = self.onlooker.rows(
                # A threshold that an operation passes is a fact of its own beside the operation's event.
                "SELECT count(*) FROM audit_events WHERE log_id = :tenant AND event->>'action' <> 'usage.threshold'",
                tenant=model.tenant_id,
            )
            assert counted[0] == model.events

    # How

    def _writing(
        self, at: int, caller: Caller, batch: list[Memory], call: Callable[[], Coroutine[Any, Any, _T]]
    ) -> _T | None:
        """What the write returned, or `None` for one that was refused as the model says."""
        model = self.tenants[at]
        error = self._refusal(at, caller, None)
        if any(not caller.may_act_for(memory.user_id) for memory in batch):
            error = PermissionDeniedError
        elif error is None and not model.fits(len(batch)):
            error = QuotaExceededError
        answer = self._done(at, caller, call, error)
        return answer if error is None else None

    def _reading(
        self, at: int, caller: Caller, user: str | None, call: Callable[[], Coroutine[Any, Any, _T]]
    ) -> _T | None:
        return self._done(at, caller, call, self._refusal(at, caller, user))

    def _refusal(self, at: int, caller: Caller, user: str | None) -> type[LuminescentError] | None:
        if self.tenants[at].suspended or (user is not None and not caller.may_act_for(user)):
            return PermissionDeniedError
        return None

    def _done(
        self,
        at: int,
        caller: Caller,
        call: Callable[[], Coroutine[Any, Any, _T]],
        error: type[LuminescentError] | None,
    ) -> _T | None:
        model = self.tenants[at]
        model.events += 1
        role = "service" if caller.user_id is None else "member"
        with request_context(tenant_id=model.tenant_id, user_id=caller.user_id, roles={role}):
            try:
                if error is None:
                    return self.loop.run(call())
                with pytest.raises(error):
                    self.loop.run(call())
                return None
            finally:
                # Who acts as a person has a subject id from then on: the log names it.
                if caller.user_id is not None:
                    self._learn(model, caller.user_id)

    def _hold(self, model: Model, batch: list[Memory], ids: list[str]) -> None:
        assert len(ids) == len(batch)
        assert not set(ids) & set(self.ids)
        for memory, memory_id in zip(batch, ids, strict=True):
            model.people[memory.user_id][memory_id] = memory
            model.revisions[memory_id] = 1
            self._learn(model, memory.user_id)
        self.ids += ids

    def _learn(self, model: Model, user: str) -> None:
        """The person's subject id: always the same one, and never one of somebody erased."""
        subject_id = self._subject(model, user)
        assert subject_id is not None
        assert model.subjects.setdefault(user, subject_id) == subject_id
        assert subject_id not in self.erased

    def _subject(self, model: Model, user: str) -> str | None:
        known = self.runtime.pixeltable_config.keyring.resolve_subject(model.tenant_id, user, create=False)
        return known.subject_id if known else None

    def _passing(self, at: int, user: str, wanted: dict[str, Any], *, superseded: bool = False) -> dict[str, Memory]:
        predicate, model = parse_filters(wanted).predicate, self.tenants[at]
        held = {**model.people[user], **(model.superseded[user] if superseded else {})}
        return {key: memory for key, memory in held.items() if matches(predicate, memory)}

    def _are_some_of(self, expected: dict[str, Memory], found: list[Memory], limit: int) -> None:
        """As many of the expected ones as the limit allows, each once and as it was stored."""
        assert len(found) == min(limit, len(expected))
        assert len({memory.id for memory in found}) == len(found)
        for memory in found:
            assert memory.id is not None
            assert memory.model_dump(exclude=_UNREAD) == expected[memory.id].model_dump(exclude=_UNREAD)


def _newest_first(memories: dict[str, Memory]) -> list[str]:
    return sorted(sorted(memories), key=lambda memory_id: memories[memory_id].created_at, reverse=True)


def _request(memory: Memory) -> dict[str, Any]:
    return memory.model_dump(exclude={*_UNREAD, "created_at"})


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with loop_thread() as thread:
        yield thread


def test_any_history_agrees_with_plain_dictionaries(runtime: CloudRuntime, loop: LoopThread) -> None:
    class Machine(ProviderMachine):
        pass

    Machine.runtime, Machine.onlooker, Machine.loop = runtime, Onlooker(runtime), loop
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            # One fault at a time: each step of shrinking is a history on real storage.
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
