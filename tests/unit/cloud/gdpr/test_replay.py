"""The databases follow the erasure ledger. Whoever it names and they know came back with a restored database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.gdpr.ledger import LedgerPlace
from cloud.gdpr.levels import AT_ONCE, Level
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.replay import Replay
from cloud.gdpr.request_rows import erasure_of
from cloud.gdpr.verify import verify_certificate
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, PermissionDeniedError, SealBrokenError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.keys.model import pack_slot
from cloud.keys.sqlite import FileKeyring
from cloud.startup.erasures import build_replay
from cloud.storage.metadata import erasures
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.unit.cloud.keys.conftest import record
from tests.unit.cloud.tenancy.test_administration import Log

OF_BEFORE = "UPDATE erasure_ledger SET records = 0, size_bytes = 0, line_hash = encode(sha256(''), 'hex')"
"""How far a database has followed the ledger that is of before its first record."""


def replay(runtime: CloudRuntime) -> Replay:
    """What a start runs."""
    installation = runtime._installation
    return build_replay(
        installation.engines, installation.config, runtime.audit, installation.ledger, first_model="wordllama"
    )


async def stored(runtime: CloudRuntime, tenant_id: str, *users: str) -> None:
    """Two memories of each: one in Pixeltable, one that may wait."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        for user in users:
            await runtime.memory.store(sample_memory(user, content=f"{user} likes {user}ish things"), {})
        await runtime.drain()
        for user in users:
            await runtime.memory.store(sample_memory(user, content=f"{user} likes more of it"), {})


async def found(runtime: CloudRuntime, tenant_id: str, user: str) -> int:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return len(await runtime.memory.search(user, {"query": f"{user}ish things"}))


def subject_of(runtime: CloudRuntime, tenant_id: str, user: str) -> str:
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, user, create=False)
    assert person is not None
    return person.subject_id


def erased_once(runtime: CloudRuntime, tenant_id: str, user: str) -> str:
    """The ledger says that the person was erased, and the databases are of before."""
    subject_id, now = subject_of(runtime, tenant_id, user), datetime.now(UTC)
    erasure = Erasure(new_event_id(), tenant_id, subject_id, ErasureState.VERIFIED, {}, now, now)
    runtime._installation.ledger.append(erasure)
    return subject_id


