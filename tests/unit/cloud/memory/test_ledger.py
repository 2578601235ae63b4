"""The control plane's word on a read: what was ranked too early is ranked again, and what has gone is left out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cloud import CloudRuntime, request_context
from cloud.audit.model import Outcome
from cloud.kernel.access import Action
from cloud.kernel.ids import new_memory_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.ports import ReadAdmitted, Stale, SubjectGone, TenantRefused
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker


class Reader:
    """Reads as the provider does, with generations and ids of the test's choice."""

    def __init__(self, runtime: CloudRuntime, tenant_id: str, user_id: str = "alice") -> None:
        self._runtime = runtime
        self.predicate: TenantPredicate = system_predicate(tenant_id, "test")
        person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, user_id, create=False)
        assert person is not None
        self.subject_id = person.subject_id

    def generation(self) -> int:
        return self._runtime.pixeltable_config.ledger.changes(self.predicate, self.subject_id, since=0).generation

    def read(
        self, ids: list[str], *, generation: int, floor: int | None = None, include_invalid: bool = False
    ) -> ReadAdmitted | Stale | SubjectGone | TenantRefused:
        return self._runtime.pixeltable_config.ledger.read(
            self.predicate,
            self.subject_id,
            generation=generation,
            floor=floor,
            ids=ids,
            include_invalid=include_invalid,
            audit=self._runtime.audit.draft(self.predicate.scope, Action.MEMORY_RETRIEVE),
        )


@pytest.fixture
async def stored(runtime: CloudRuntime, tenant_id: str) -> list[str]:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return [await runtime.memory.store(sample_memory("alice"), {}) for _ in range(3)]


async def test_what_was_ranked_before_a_change_is_stale(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, stored: list[str]
) -> None:
    reader = Reader(runtime, tenant_id)
    now = reader.generation()
    with onlooker.new_events() as events:
        assert reader.read(stored, generation=now - 1) == Stale(now)
        assert reader.read(stored, generation=now + 1) == Stale(now)
        assert reader.read(stored, generation=now - 1, floor=now) == Stale(now)
    assert events == []
    assert reader.read(stored, generation=now) == ReadAdmitted(tuple(stored))


async def test_changes_after_the_floor_do_not_starve_a_read_and_what_they_removed_is_left_out(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, stored: list[str]
) -> None:
    reader = Reader(runtime, tenant_id)
    ranked_at = reader.generation()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.delete(stored[1])
    backwards = stored[::-1]
    with onlooker.new_events() as events:
        answer = reader.read(backwards, generation=ranked_at, floor=ranked_at, include_invalid=True)
    assert answer == ReadAdmitted((stored[2], stored[0]))
    assert [(e["resource_ids"], e["counts"]) for e in events] == [([stored[2], stored[0]], {"returned": 2})]


async def test_the_ledgers_clock_decides_expiry(runtime: CloudRuntime, tenant_id: str) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=0.3)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory("alice", expires_at=expires_at), {})
    reader = Reader(runtime, tenant_id)
    now = reader.generation()
    assert reader.read([memory_id], generation=now) == ReadAdmitted((memory_id,))
    await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.01)
    assert reader.read([memory_id], generation=now) == ReadAdmitted(())
    assert reader.read([memory_id], generation=now, include_invalid=True) == ReadAdmitted((memory_id,))


async def test_ids_of_other_people_and_tenants_are_left_out(
    runtime: CloudRuntime, tenant_id: str, stored: list[str]
) -> None:
    other = f"{tenant_id}-2"
    runtime.tenants.create(other, plan="team")
    foreign = [new_memory_id()]
    for tenant, user in ((tenant_id, "bob"), (other, "alice")):
        with request_context(tenant_id=tenant, roles={"service"}):
            foreign.append(await runtime.memory.store(sample_memory(user), {}))
    reader = Reader(runtime, tenant_id)
    assert reader.read([*foreign, stored[0]], generation=reader.generation()) == ReadAdmitted((stored[0],))


async def test_an_erased_subject_is_gone_also_for_who_still_names_it(
    runtime: CloudRuntime, tenant_id: str, stored: list[str]
) -> None:
    reader = Reader(runtime, tenant_id)
    ranked_at = reader.generation()
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    assert reader.read(stored, generation=ranked_at, floor=ranked_at) == SubjectGone()


async def test_a_tenant_that_is_not_served_is_refused_with_its_reason(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, stored: list[str]
) -> None:
    reader = Reader(runtime, tenant_id)
    ledger = runtime.pixeltable_config.ledger
    assert ledger.refusal(reader.predicate) is None
    runtime.tenants.suspend(tenant_id)
    refused = TenantRefused("tenant_suspended")
    with onlooker.new_events() as events:
        assert reader.read(stored, generation=reader.generation()) == refused
        assert ledger.refusal(reader.predicate) == refused
        assert ledger.refusal(system_predicate("nobody-here", "test")) == TenantRefused("unknown_tenant")
    assert [(e["outcome"], e["reason"]) for e in events] == [(Outcome.DENIED.value, "tenant_suspended")]
