"""Laws of closing a tenant: nothing of its people is left, nothing comes back, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from cloud import request_context
from cloud.gdpr.ledger import Entry, LedgerPlace
from cloud.gdpr.model import ClosingPreview, Erasure
from cloud.gdpr.verify import VerificationError, verify_certificate
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureRequestError,
    KeyDestroyedError,
    LuminescentError,
    PermissionDeniedError,
    UnknownTenantError,
)
from cloud.memory.placement_store import placements_of
from cloud.startup.erasures import build_replay
from cloud.storage.metadata import TENANT_TABLES, erasures, tenants
from cloud.tenancy.model import TenantState
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker
from tests.unit.cloud.gdpr.naive_certificates import agrees

STEPS = [name for name in failpoints.NAMES if name.startswith("close.")]
KEPT = {"tenants", "usage_counters", "usage_events", "audit_events", "erasures"}
"""Tables that a closed tenant keeps rows in: what it was called, what it used, what was done."""
_SEQUENCED = {"audit_pending", "audit_intents", "audit_leaves", "audit_tiles", "audit_trees"}
"""Which leaf each event is: hashes that grow with the log, whoever looks, and hold nothing of a person."""


_OF_BEFORE = "UPDATE erasure_ledger SET records = 0, size_bytes = 0, line_hash = encode(sha256(''), 'hex')"
"""How far a database has followed the ledger that is of before its first record."""


class Killed(Exception):  # noqa: N818 - stands for the end of a process, not for an error
    """The process ended here."""


def die() -> None:
    raise Killed


def rows(look: Looker) -> dict[str, int]:
    """Rows of the tenant in each table that has any."""
    engine = look.runtime._installation.engines.maintenance
    found = {}
    for table in TENANT_TABLES:
        if table.name in _SEQUENCED:
            continue
        column = table.c["log_id" if "log_id" in table.c else "tenant_id"]
        query = sa.select(sa.func.count()).select_from(table).where(column == look.tenant_id)
        found[table.name] = int(engine.rows(query)[0][0])
    return {name: count for name, count in found.items() if count}


def placements(look: Looker) -> tuple[str, ...]:
    return placements_of(look.runtime._installation.engines.maintenance, look.tenant_id)


def key_of(look: Looker) -> str:
    return look.runtime._installation.proofs.evidence.verifier_key(look.tenant_id)


def in_pixeltable(look: Looker) -> int:
    config = look.runtime.pixeltable_config
    predicate = system_predicate(look.tenant_id, "test")
    return sum(config.rows.count_tenant(predicate, name) for name in placements(look))


def state(look: Looker) -> TenantState:
    (tenant,) = [one for one in look.runtime.tenants.list() if one.tenant_id == look.tenant_id]
    return tenant.state


async def filled(look: Looker) -> None:
    """Memories of two people, some in Pixeltable, some waiting, one deleted; keys, usage, a person's own key."""
    ids = await look.store(sample_memory("alice"), sample_memory("bob"), sample_memory("bob"), idempotency_key="k")
    look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    look.runtime.usage.track("query", 3, {"tenant_id": look.tenant_id})
    await look.runtime.drain()
    await look.store(sample_memory("alice"))
    await look.read("alice", ids)
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(ids[1])


def assert_closed(look: Looker) -> None:
    assert state(look) is TenantState.CLOSED
    assert rows(look).keys() <= KEPT
    assert in_pixeltable(look) == 0
    keyring = look.runtime.pixeltable_config.keyring
    assert keyring.subjects(look.tenant_id) == ()
    with pytest.raises(KeyDestroyedError):
        keyring.tenant_key(look.tenant_id)
    outcomes = [event["outcome"] for event in look.events() if event["action"] == "tenant.close"]
    assert outcomes[-1] == "allowed"


async def test_a_preview_counts_and_changes_nothing(look: Looker) -> None:
    await filled(look)
    await look.runtime.drain()
    before = rows(look)
    preview = look.runtime.closing.close(look.tenant_id)
    assert isinstance(preview, ClosingPreview)
    assert (preview.counts["control.memories"], preview.counts["keyring.subject"]) == (4, 2)
    after = rows(look)
    assert after.pop("audit_events") == before.pop("audit_events") + 1
    assert after == before
    assert state(look) is TenantState.ACTIVE


