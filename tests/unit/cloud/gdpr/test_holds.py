"""Laws of legal holds: what is held is neither erased nor purged, retained or closed, and goes on when released."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from cloud import request_context
from cloud.gdpr.model import Erasure, ErasureState, LegalHold
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureRequestError,
    LegalHoldError,
    PermissionDeniedError,
    ProviderUnavailableError,
)
from cloud.memory.managed_ports import Retention
from cloud.memory.managed_postgres import PostgresPurgeLedger
from cloud.memory.purge import Purger
from cloud.startup.installation import system_predicates
from cloud.storage.metadata import legal_holds
from cloud.tenancy.model import TenantState
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker

AT_ONCE = Retention(timedelta(0), timedelta(0), timedelta(0))


async def held(look: Looker, user_id: str | None = "alice") -> LegalHold:
    review_at = datetime.now(UTC) + timedelta(days=90)
    return await look.runtime.gdpr.hold(
        look.tenant_id, user_id=user_id, reason="a dispute", authority="Court 7 O 1/26", review_at=review_at
    )


def purge(look: Looker) -> int:
    engine = look.runtime._installation.engines.maintenance
    ledger, rows = PostgresPurgeLedger(engine), look.runtime.pixeltable_config.rows
    purger = Purger(ledger, rows, engine, system_predicates("purge"), AT_ONCE)
    return purger.run(tenant_id=look.tenant_id, wait_s=20).get(look.tenant_id, 0)


@pytest.mark.parametrize("whom", ["alice", None])
async def test_what_is_held_is_not_erased_and_that_is_told_and_goes_on_when_it_is_released(
    look: Looker, whom: str | None
) -> None:
    ids = await look.store(sample_memory("alice"))
    subject, hold = str(look.subject("alice")), await held(look, whom)
    with pytest.raises(LegalHoldError) as refused:
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True, reason="17")
    event = look.events()[-1]
    assert (event["action"], event["outcome"], event["reason"]) == ("gdpr.erase", "denied", "legal_hold")
    assert look.state(subject) == "active"
    assert len(await look.read("alice", ids)) == 5, "what is held is used as before"
    request_id = str(refused.value.erasure_id)
    gdpr = look.runtime.gdpr
    with pytest.raises(LegalHoldError):
        await gdpr.resume_request(request_id, look.tenant_id)
    assert gdpr.resume() == 0
    assert (await gdpr.show(request_id, look.tenant_id)).erasure.state is ErasureState.HELD
    await gdpr.release(hold.hold_id, look.tenant_id, reason="settled")
    gdpr.upkeep()
    done = (await gdpr.show(request_id, look.tenant_id)).erasure
    assert (done.is_done, done.memories) == (True, 1)
    assert look.remains(subject) == {}
    outcomes = [(e["outcome"], e["actor"]["kind"]) for e in look.events() if e["action"] == "gdpr.erase"]
    assert outcomes[-1] == ("allowed", "system")


async def test_a_request_that_is_held_waits_for_every_hold_and_may_be_rejected(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    first, second, gdpr = await held(look), await held(look, None), look.runtime.gdpr
    made = await gdpr.request_erasure("alice", look.tenant_id, identity="passport")
    seen = (await gdpr.preview_request(made.erasure_id, look.tenant_id)).digest
    with pytest.raises(LegalHoldError):
        await gdpr.confirm(made.erasure_id, look.tenant_id, seen=seen)
    await gdpr.release(first.hold_id, look.tenant_id)
    gdpr.upkeep()
    assert (await gdpr.show(made.erasure_id, look.tenant_id)).erasure.state is ErasureState.HELD
    with pytest.raises(ErasureRequestError):
        await gdpr.release(first.hold_id, look.tenant_id)
    await gdpr.reject(made.erasure_id, look.tenant_id, reason="needed for the dispute")
    await gdpr.release(second.hold_id, look.tenant_id)
    assert gdpr.resume() == 0
    assert look.used() == 1


@pytest.mark.parametrize("whom", ["alice", None])
async def test_what_is_held_is_not_purged_until_it_is_released(look: Looker, whom: str | None) -> None:
    alices = await look.store(*[sample_memory("alice")] * 3)
    bobs = await look.store(sample_memory("bob"))
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        for memory_id in (alices[0], *bobs):
            await look.runtime.memory.delete(memory_id)
    hold = await held(look, whom)
    assert purge(look) == (0 if whom is None else 1), "Bob is not held where Alice alone is"
    assert look.remains(str(look.subject("alice")))["memories"] == 3
    await look.runtime.gdpr.release(hold.hold_id, look.tenant_id)
    assert purge(look) == (2 if whom is None else 1)
    assert look.remains(str(look.subject("alice")))["memories"] == 2


async def test_a_purge_that_was_cut_off_takes_nothing_more_of_what_is_held_since(look: Looker) -> None:
    (memory_id,) = await look.store(sample_memory("alice"))
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(memory_id)

    def fail() -> None:
        raise ProviderUnavailableError("a part")

    failpoints.arm("purge.selected", fail)
    with pytest.raises(ProviderUnavailableError):
        purge(look)
    failpoints.disarm_all()
    hold = await held(look)
    assert purge(look) == 0
    assert look.remains(str(look.subject("alice")))["pixeltable"] == 1
    await look.runtime.gdpr.release(hold.hold_id, look.tenant_id)
    assert purge(look) == 1


async def test_a_hold_waits_for_a_purge_that_is_taking_rows_away(look: Looker) -> None:
    (memory_id,) = await look.store(sample_memory("alice"))
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(memory_id)
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        go_on.wait(20)

    failpoints.arm("purge.selected", wait)
    try:
        purging = asyncio.ensure_future(asyncio.to_thread(purge, look))
        assert await asyncio.to_thread(reached.wait, 20)
        placing = asyncio.ensure_future(held(look))
        await asyncio.sleep(0.3)
        assert not placing.done(), "it was held while rows of it were being taken away"
    finally:
        go_on.set()
        failpoints.disarm_all()
    assert await purging == 1
    assert (await placing).released_at is None


@pytest.mark.parametrize("whom", ["alice", None])
async def test_a_tenant_is_not_closed_while_anything_of_it_is_held(look: Looker, whom: str | None) -> None:
    await look.store(sample_memory("alice"))
    hold = await held(look, whom)
    with pytest.raises(LegalHoldError):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    assert [e["outcome"] for e in look.events() if e["action"].startswith("tenant.close")] == ["failed"]
    (tenant,) = [one for one in look.runtime.tenants.list() if one.tenant_id == look.tenant_id]
    assert tenant.state is TenantState.ACTIVE
    await look.runtime.gdpr.release(hold.hold_id, look.tenant_id)
    look.runtime.closing.close(look.tenant_id, confirmed=True)
    with pytest.raises(PermissionDeniedError):
        await held(look, whom)


async def test_nobody_is_held_who_is_being_erased(look: Looker) -> None:
    def fail() -> None:
        raise ProviderUnavailableError("a part")

    await look.store(sample_memory("alice"))
    failpoints.arm("erase.frozen", fail)
    with pytest.raises(ProviderUnavailableError):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    with pytest.raises(ErasureRequestError) as refused:
        await held(look)
    assert refused.value.reason == "wrong_state"
    assert await look.runtime.gdpr.holds(look.tenant_id) == []
    assert look.runtime.gdpr.resume() == 1


async def test_a_hold_and_an_erasure_at_once_end_in_one_of_the_two(look: Looker) -> None:
    for number in range(4):
        user = f"user-{number}"
        ids = await look.store(sample_memory(user))
        erasing, holding = await asyncio.gather(
            look.runtime.gdpr.delete_user_data(user, look.tenant_id, confirmed=True),
            held(look, user),
            return_exceptions=True,
        )
        if isinstance(erasing, Erasure):
            assert await look.read(user, ids) == []
        else:
            assert isinstance(erasing, LegalHoldError)
            assert isinstance(holding, LegalHold)
            assert len(await look.read(user, ids)) == 5


async def test_somebody_of_whom_nothing_is_kept_yet_is_held_from_the_first_memory_on(look: Looker) -> None:
    hold = await held(look, "newcomer")
    assert hold.subject_id == look.subject("newcomer")
    await look.store(sample_memory("newcomer"))
    with pytest.raises(LegalHoldError):
        await look.runtime.gdpr.delete_user_data("newcomer", look.tenant_id, confirmed=True)


async def test_reason_and_authority_are_sealed_and_told_to_who_may_know(look: Looker) -> None:
    hold = await held(look)
    (told,) = await look.runtime.gdpr.holds(look.tenant_id)
    assert (told.reason, told.authority, told.hold_id) == ("a dispute", "Court 7 O 1/26", hold.hold_id)
    assert "Court" not in json.dumps(look.events())
    rows = look.runtime._installation.engines.maintenance.rows
    (row,) = rows(legal_holds.select().where(legal_holds.c.tenant_id == look.tenant_id))
    assert b"Court" not in row.authority_sealed
    look.runtime.keyring.rotate_tenant(look.tenant_id)
    (told,) = await look.runtime.gdpr.holds(look.tenant_id)
    assert told.authority == "Court 7 O 1/26", "what was sealed before a rotation opens still"


@pytest.mark.parametrize("wrong", [{"reason": " "}, {"authority": ""}, {"reason": "x" * 1_001}, {"review_at": "past"}])
async def test_a_hold_needs_reason_authority_and_a_review_to_come(look: Looker, wrong: dict[str, str]) -> None:
    given = {"reason": "r", "authority": "a", **wrong}
    past = given.pop("review_at", None)
    review_at = datetime.now(UTC) + (timedelta(days=-1) if past else timedelta(days=1))
    with pytest.raises(ConfigurationError):
        await look.runtime.gdpr.hold(look.tenant_id, user_id="alice", review_at=review_at, **given)
    assert await look.runtime.gdpr.holds(look.tenant_id) == []