async def test_whoever_came_back_is_erased_in_both_planes_and_nobody_else(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await stored(runtime, tenant_id, "alice", "bob")
    subject_id = erased_once(runtime, tenant_id, "alice")
    done = replay(runtime).run()
    assert done.erased_again == 1
    config, predicate = runtime.pixeltable_config, system_predicate(tenant_id, "test")
    (placement,) = runtime.gdpr._requests._store.placements(predicate)
    assert config.rows.count_subject(predicate, placement, subject_id) == 0
    assert config.keyring.subject_key(tenant_id, subject_id) is None
    rows = runtime._installation.engines.maintenance.rows
    for table in ("memories", "intake", "memory_changes"):
        query = sa.text(f"SELECT count(*) FROM {table} WHERE subject_id = :subject")
        assert rows(query, {"subject": subject_id})[0][0] == 0
    assert await found(runtime, tenant_id, "alice") == 0
    assert await found(runtime, tenant_id, "bob") == 2
    # It is followed: nothing is done twice.
    assert replay(runtime).run().records == 0
    events = rows(
        sa.text(
            "SELECT event->>'action' FROM audit_events WHERE log_id = :log AND event->>'subject_id' = :subject"
            " AND event->'details'->>'of' = 'erasure_ledger' ORDER BY 1"
        ),
        {"log": tenant_id, "subject": subject_id},
    )
    assert [action for (action,) in events] == ["gdpr.erase", "gdpr.erase.step"]


def levels_of(runtime: CloudRuntime, tenant_id: str) -> dict[Level, tuple[bool, bool]]:
    """Of the tenant's one erasure: which levels are reached, and which are due by now."""
    engine = runtime._installation.engines.maintenance
    (row,) = engine.rows(sa.select(erasures).where(erasures.c.tenant_id == tenant_id))
    now = runtime.pixeltable_config.clock()
    return {
        level: (state.reached_at is not None, state.due_at is not None and state.due_at <= now)
        for level, state in erasure_of(row).levels.items()
    }


REACHED = dict.fromkeys(AT_ONCE, (True, False))
DUE = dict.fromkeys((Level.FILE, Level.WAL, Level.BACKUPS), (False, True))


async def test_whoever_came_back_under_a_legal_hold_is_erased_and_certified_with_the_levels_of_these_databases(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await stored(runtime, tenant_id, "alice")
    with request_context(tenant_id=tenant_id, user_id="admin", roles={"tenant_admin"}):
        review = datetime.now(UTC) + timedelta(days=30)
        await runtime.gdpr.hold(tenant_id, user_id="alice", reason="a claim", authority="a court", review_at=review)
    erased_once(runtime, tenant_id, "alice")
    assert replay(runtime).run().erased_again == 1
    with request_context(tenant_id=tenant_id, user_id="admin", roles={"tenant_admin"}):
        (found,) = await runtime.gdpr.requests(tenant_id)
        assert {level for level, state in found.levels.items() if state.reached_at} == set(AT_ONCE)
        # Whatever the databases before had reached: reading in has filled new files with what was erased.
        due = [found.levels[level].due_at for level in Level if level not in AT_ONCE]
        assert all(at is not None and at <= datetime.now(UTC) for at in due)
        assert await asyncio.to_thread(runtime.gdpr.resume) >= 1
        await asyncio.to_thread(runtime.gdpr.upkeep)
        (found,) = await runtime.gdpr.requests(tenant_id)
    assert found.state is ErasureState.CERTIFIED
    assert found.levels[Level.FILE].reached_at
    assert found.levels[Level.WAL].reached_at


async def test_a_tenant_that_came_back_is_closed_again(runtime: CloudRuntime, tenant_id: str) -> None:
    """Also where a legal hold kept it in those days: it was released, or the keys would not be destroyed."""
    await stored(runtime, tenant_id, "alice")
    soon = datetime.now(UTC) + timedelta(days=30)
    await runtime.gdpr.hold(tenant_id, user_id="alice", reason="a suit", authority="court", review_at=soon)
    now = datetime.now(UTC)
    closing = Erasure(new_event_id(), tenant_id, None, ErasureState.FROZEN, {}, now, None, whole_tenant=True)
    runtime._installation.ledger.append(closing)
    assert replay(runtime).run().closed_again == 1
    with pytest.raises(PermissionDeniedError):
        await found(runtime, tenant_id, "alice")
    assert runtime.pixeltable_config.keyring.subjects(tenant_id) == ()
    assert levels_of(runtime, tenant_id) == REACHED | DUE
    # What is due is reached by the upkeep of whoever serves, and certified as that closing.
    runtime.gdpr.upkeep()
    assert levels_of(runtime, tenant_id)[Level.FILE] == levels_of(runtime, tenant_id)[Level.WAL] == (True, False)
    key = runtime._installation.proofs.evidence.verifier_key(tenant_id)
    result = verify_certificate(runtime.closing.certificate(tenant_id).encode(), key=key)
    assert (result.of, result.erasure_id, result.counts["control.memories"]) == ("tenant", closing.erasure_id, 2)


async def test_a_keyring_that_is_younger_than_the_databases_follows_the_ledger(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever came and was erased after the backup of the data, and is in the keyring's: no row names them."""
    keyring, closed = runtime.pixeltable_config.keyring, f"{tenant_id}-closed"
    keyring.create_tenant(closed)
    for tenant, user in ((tenant_id, "alice"), (tenant_id, "bob"), (closed, "carol")):
        keyring.resolve_subject(tenant, user, create=True)
    erased_once(runtime, tenant_id, "alice")
    closing = Erasure(new_event_id(), closed, None, ErasureState.FROZEN, {}, datetime.now(UTC), None, whole_tenant=True)
    runtime._installation.ledger.append(closing)
    log = Log(runtime, SYSTEM_LOG)
    done = replay(runtime).run()
    assert (done.erased_again, done.closed_again, done.keys_destroyed) == (0, 0, 2)
    assert (log.only()["action"], log.only()["counts"]["keys_destroyed"]) == ("backup.replay", 2)
    assert keyring.resolve_subject(tenant_id, "alice", create=False) is None
    assert keyring.resolve_subject(tenant_id, "bob", create=False) is not None
    assert keyring.subjects(closed) == ()
    with pytest.raises(KeyDestroyedError):
        keyring.tenant_key(closed)
    # Followed again from its beginning, a ledger writes nothing for people of whom nothing is there.
    runtime._installation.engines.maintenance.transaction(lambda connection: connection.execute(sa.text(OF_BEFORE)))
    calls = record(monkeypatch, (keyring, "destroy_subject"))
    assert replay(runtime).run().keys_destroyed == 0
    assert calls == []


async def test_a_damaged_key_of_whoever_was_erased_leaves_with_its_link(runtime: CloudRuntime, tenant_id: str) -> None:
    keyring = runtime.pixeltable_config.keyring
    assert isinstance(keyring, FileKeyring)
    keyring.resolve_subject(tenant_id, "alice", create=True)
    subject_id = erased_once(runtime, tenant_id, "alice")
    row = keyring.files.index.subject_by_id(tenant_id, subject_id)
    assert row is not None
    keyring.files.slots.write(row.slot, pack_slot(b"\7" * 60))
    keyring.forget(tenant_id, subject_id)
    with pytest.raises(SealBrokenError):
        keyring.subject_key(tenant_id, subject_id)
    assert replay(runtime).run().keys_destroyed == 1
    assert keyring.subject_key(tenant_id, subject_id) is None
    assert keyring.resolve_subject(tenant_id, "alice", create=False) is None


async def test_whoever_is_being_erased_here_keeps_the_key_until_then(runtime: CloudRuntime, tenant_id: str) -> None:
    await stored(runtime, tenant_id, "alice")
    subject_id, keyring = subject_of(runtime, tenant_id, "alice"), runtime.pixeltable_config.keyring

    class CutOff(Exception):  # noqa: N818 - stands for the end of a process, not for an error
        pass

    def cut_off() -> None:
        raise CutOff

    failpoints.arm("ledger.appended", cut_off)
    try:
        with pytest.raises(CutOff):
            await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    finally:
        failpoints.disarm_all()
    assert replay(runtime).run().keys_destroyed == 0
    assert keyring.subject_key(tenant_id, subject_id) is not None
    await asyncio.to_thread(runtime.gdpr.resume)
    assert keyring.subject_key(tenant_id, subject_id) is None
    assert levels_of(runtime, tenant_id)[Level.CRYPTOGRAPHIC] == (True, False)


async def test_the_storage_of_whoever_came_back_is_rewritten_by_the_next_upkeep(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await stored(runtime, tenant_id, "alice")
    erased_once(runtime, tenant_id, "alice")
    assert replay(runtime).run().erased_again == 1
    assert levels_of(runtime, tenant_id) == REACHED | DUE
    runtime.gdpr.upkeep()
    assert levels_of(runtime, tenant_id)[Level.FILE] == levels_of(runtime, tenant_id)[Level.WAL] == (True, False)


async def test_a_replay_that_is_cut_off_goes_on(runtime: CloudRuntime, tenant_id: str) -> None:
    await stored(runtime, tenant_id, "alice", "bob")
    for user in ("alice", "bob"):
        erased_once(runtime, tenant_id, user)

    class CutOff(BaseException):
        pass

    def cut_off() -> None:
        raise CutOff

    failpoints.arm("replay.erased", cut_off)
    try:
        with pytest.raises(CutOff):
            replay(runtime).run()
    finally:
        failpoints.disarm_all()
    assert replay(runtime).run().erased_again == 1
    assert [await found(runtime, tenant_id, user) for user in ("alice", "bob")] == [0, 0]


async def test_an_erasure_is_in_the_ledger_once_it_returns(runtime: CloudRuntime, tenant_id: str) -> None:
    await stored(runtime, tenant_id, "alice")
    subject_id = subject_of(runtime, tenant_id, "alice")
    erasure = await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    assert isinstance(erasure, Erasure)
    records = [record for _, record in runtime._installation.ledger.since(LedgerPlace())]
    assert (subject_id, erasure.erasure_id) in [(record.subject_id, record.reference) for record in records]


async def test_a_ledger_that_is_shorter_than_it_was_is_refused_and_can_be_made_anew(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    await stored(runtime, tenant_id, "alice")
    await runtime.gdpr.delete_user_data("alice", tenant_id, confirmed=True)
    replay(runtime).run()
    ledger = runtime._installation.ledger
    whole = ledger.path.read_bytes()
    before = {record.subject_id for _, record in ledger.since(LedgerPlace()) if record.tenant_id == tenant_id}
    ledger.path.write_bytes(whole[: whole.rstrip(b"\n").rfind(b"\n") + 1])
    with pytest.raises(ConfigurationError, match="does not hold"):
        replay(runtime).run()
    runtime.backups.rebuild_ledger()
    assert before - {None} <= {record.subject_id for _, record in ledger.since(LedgerPlace())} | {None}
    assert replay(runtime).run().records == 0