async def test_a_closed_tenant_leaves_nothing_of_its_people_and_nothing_works_any_more(look: Looker) -> None:
    await filled(look)
    key = look.runtime.api_keys.create(look.tenant_id, roles={"service"})
    closed = look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert isinstance(closed, Erasure)
    assert closed.counts["control.memories"] == 4
    assert_closed(look)
    for context in ({"authorization": key}, {"tenant_id": look.tenant_id, "roles": {"service"}}):
        with request_context(**context), pytest.raises(LuminescentError):  # type: ignore[arg-type]
            await look.runtime.memory.retrieve("tabs", "alice")
    with request_context(tenant_id=look.tenant_id, roles={"service"}), pytest.raises(PermissionDeniedError):
        await look.runtime.memory.store(sample_memory("alice"), {})
    assert rows(look).keys() <= KEPT
    assert look.runtime.pixeltable_config.keyring.subjects(look.tenant_id) == ()


async def test_nothing_brings_a_closed_tenant_back(look: Looker) -> None:
    look.runtime.closing.close(look.tenant_id, confirmed=True)
    tenants = look.runtime.tenants
    attempts: list[Any] = [
        lambda: tenants.create(look.tenant_id, plan="team"),
        lambda: tenants.resume(look.tenant_id),
        lambda: tenants.suspend(look.tenant_id),
        lambda: tenants.change(look.tenant_id, plan="free"),
        lambda: look.runtime.closing.close(look.tenant_id, confirmed=True),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigurationError):
            attempt()
    assert_closed(look)


@pytest.mark.parametrize("step", STEPS)
async def test_a_closing_that_was_cut_off_is_finished_at_the_next_start(look: Looker, step: str) -> None:
    await filled(look)
    failpoints.arm(step, die)
    with pytest.raises(Killed):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert state(look) is (TenantState.CLOSED if step == "close.verified" else TenantState.CLOSING)
    with request_context(tenant_id=look.tenant_id, roles={"service"}), pytest.raises(PermissionDeniedError):
        await look.runtime.memory.store(sample_memory("alice"), {})
    assert look.runtime.gdpr.resume() == 1
    assert_closed(look)
    assert agrees(look.runtime.closing.certificate(look.tenant_id).encode(), key_of(look))
    (done,) = [event for event in look.events() if event["action"] == "tenant.close"]
    assert done["counts"]["control.memories"] == 4, "what was found at first is what is recorded"


async def test_a_closing_is_certified_as_a_persons_erasure_is(look: Looker) -> None:
    await filled(look)
    closed = look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert isinstance(closed, Erasure)
    raw, key = (closed.certificate or "").encode(), key_of(look)
    result = verify_certificate(raw, key=key)
    assert agrees(raw, key)
    assert (result.of, result.tenant, result.erasure_id) == ("tenant", look.tenant_id, closed.erasure_id)
    assert (result.subject_id, result.counts) == (None, closed.counts)
    assert (result.counts["control.memories"], result.counts["keyring.subject"]) == (4, 2)
    assert result.reached.keys() >= {"logical", "cryptographic", "store", "file", "wal"}
    assert look.runtime.closing.certificate(look.tenant_id) == closed.certificate
    with pytest.raises(VerificationError, match="about a whole tenant"):
        verify_certificate(raw, key=key, user_id="alice")


