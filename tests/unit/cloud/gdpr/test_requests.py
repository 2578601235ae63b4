"""Laws of requests: who asked when, what was seen and confirmed, and that nobody is erased without all of it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from cloud import request_context
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.states import months_later
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureRequestError,
    InvalidFilterError,
    PermissionDeniedError,
    ProviderUnavailableError,
)
from cloud.kernel.ids import new_event_id
from cloud.storage.metadata import erasures
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker

S = ErasureState


async def identified(look: Looker, user_id: str = "alice") -> Erasure:
    return await look.runtime.gdpr.request_erasure(user_id, look.tenant_id, identity="passport")


async def seen(look: Looker, request: Erasure) -> str:
    return (await look.runtime.gdpr.preview_request(request.erasure_id, look.tenant_id)).digest


def fail() -> None:
    raise ProviderUnavailableError("a part")


async def test_a_request_goes_from_receipt_to_verification(look: Looker) -> None:
    ids = await look.store(*[sample_memory("alice")] * 3)
    subject, gdpr, tenant = str(look.subject("alice")), look.runtime.gdpr, look.tenant_id
    made = await gdpr.request_erasure("alice", tenant, reason="asked by letter")
    assert (made.state, made.subject_id) == (S.RECEIVED, subject)
    assert made.received_at is not None
    assert made.due_at == months_later(made.received_at, 1)
    found = await gdpr.verify_identity(made.erasure_id, tenant, method="passport")
    assert (found.state, found.identity_method) == (S.IDENTITY_VERIFIED, "passport")
    assert len(await look.read("alice", ids)) == 4 * 3 + 3, "a request erases nothing"
    preview = await gdpr.preview_request(made.erasure_id, tenant)
    assert preview.memories == 3
    with request_context(tenant_id=tenant, user_id="dana", roles={"tenant_admin"}):
        erased = await gdpr.confirm(made.erasure_id, tenant, seen=preview.digest)
    assert (erased.erasure_id, erased.is_done, erased.memories) == (made.erasure_id, True, 3)
    assert erased.confirmed_by == look.subject("dana")
    assert look.remains(subject) == {}
    assert await look.read("alice", ids) == []
    told = await gdpr.show(made.erasure_id, tenant)
    assert told.reason == "asked by letter"
    assert [level.value for level, state in told.erasure.levels.items() if state.reached_at][:3] == [
        "logical",
        "cryptographic",
        "store",
    ]
    (row,) = look.erasures()
    assert row.user_sealed is None
    assert b"letter" not in row.reason_sealed
    assert "alice" not in json.dumps(look.events())
    actions = [event["action"] for event in look.events() if event["action"].startswith("gdpr")]
    assert actions == [
        "gdpr.request",
        "gdpr.verify_identity",
        "gdpr.preview",
        "gdpr.erase.step",
        "gdpr.erase",
        "gdpr.show",
    ]


async def test_a_second_request_joins_the_first_and_so_does_the_short_way(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    first = await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    second = await look.runtime.gdpr.request_erasure("alice", look.tenant_id, identity="passport")
    assert (second.erasure_id, second.state) == (first.erasure_id, S.IDENTITY_VERIFIED)
    assert look.events()[-1]["reason"] == "joined"
    erased = await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    assert isinstance(erased, Erasure)
    assert (erased.erasure_id, erased.is_done) == (first.erasure_id, True)
    assert len(look.erasures()) == 1


@pytest.mark.parametrize("many", [2, 5])
async def test_requests_and_erasures_at_once_are_one(look: Looker, many: int) -> None:
    await look.store(*[sample_memory("alice")] * 3)
    subject, gdpr = str(look.subject("alice")), look.runtime.gdpr
    asked = [gdpr.request_erasure("alice", look.tenant_id) for _ in range(many)]
    assert len({one.erasure_id for one in await asyncio.gather(*asked)}) == 1
    done = await asyncio.gather(*(gdpr.delete_user_data("alice", look.tenant_id, confirmed=True) for _ in range(many)))
    assert all(isinstance(one, Erasure) and one.is_done for one in done)
    assert look.remains(subject) == {}
    assert look.used() == 0
    assert len([row for row in look.erasures() if row.subject_id is not None]) == 1


async def test_nobody_is_erased_whose_identity_was_not_verified_or_whom_nobody_looked_at(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    made = await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    gdpr, key = look.runtime.gdpr, (made.erasure_id, look.tenant_id)
    with pytest.raises(ErasureRequestError) as refused:
        await gdpr.preview_request(*key)
    assert (refused.value.reason, refused.value.state) == ("wrong_state", "received")
    await gdpr.verify_identity(*key, method="passport")
    with pytest.raises(ErasureRequestError) as refused:
        await gdpr.confirm(*key, seen="0" * 64)
    assert (refused.value.reason, refused.value.state) == ("wrong_state", "identity_verified")
    assert look.used() == 1
    assert [e["reason"] for e in look.events() if e["outcome"] == "failed"] == ["erasure_request:wrong_state"] * 2


@pytest.mark.parametrize("change", ["store", "update", "delete", "key"])
async def test_a_stale_preview_is_not_confirmed(look: Looker, change: str) -> None:
    (memory_id, _) = await look.store(sample_memory("alice"), sample_memory("alice"))
    made = await identified(look)
    digest = await seen(look, made)
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        match change:
            case "store":
                await look.runtime.memory.store(sample_memory("alice"), {})
            case "update":
                await look.runtime.memory.update(memory_id, {"content": "Uses spaces"})
            case "delete":
                await look.runtime.memory.delete(memory_id)
    if change == "key":
        look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    with pytest.raises(ErasureRequestError) as refused:
        await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=digest)
    assert refused.value.reason == "stale_preview"
    assert look.state(str(look.subject("alice"))) == "active"
    assert (look.events()[-1]["outcome"], look.events()[-1]["reason"]) == ("failed", "erasure_request:stale_preview")
    again = await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=await seen(look, made))
    assert again.is_done


async def test_what_the_machine_does_meanwhile_makes_no_preview_stale(look: Looker) -> None:
    ids = await look.store(*[sample_memory("alice")] * 2)
    made = await identified(look)
    digest = await seen(look, made)
    await look.runtime.drain()
    await look.read("alice", ids)
    assert (await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=digest)).is_done


@pytest.mark.parametrize("role", ["service", "member", "auditor", "operator"])
async def test_a_confirmation_by_a_wrong_role_is_refused_and_recorded(look: Looker, role: str) -> None:
    await look.store(sample_memory("alice"))
    made = await identified(look)
    digest = await seen(look, made)
    with (
        request_context(tenant_id=look.tenant_id, user_id="alice", roles={role}),
        pytest.raises(PermissionDeniedError),
    ):
        await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=digest)
    event = look.events()[-1]
    assert (event["action"], event["outcome"], event["reason"]) == (
        "gdpr.erase",
        "denied",
        "permission_denied:role_missing",
    )
    assert look.used() == 1


async def test_another_tenants_request_and_one_that_is_not_there_look_the_same(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    made = await identified(look)
    stranger = look.runtime.tenants.create(f"{look.tenant_id}-b").tenant_id
    messages = set()
    for request_id in (made.erasure_id, new_event_id(), "no-id-at-all"):
        gdpr = look.runtime.gdpr
        for call in (
            gdpr.show(request_id, stranger),
            gdpr.verify_identity(request_id, stranger, method="passport"),
            gdpr.preview_request(request_id, stranger),
            gdpr.confirm(request_id, stranger, seen="0" * 64),
            gdpr.cancel(request_id, stranger, reason="r"),
            gdpr.reject(request_id, stranger, reason="r"),
            gdpr.resume_request(request_id, stranger),
            gdpr.release(request_id, stranger),
            gdpr.extend(request_id, stranger, reason="r", notified_at=datetime.now(UTC)),
        ):
            with pytest.raises(ErasureRequestError) as refused:
                await call
            messages.add((str(refused.value), refused.value.reason, refused.value.state))
    assert len(messages) == 1
    assert (await look.runtime.gdpr.show(made.erasure_id, look.tenant_id)).erasure.state is S.IDENTITY_VERIFIED
    assert await look.runtime.gdpr.requests(stranger) == []


# Refusing and extending


@pytest.mark.parametrize("how", ["cancel", "reject"])
async def test_what_is_refused_erases_nothing_says_why_and_makes_room_for_another(look: Looker, how: str) -> None:
    await look.store(sample_memory("alice"))
    made = await identified(look)
    call = getattr(look.runtime.gdpr, how)
    with pytest.raises(ConfigurationError):
        await call(made.erasure_id, look.tenant_id, reason=" ")
    ended = await call(made.erasure_id, look.tenant_id, reason="the law says so")
    assert ended.state is (S.CANCELLED if how == "cancel" else S.REJECTED)
    told = await look.runtime.gdpr.show(made.erasure_id, look.tenant_id)
    assert told.closing_reason == "the law says so"
    assert look.used() == 1
    with pytest.raises(ErasureRequestError):
        await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen="0" * 64)
    assert (await look.runtime.gdpr.request_erasure("alice", look.tenant_id)).erasure_id != made.erasure_id


async def test_what_is_confirmed_is_refused_no_more(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    done = await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    assert isinstance(done, Erasure)
    for call in (look.runtime.gdpr.cancel, look.runtime.gdpr.reject):
        with pytest.raises(ErasureRequestError) as refused:
            await call(done.erasure_id, look.tenant_id, reason="too late")
        assert refused.value.reason == "wrong_state"


async def test_a_request_is_extended_once_by_two_months_at_most_within_the_first(look: Looker) -> None:
    gdpr, tenant = look.runtime.gdpr, look.tenant_id
    received = datetime.now(UTC) - timedelta(days=40)
    made = await gdpr.request_erasure("alice", tenant, received_at=received)
    assert made.due_at is not None
    late, told = made.due_at + timedelta(hours=1), made.due_at - timedelta(days=1)
    for notified, until in ((late, None), (told, months_later(received, 4)), (told, made.due_at)):
        with pytest.raises(ErasureRequestError) as refused:
            await gdpr.extend(made.erasure_id, tenant, reason="r", notified_at=notified, until=until)
        assert refused.value.reason == "overdue"
    later = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(ConfigurationError):
        await gdpr.extend(made.erasure_id, tenant, reason="r", notified_at=later)
    extended = await gdpr.extend(made.erasure_id, tenant, reason="many systems", notified_at=told)
    assert extended.deadline == extended.extended_until == months_later(received, 3)
    assert (await gdpr.show(made.erasure_id, tenant)).extension_reason == "many systems"
    with pytest.raises(ErasureRequestError):
        await gdpr.extend(made.erasure_id, tenant, reason="again", notified_at=told)


async def test_what_is_due_is_listed_by_deadline_and_what_is_done_is_not(look: Looker) -> None:
    gdpr, now = look.runtime.gdpr, datetime.now(UTC)
    asked = {}
    for days, user in ((1, "young"), (25, "old"), (50, "overdue")):
        asked[user] = (
            await gdpr.request_erasure(user, look.tenant_id, received_at=now - timedelta(days=days))
        ).erasure_id
    await gdpr.delete_user_data("somebody", look.tenant_id, confirmed=True)
    due = await gdpr.requests(look.tenant_id, due_only=True)
    assert [one.erasure_id for one in due] == [asked["overdue"], asked["old"], asked["young"]]
    assert len(await gdpr.requests(look.tenant_id)) == 4
    assert due[0].deadline is not None
    assert due[0].deadline < now


# People of whom nothing is kept


async def test_a_request_of_somebody_unknown_ends_with_nothing_found_and_forgets_the_name(look: Looker) -> None:
    made = await identified(look, "nobody@example.com")
    assert (made.subject_id, look.subject("nobody@example.com")) == (None, None)
    (row,) = look.erasures()
    assert b"nobody" not in row.user_sealed
    again = await identified(look, "nobody@example.com")
    assert again.erasure_id == made.erasure_id, "a second request joins the first, by the sealed name"
    assert (await identified(look, "nobody@example.org")).erasure_id != made.erasure_id
    done = await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=await seen(look, made))
    assert (done.is_done, done.subject_id, done.counts) == (True, None, {})
    assert {level.value for level in done.levels} == {"logical", "cryptographic", "store"}
    rows = {str(row.erasure_id): row for row in look.erasures()}
    assert rows[made.erasure_id].user_sealed is None
    assert look.events()[-1]["reason"] == "nothing_found"
    assert look.subject("nobody@example.com") is None


async def test_somebody_who_became_known_after_the_request_is_erased_all_the_same(look: Looker) -> None:
    made = await identified(look)
    digest = await seen(look, made)
    ids = await look.store(sample_memory("alice"))
    subject = str(look.subject("alice"))
    with pytest.raises(ErasureRequestError) as refused:
        await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=digest)
    assert refused.value.reason == "stale_preview"
    joined = await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    assert joined.erasure_id == made.erasure_id
    done = await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=await seen(look, made))
    assert (done.subject_id, done.memories) == (subject, 1)
    assert look.remains(subject) == {}
    assert await look.read("alice", ids) == []


# Trouble


async def test_a_step_that_fails_says_which_and_is_gone_on_with(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    subject, made = str(look.subject("alice")), await identified(look)
    digest = await seen(look, made)
    failpoints.arm("erase.ledger_deleted", fail)
    with pytest.raises(ProviderUnavailableError):
        await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=digest)
    failpoints.disarm_all()
    failed = (await look.runtime.gdpr.show(made.erasure_id, look.tenant_id)).erasure
    assert (failed.state, failed.failed_step) == (S.FAILED, "rows_deleted")
    with pytest.raises(ErasureRequestError):
        await look.runtime.gdpr.cancel(made.erasure_id, look.tenant_id, reason="no")
    done = await look.runtime.gdpr.resume_request(made.erasure_id, look.tenant_id)
    assert (done.is_done, done.failed_step, done.memories) == (True, None, 1)
    assert look.remains(subject) == {}
    with pytest.raises(ErasureRequestError):
        await look.runtime.gdpr.resume_request(made.erasure_id, look.tenant_id)


async def test_what_nobody_touches_is_gone_on_with_by_the_upkeep_and_what_is_at_work_is_not(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    subject = str(look.subject("alice"))
    failpoints.arm("erase.frozen", fail)
    with pytest.raises(ProviderUnavailableError):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    look.runtime.gdpr.upkeep()
    assert look.state(subject) == "frozen", "another process may be at it"
    engine = look.runtime._installation.engines.maintenance
    engine.transaction(
        lambda connection: connection.execute(
            sa.update(erasures)
            .where(erasures.c.tenant_id == look.tenant_id)
            .values(changed_at=datetime.now(UTC) - timedelta(minutes=11))
        )
    )
    look.runtime.gdpr.upkeep()
    assert look.remains(subject) == {}
    assert look.state(subject) == "erased"


async def test_a_tenant_that_is_being_closed_takes_no_request_and_ends_those_it_has(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    await identified(look)
    await identified(look, "nobody")

    def die() -> None:
        raise KeyboardInterrupt

    failpoints.arm("close.frozen", die)
    with pytest.raises(KeyboardInterrupt):
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    with pytest.raises(PermissionDeniedError) as refused:
        await look.runtime.gdpr.request_erasure("bob", look.tenant_id)
    assert refused.value.reason == "tenant_closing"
    assert look.runtime.closing.resume() == 1
    found = {(row.whole_tenant, row.state, row.user_sealed) for row in look.erasures()}
    assert found == {(True, "certified", None), (False, "verified", None)}
    assert look.runtime.gdpr.resume() == 0, "the closing's certificate stands for them"


@pytest.mark.parametrize(
    "wrong",
    [{"identity": "Alice Smith"}, {"identity": ""}, {"received_at": datetime(2999, 1, 1)}, {"reason": "x" * 1_001}],  # noqa: DTZ001 - without a zone it is UTC
)
async def test_a_request_that_is_no_request_is_refused_and_recorded(look: Looker, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        await look.runtime.gdpr.request_erasure("alice", look.tenant_id, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilterError):
        await look.runtime.gdpr.request_erasure("", look.tenant_id)
    assert look.erasures() == []
    assert [e["outcome"] for e in look.events() if e["action"] == "gdpr.request"] == ["failed", "failed"]
