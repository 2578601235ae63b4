"""Laws of erasure: a preview changes nothing; what is confirmed leaves nothing, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud import request_context
from cloud.gdpr.catalog import DELETED_FROM
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.kernel import failpoints
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    ErasureIncompleteError,
    InvalidFilterError,
    MemoryNotFoundError,
    PermissionDeniedError,
    ProviderUnavailableError,
    UnknownTenantError,
)
from cloud.kernel.scope import Role
from cloud.storage.metadata import metadata
from cloud.tenancy.system import system_predicate
from src.testing.samples import HOSTILE_USER_IDS, sample_memory
from tests.unit.cloud.gdpr.conftest import Looker

STEPS = [name for name in failpoints.NAMES if name.startswith("erase.")]


class Killed(Exception):  # noqa: N818 - stands for the end of a process, not for an error
    """The process ended here."""


def die() -> None:
    raise Killed


async def erased(answer: Awaitable[ErasurePreview | Erasure]) -> Erasure:
    result = await answer
    assert isinstance(result, Erasure)
    assert result.is_done
    return result


# Preview


async def test_a_preview_counts_everything_and_changes_nothing(look: Looker) -> None:
    ids = await look.store(*[sample_memory("alice")] * 3, idempotency_key="k")
    await look.store(sample_memory("bob"))
    look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.delete(ids[0])
    await look.read("alice", [])
    before = look.remains(str(look.subject("alice")))
    for _ in range(2):
        preview = await look.runtime.gdpr.delete_user_data("alice", look.tenant_id)
        assert isinstance(preview, ErasurePreview)
        assert preview.subject_id == look.subject("alice")
        assert preview.memories == 3, "a deleted memory that is still kept would go too"
        assert {**preview.counts, "process.read_times": 0} == {
            "control.memories": 3,
            "control.memory_changes": 1,
            "control.intake": 0,
            "control.idempotency_keys": 1,
            "control.api_keys": 1,
            "pixeltable.memories": 3,
            "keyring.subject": 1,
            "process.hot_tier": 1,
            # Written now and then, by a thread of its own.
            "process.read_times": 0,
            "process.keys": 1,
        }
        assert preview.counts.keys() == set(DELETED_FROM)
    assert look.remains(str(look.subject("alice"))) == before
    assert look.used() == 3
    assert len(await look.read("alice", ids)) == 2 * 4 + 2
    (event, _) = [event for event in look.events() if event["action"] == "gdpr.preview"]
    assert event["outcome"] == "allowed"
    assert {**event["counts"], "process.read_times": 0} == {**preview.counts, "process.read_times": 0}


async def test_a_preview_of_nobody_finds_nothing_and_makes_nobody(look: Looker) -> None:
    preview = await look.runtime.gdpr.delete_user_data("nobody", look.tenant_id)
    assert preview == ErasurePreview(look.tenant_id, None, {})
    assert look.subject("nobody") is None


# Erasure


async def test_what_is_erased_is_found_by_no_way_of_reading_and_in_no_place(look: Looker) -> None:
    alices = await look.store(*[sample_memory("alice")] * 3, idempotency_key="alices")
    bobs = await look.store(sample_memory("bob"), sample_memory("bob"), idempotency_key="bobs")
    both = await look.store(sample_memory("alice"), sample_memory("bob"), idempotency_key="both")
    key = look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    await look.runtime.drain()
    waiting = await look.store(sample_memory("alice"))
    await look.read("alice", alices)
    await look.read("bob", bobs)
    alice, bob = str(look.subject("alice")), str(look.subject("bob"))
    bob_before = look.remains(bob)
    assert look.used() == 8

    erasure = await erased(
        look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True, reason="request 17 of Alice")
    )
    assert (erasure.subject_id, erasure.memories) == (alice, 5)
    assert (erasure.counts["control.idempotency_keys"], erasure.counts["control.api_keys"]) == (2, 1)
    assert erasure.completed_at is not None
    assert erasure.completed_at >= erasure.requested_at

    assert look.remains(alice) == {}
    assert look.state(alice) == "erased"
    assert await look.read("alice", [*alices, both[0], *waiting]) == []
    assert look.used() == 3, "the stock was not given back"
    with request_context(authorization=key), pytest.raises(AuthenticationError):
        await look.runtime.memory.retrieve("tabs", "alice")

    assert look.remains(bob) == bob_before | {"idempotency_keys": 1}, "the call that stood for both is forgotten"
    assert {memory.id for memory in await look.read("bob", bobs)} == {*bobs, both[1]}


async def test_an_erasure_is_recorded_with_its_intent_and_without_the_person(look: Looker) -> None:
    await look.store(sample_memory("alice@example.com"))
    count = len(look.events())
    await erased(
        look.runtime.gdpr.delete_user_data(
            "alice@example.com", look.tenant_id, confirmed=True, reason="asked by alice@example.com"
        )
    )
    intent, done = look.events()[count:]
    assert (intent["action"], intent["outcome"], intent["reason"]) == ("gdpr.erase.step", "allowed", "intent")
    assert (done["action"], done["outcome"], done["reason"]) == ("gdpr.erase", "allowed", None)
    assert done["counts"]["control.memories"] == 1
    assert "alice" not in json.dumps(look.events())
    (row,) = look.erasures()
    assert b"alice" not in row.reason_sealed


async def test_the_same_person_in_another_tenant_is_another_person(look: Looker) -> None:
    other = Looker(look.runtime, look.runtime.tenants.create(f"{look.tenant_id}-twin").tenant_id)
    await look.store(sample_memory("alice"))
    ids = await other.store(sample_memory("alice"))
    await look.runtime.drain()
    before = other.remains(str(other.subject("alice")))
    await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    assert other.remains(str(other.subject("alice"))) == before
    assert {memory.id for memory in await other.read("alice", ids)} == set(ids)
    assert other.used() == 1


async def test_a_person_of_whom_nothing_is_kept_is_erased_at_once_and_that_is_recorded(look: Looker) -> None:
    for _ in range(2):
        erasure = await erased(look.runtime.gdpr.delete_user_data("nobody", look.tenant_id, confirmed=True))
        assert (erasure.subject_id, erasure.counts, erasure.memories) == (None, {}, 0)
        assert (look.events()[-1]["action"], look.events()[-1]["reason"]) == ("gdpr.erase", "nothing_found")
    assert look.subject("nobody") is None


async def test_a_second_erasure_finds_nothing(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    first = await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    second = await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    assert (first.memories, second.memories) == (1, 0)
    assert look.used() == 0


async def test_who_comes_back_is_somebody_new(look: Looker) -> None:
    await look.store(sample_memory("alice"), idempotency_key="k")
    old = look.subject("alice")
    await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    ids = await look.store(sample_memory("alice"), idempotency_key="k")
    assert look.subject("alice") not in (None, old)
    assert {memory.id for memory in await look.read("alice", ids)} == set(ids)
    assert look.used() == 1
    new = look.subject("alice")
    assert not any(str(old) in json.dumps(event) and str(new) in json.dumps(event) for event in look.events())


async def test_whoever_has_a_strange_name_is_erased_alone(look: Looker) -> None:
    people = [user_id for user_id in HOSTILE_USER_IDS if user_id.strip()][:12]
    await look.store(*(sample_memory(user_id) for user_id in people))
    for erased_so_far, user_id in enumerate(people[::2], start=1):
        await erased(look.runtime.gdpr.delete_user_data(user_id, look.tenant_id, confirmed=True))
        assert look.used() == len(people) - erased_so_far
    for user_id in people[1::2]:
        assert len(await look.read(user_id, [])) == 4, user_id


async def test_many_are_erased_at_once(look: Looker) -> None:
    people = [f"user-{number}" for number in range(8)]
    await look.store(*(sample_memory(user_id) for user_id in people))
    subjects = [str(look.subject(user_id)) for user_id in people]
    gdpr = look.runtime.gdpr
    await asyncio.gather(*(erased(gdpr.delete_user_data(one, look.tenant_id, confirmed=True)) for one in people))
    assert [look.remains(subject) for subject in subjects] == [{}] * 8
    assert look.used() == 0


async def test_one_person_asked_for_twice_at_once_is_erased_once(look: Looker) -> None:
    await look.store(*[sample_memory("alice")] * 5)
    subject = str(look.subject("alice"))
    gdpr = look.runtime.gdpr
    await asyncio.gather(*(erased(gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)) for _ in range(3)))
    assert look.remains(subject) == {}
    assert look.used() == 0, "stock was given back twice"


# What is under way meanwhile


@pytest.mark.parametrize("place", ["materializer.selected", "materializer.inserted"])
async def test_a_batch_on_its_way_into_pixeltable_leaves_nothing_behind(look: Looker, place: str) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(20)

    failpoints.arm(place, hold)
    try:
        await look.store(*[sample_memory("alice")] * 3, sample_memory("bob"))
        assert await asyncio.to_thread(reached.wait, 20)
        subject = str(look.subject("alice"))
        task = asyncio.ensure_future(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
        await asyncio.sleep(0.2)
        assert not task.done(), "the rows were deleted beside a materializer that held them"
    finally:
        go_on.set()
        failpoints.disarm_all()
    await erased(task)
    await look.runtime.drain()
    assert look.remains(subject) == {}
    assert len(await look.read("bob", [])) == 4


@pytest.mark.parametrize("known_before", [False, True])
async def test_a_write_in_flight_is_not_accepted_for_the_subject_that_was_erased(
    look: Looker, known_before: bool
) -> None:
    """Its memory belongs to the person who came back, and can be read; none is sealed under a destroyed key."""
    if known_before:
        await look.store(sample_memory("alice"))
    erased_meanwhile: list[str] = []

    def erase() -> None:
        failpoints.disarm_all()
        erased_meanwhile.append(str(look.subject("alice")))
        call = look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
        # Without the writer's own context: the operator erases.
        contextvars.Context().run(asyncio.run, erased(call))

    failpoints.arm("store.sealed", erase)
    ids = await look.store(sample_memory("alice"))
    (old,) = erased_meanwhile
    assert look.remains(old) == {}
    assert look.subject("alice") != old
    assert {memory.id for memory in await look.read("alice", ids)} == set(ids)
    assert look.used() == 1


async def test_while_an_erasure_waits_the_person_neither_reads_nor_writes(look: Looker) -> None:
    ids = await look.store(sample_memory("alice"))
    failpoints.arm("erase.frozen", die)
    with pytest.raises(Killed):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert await look.read("alice", ids) == []
    with pytest.raises(PermissionDeniedError) as refused:
        await look.store(sample_memory("alice"))
    assert refused.value.reason == "erasure_in_progress"
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        assert not await look.runtime.memory.delete(ids[0])
    assert look.runtime.gdpr.resume() == 1


# Crashes


@pytest.mark.parametrize("again", ["resume", "call"])
@pytest.mark.parametrize("step", STEPS)
async def test_an_erasure_that_was_killed_anywhere_is_finished(look: Looker, step: str, again: str) -> None:
    ids = await look.store(*[sample_memory("alice")] * 2, idempotency_key="k")
    await look.runtime.drain()
    ids += await look.store(sample_memory("alice"))
    await look.store(sample_memory("bob"))
    await look.read("alice", ids)
    subject = str(look.subject("alice"))
    failpoints.arm(step, die)
    with pytest.raises(Killed):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert await look.read("alice", ids) == []
    if again == "resume":
        # Once it is verified, a certificate is all that can be lacking.
        assert look.runtime.gdpr.resume() == 1 or step == "erase.verified"
    else:
        await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    assert look.remains(subject) == {}
    assert look.state(subject) == "erased"
    assert look.used() == 1
    (row,) = [row for row in look.erasures() if row.subject_id is not None]
    assert row.state in ("verified", "certified")
    assert row.counts["control.memories"] == 3
    assert look.runtime.gdpr.resume() == 0
    assert [e["outcome"] for e in look.events() if e["action"] == "gdpr.erase" and e["reason"] is None] == ["allowed"]


async def test_an_erasure_that_finds_remains_says_so_and_is_done_again(
    look: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await look.store(sample_memory("alice"))
    await look.runtime.drain()
    subject = str(look.subject("alice"))
    rows = look.runtime.pixeltable_config.rows
    with monkeypatch.context() as broken:
        broken.setattr(type(rows), "remove_subject", lambda *_: 0)
        with pytest.raises(ErasureIncompleteError) as incomplete:
            await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    assert incomplete.value.places == ("pixeltable.memories",)
    event = look.events()[-1]
    assert (event["action"], event["outcome"], event["reason"]) == ("gdpr.erase", "failed", "erasure_incomplete")
    assert look.runtime.gdpr.resume() == 1
    assert look.remains(subject) == {}


# Who may


@pytest.mark.parametrize("role", ["service", "member", "auditor", "operator"])
async def test_only_an_administrator_erases(look: Looker, role: str) -> None:
    await look.store(sample_memory("alice"))
    for confirmed in (False, True):
        with (
            request_context(tenant_id=look.tenant_id, user_id="alice", roles={role}),
            pytest.raises(PermissionDeniedError),
        ):
            await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=confirmed)
    assert look.used() == 1
    assert [e["outcome"] for e in look.events() if e["action"].startswith("gdpr")] == ["denied", "denied"]
    with request_context(tenant_id=look.tenant_id, user_id="dana", roles={"tenant_admin"}):
        await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    assert look.used() == 0


async def test_an_administrator_erases_in_no_other_tenant(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    stranger = look.runtime.tenants.create(f"{look.tenant_id}-b").tenant_id
    gdpr = look.runtime.gdpr
    with request_context(tenant_id=stranger, user_id="dana", roles={"tenant_admin"}):
        for target in (look.tenant_id, "no-such-tenant"):
            with pytest.raises(PermissionDeniedError):
                await gdpr.delete_user_data("alice", target, confirmed=True)
            with pytest.raises(PermissionDeniedError):
                await gdpr.export_user_data("alice", target, tmp_path / "out")
    with request_context(request_id="r-1"), pytest.raises(AuthenticationError):
        await gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    with pytest.raises(UnknownTenantError):
        await gdpr.delete_user_data("alice", "no-such-tenant", confirmed=True)
    assert look.used() == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("user_id", ["", " ", "a\0b", "a\nb", "\ud800", "u" * 257])
async def test_a_name_that_nobody_can_have_is_refused_and_recorded(look: Looker, user_id: str) -> None:
    for confirmed in (False, True):
        with pytest.raises(InvalidFilterError):
            await look.runtime.gdpr.delete_user_data(user_id, look.tenant_id, confirmed=confirmed)
    assert [e["outcome"] for e in look.events() if e["action"].startswith("gdpr")] == ["failed", "failed"]


async def test_a_reason_that_is_too_long_erases_nothing(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    with pytest.raises(ConfigurationError):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True, reason="x" * 1_001)
    assert look.used() == 1
    assert len(await look.read("alice", [])) == 4


# Frozen: every way in finds nothing or is refused


def fail() -> None:
    raise ProviderUnavailableError("a part")


async def test_from_the_freeze_on_every_operation_is_refused_or_finds_nothing(look: Looker, tmp_path: Path) -> None:
    """Of the person who is frozen alone: of Bob everything works."""
    (first, second, deleted) = await look.store(*[sample_memory("alice")] * 3, idempotency_key="k")
    (bobs,) = await look.store(sample_memory("bob"))
    memory = look.runtime.memory
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await memory.delete(deleted)
        await memory.supersede(second, sample_memory("alice"), {"idempotency_key": "s"})
    key = look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    await look.read("alice", [first])
    failpoints.arm("erase.frozen", fail)
    with pytest.raises(ProviderUnavailableError):
        await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()

    assert await look.read("alice", [first, second, deleted]) == []
    path = tmp_path / "more.jsonl"
    path.write_text(sample_memory("alice").model_dump_json(exclude_none=True) + "\n")
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        refused = [
            memory.store(sample_memory("alice"), {}),
            memory.store_many([sample_memory("alice")] * 3, {"idempotency_key": "k"}),
            memory.store_many([sample_memory("bob"), sample_memory("alice")], {}),
        ]
        for call in refused:
            with pytest.raises(PermissionDeniedError) as denied:
                await call
            assert denied.value.reason == "erasure_in_progress"
        absent = [
            memory.update(first, {"content": "Uses spaces"}),
            memory.supersede(first, sample_memory("alice"), {}),
            memory.supersede(second, sample_memory("alice"), {"idempotency_key": "s"}),
        ]
        for call in absent:
            with pytest.raises(MemoryNotFoundError):
                await call
        assert not await memory.delete(first)
        assert not await memory.undelete(deleted)
        assert await memory.history(first) == []
        assert await memory.count("alice") == 0
        page = await memory.list("alice", limit=1)
        assert (page.memories, page.next_cursor) == ((), None)
        report = await look.runtime.transfer.import_file(path)
        assert report.stopped is not None
        assert report.counts()["stored"] == 0
        assert await memory.get_by_id(bobs) is not None
    with request_context(authorization=key):
        assert await memory.retrieve("tabs", "alice") == []
    with pytest.raises(PermissionDeniedError):
        look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    subject = str(look.subject("alice"))
    assert look.runtime.gdpr.resume() == 1
    assert look.remains(subject) == {}
    assert look.used() == 1


@pytest.mark.parametrize("whole_tenant", [False, True])
async def test_a_key_in_the_making_is_not_added_to_who_was_erased_meanwhile(look: Looker, whole_tenant: bool) -> None:
    await look.store(sample_memory("alice"))
    subject, keys = str(look.subject("alice")), look.runtime.api_keys
    _, record = keys._made(look.tenant_id, frozenset({Role.MEMBER}), "alice", (), None)
    if whole_tenant:
        look.runtime.closing.close(look.tenant_id, confirmed=True)
    else:
        await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    draft = look.runtime.audit.draft(None, Action.API_KEY_CREATE)
    barred = keys._store.add_key(record, draft)
    assert barred == ("tenant_closed" if whole_tenant else "erasure_in_progress")
    assert look.remains(subject) == {}
    assert look.events()[-1]["outcome"] == "denied"


# While its rows are being deleted it holds the locks that a move waits for.
@pytest.mark.parametrize("step", [step for step in STEPS if step != "erase.ledger_deleted"])
async def test_an_erasure_and_a_move_at_once_leave_nothing_in_either_table(look: Looker, step: str) -> None:
    """The tenant moves to a table of its own while the erasure stands still."""
    await look.store(*[sample_memory("alice")] * 3, sample_memory("bob"))
    await look.runtime.drain()
    subject = str(look.subject("alice"))

    def move() -> None:
        failpoints.disarm_all()
        contextvars.Context().run(look.runtime.tenants.move, look.tenant_id, to="own")

    failpoints.arm(step, move)
    await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    config = look.runtime.pixeltable_config
    predicate = system_predicate(look.tenant_id, "test")
    for placement in look.runtime.gdpr._store.placements(predicate):
        assert config.rows.count_subject(predicate, placement, subject) == 0
    assert len(await look.read("bob", [])) == 4


async def test_who_comes_back_has_no_link_to_who_was_erased(look: Looker) -> None:
    """Not in any table, nor in the keyring: no row, event or key names both."""
    made = await look.runtime.gdpr.request_erasure("alice", look.tenant_id, reason="by letter", identity="passport")
    await look.store(sample_memory("alice"), idempotency_key="k")
    preview = await look.runtime.gdpr.preview_request(made.erasure_id, look.tenant_id)
    old = str(look.subject("alice"))
    await look.runtime.gdpr.confirm(made.erasure_id, look.tenant_id, seen=preview.digest)
    await look.store(sample_memory("alice"), idempotency_key="k")
    new = str(look.subject("alice"))
    await erased(look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True))
    await look.store(sample_memory("alice"))
    third = str(look.subject("alice"))
    assert len({old, new, third}) == 3
    assert look.runtime.pixeltable_config.keyring.subjects(look.tenant_id) == (third,)
    engine = look.runtime._installation.engines.maintenance
    for table in metadata.tables.values():
        for row in engine.rows(sa.select(sa.cast(sa.literal_column(f'"{table.name}"'), sa.Text)).select_from(table)):
            assert sum(subject in str(row[0]) for subject in (old, new, third)) <= 1, table.name
    ids = [str(row.erasure_id) for row in look.erasures()]
    assert len(ids) == len(set(ids)) == 2