async def test_a_closing_that_is_rewritten_later_gets_a_new_certificate(
    look: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(look)
    rewriter = look.runtime.closing._erasing._evidence.rewriter
    with monkeypatch.context() as scheduled:
        scheduled.setattr(rewriter, "at_once", lambda: False)
        closed = look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert isinstance(closed, Erasure)
    first = (closed.certificate or "").encode()
    assert {"file", "wal"} <= verify_certificate(first, key=key_of(look)).to_come.keys()
    look.runtime.gdpr.upkeep()
    second = look.runtime.closing.certificate(look.tenant_id).encode()
    result = verify_certificate(second, key=key_of(look), previous=first)
    assert (result.number, result.of) == (2, "tenant")
    assert {"file", "wal"} <= result.reached.keys()


async def test_what_is_not_closed_has_no_certificate_of_that(look: Looker) -> None:
    with pytest.raises(ErasureRequestError) as refused:
        look.runtime.closing.certificate(look.tenant_id)
    assert refused.value.reason == "not_closed"
    with pytest.raises(UnknownTenantError):
        look.runtime.closing.certificate("nobody-here")


async def test_a_closing_drops_what_this_process_remembers_of_its_people(look: Looker) -> None:
    await filled(look)
    config = look.runtime.pixeltable_config
    people = config.keyring.subjects(look.tenant_id)
    assert any(config.read_times.noted(look.tenant_id, person) for person in people)
    look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert not any(config.read_times.noted(look.tenant_id, person) for person in people)
    assert not any(config.keyring.remembers(look.tenant_id, person) for person in people)


async def test_an_erasure_and_a_closing_that_were_both_cut_off_end_both(look: Looker) -> None:
    await filled(look)
    failpoints.arm("erase.key_destroyed", die)
    with pytest.raises(Killed):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.arm("close.frozen", die)
    with pytest.raises(Killed):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert look.runtime.gdpr.resume() == 2
    assert_closed(look)
    assert {row.state for row in look.erasures()} == {"certified"}


async def test_no_restored_database_brings_a_closed_tenant_back(look: Looker) -> None:
    """The ledger names it from before its key is destroyed on, so whatever copy is restored is of somebody it names."""
    await filled(look)
    failpoints.arm("close.key_destroyed", die)
    with pytest.raises(Killed):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    installation = look.runtime._installation
    named = [(one.entry, one.tenant_id) for _, one in installation.ledger.since(LedgerPlace())]
    assert (Entry.CLOSING, look.tenant_id) in named
    replay = build_replay(
        installation.engines, installation.config, look.runtime.audit, installation.ledger, first_model="wordllama"
    )
    assert replay.run().closed_again == 0, "what is being closed here goes on by itself, at every level"
    # As a backup from before has it: the tenant is served, its rows are there, and nothing says that it was closed.
    for table in (erasures.delete(), tenants.update().values(state="active")):
        statement = table.where(table.table.c.tenant_id == look.tenant_id)
        installation.engines.maintenance.transaction(lambda connection, one=statement: connection.execute(one))
    installation.engines.maintenance.transaction(lambda connection: connection.execute(sa.text(_OF_BEFORE)))
    assert replay.run().closed_again == 1
    assert_closed(look)


async def test_a_closing_is_no_request_of_a_person(look: Looker) -> None:
    failpoints.arm("close.frozen", die)
    with pytest.raises(Killed):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert await look.runtime.gdpr.requests(look.tenant_id) == []
    assert look.runtime.closing.resume() == 1


async def test_writes_in_flight_are_either_refused_or_erased(look: Looker) -> None:
    async def write() -> None:
        with request_context(tenant_id=look.tenant_id, roles={"service"}):
            for _ in range(40):
                try:
                    await look.runtime.memory.store(sample_memory("alice"), {})
                except LuminescentError:
                    return

    writers = [asyncio.create_task(write()) for _ in range(6)]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(look.runtime.closing.close, look.tenant_id, confirmed=True)
    await asyncio.gather(*writers)
    assert_closed(look)


async def test_another_tenant_of_the_same_table_keeps_everything(look: Looker) -> None:
    placement = placements(look)
    other, number = look.tenant_id, 0
    while other == look.tenant_id:
        number += 1
        name = f"{look.tenant_id}-beside-{number}"
        if look.runtime.tenants.create(name, plan="team").placement in placement:
            other = name
    beside = Looker(look.runtime, other)
    await filled(look)
    await filled(beside)
    # What waits in intake would be materialized in between.
    await look.runtime.drain()
    before = rows(beside)
    look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert rows(beside) == before
    assert len(await beside.read("alice", [])) > 0


@pytest.mark.parametrize("name", ["nobody-here", "", "_system", "NO"])
def test_there_must_be_such_a_tenant(look: Looker, name: str) -> None:
    with pytest.raises(UnknownTenantError):
        look.runtime.closing.close(name, confirmed=True)


@pytest.mark.parametrize("role", ["tenant_admin", "service", "auditor"])
def test_only_an_operator_closes(look: Looker, role: str) -> None:
    with request_context(tenant_id=look.tenant_id, user_id="dana", roles={role}), pytest.raises(PermissionDeniedError):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert state(look) is TenantState.ACTIVE
