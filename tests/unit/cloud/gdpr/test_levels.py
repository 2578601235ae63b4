"""Laws of the levels: what is measured is claimed, what is due is reached later, and each is certified anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from cloud.gdpr.evidence import Evidence
from cloud.gdpr.holds_postgres import PostgresHoldStore
from cloud.gdpr.levels import AT_ONCE, Level, LevelState
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.kernel.scope import TenantPredicate
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker


@dataclass
class Parts:
    """Parts of an installation that show how deep an erasure went, as this test says."""

    at_once_: bool = True
    due_at: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=1))
    busy: bool = False
    backups_until: datetime | None = None
    unwritable: bool = False
    unsigned: bool = False
    rewritten: list[str] = field(default_factory=list)
    ledger: list[str | None] = field(default_factory=list)
    certified: list[tuple[str | None, dict[Level, bool]]] = field(default_factory=list)
    told: dict[str, Mapping[Level, LevelState]] = field(default_factory=dict)
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def at_once(self) -> bool:
        return self.at_once_

    def due(self) -> datetime:
        return self.due_at

    def rewrite(self, predicate: TenantPredicate, placements: Sequence[str]) -> Sequence[LevelState]:
        if self.busy:
            raise ProviderUnavailableError("storage", reason="is busy")
        while self.meanwhile:
            self.meanwhile.pop()()
        self.rewritten += placements
        now = datetime.now(UTC)
        return [LevelState(level, now, evidence={"tables": len(placements)}) for level in (Level.FILE, Level.WAL)]

    def level(self, before: datetime) -> LevelState:
        now = datetime.now(UTC)
        if self.backups_until is not None and self.backups_until > now:
            return LevelState(Level.BACKUPS, None, self.backups_until)
        return LevelState(Level.BACKUPS, now)

    def append(self, erasure: Erasure) -> None:
        if self.unwritable:
            raise ConfigurationError("the ledger cannot be written")
        self.ledger.append(erasure.subject_id)

    def commit(self, tenant_id: str, subject_id: str | None, user_id: str) -> bytes:
        return b"committed"

    def hand_out(self, tenant_id: str, certificate: str) -> str:
        return certificate

    def is_current(self, erasure: Erasure) -> bool:
        return erasure.certificate is not None and self.told[erasure.certificate] == erasure.levels

    def certify(self, erasure: Erasure, user_id: str | None) -> str:
        assert erasure.is_done
        assert erasure.commitment_sealed == b"committed"
        if self.unsigned:
            raise ProviderUnavailableError("audit log", reason="is behind")
        reached = {level: state.reached_at is not None for level, state in erasure.levels.items()}
        self.certified.append((user_id, reached))
        certificate = f"certificate {len(self.certified)}"
        self.told[certificate] = erasure.levels
        return certificate


Made = Callable[[Parts], CloudGDPRService]


@pytest.fixture
def made(look: Looker) -> Made:
    """A GDPR service of the installation with these parts."""

    def make(parts: Parts) -> CloudGDPRService:
        runtime, maintenance = look.runtime, look.runtime._installation.engines.maintenance
        return CloudGDPRService(
            PostgresErasureStore(maintenance),
            PostgresHoldStore(maintenance),
            maintenance,
            runtime.pixeltable_config,
            runtime.gdpr._admissions,
            runtime.audit,
            evidence=Evidence(rewriter=parts, backups=parts, ledger=parts, certifier=parts),
            on_key_destroyed=runtime.keyring.note,
        )

    return make


async def erased(gdpr: CloudGDPRService, look: Looker, user_id: str = "alice") -> Erasure:
    done = await gdpr.delete_user_data(user_id, look.tenant_id, confirmed=True)
    assert isinstance(done, Erasure)
    assert done.state is ErasureState.CERTIFIED
    return done


async def test_at_once_every_level_is_reached_before_the_call_returns_and_certified_once(
    look: Looker, made: Made
) -> None:
    await look.store(sample_memory("alice"))
    subject, parts = look.subject("alice"), Parts()
    done = await erased(made(parts), look)
    assert {level for level, state in done.levels.items() if state.reached_at} == set(Level)
    assert parts.ledger == [subject]
    assert len(parts.rewritten) >= 1
    assert parts.certified == [("alice", dict.fromkeys(Level, True))]
    assert done.certificate == "certificate 1"
    times = [done.levels[level].reached_at for level in AT_ONCE]
    assert times == sorted(times, key=str)


async def test_the_upkeep_rewrites_once_for_all_who_are_due(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"), sample_memory("bob"))
    parts = Parts(at_once_=False)
    gdpr = made(parts)
    done = [await erased(gdpr, look, user) for user in ("alice", "bob")]
    clock = look.runtime.pixeltable_config.clock
    gdpr._erasing._config = replace(gdpr._erasing._config, clock=lambda: clock() + timedelta(hours=2))
    gdpr.upkeep()
    # Other tests of this installation may have left some of other tables.
    assert len(parts.rewritten) == len(set(parts.rewritten))
    for one in done:
        told = (await gdpr.show(one.erasure_id, look.tenant_id)).erasure
        assert {level for level, state in told.levels.items() if state.reached_at} == set(Level)


async def test_what_is_not_rewritten_at_once_is_due_is_done_by_the_upkeep_and_certified_anew(
    look: Looker, made: Made
) -> None:
    await look.store(sample_memory("alice"))
    parts = Parts(at_once_=False, backups_until=datetime.now(UTC) + timedelta(hours=1))
    gdpr = made(parts)
    done = await erased(gdpr, look)
    assert {level for level, state in done.levels.items() if state.reached_at} == set(AT_ONCE)
    assert done.levels[Level.FILE].due_at == parts.due_at
    gdpr.upkeep()
    assert parts.rewritten == []
    assert len(parts.certified) == 1, "what is not due is not touched"

    clock = look.runtime.pixeltable_config.clock
    gdpr._erasing._config = replace(gdpr._erasing._config, clock=lambda: clock() + timedelta(hours=2))
    parts.backups_until = None
    gdpr.upkeep()
    told = (await gdpr.show(done.erasure_id, look.tenant_id)).erasure
    assert {level for level, state in told.levels.items() if state.reached_at} == set(Level)
    assert (told.state, told.certificate) == (ErasureState.CERTIFIED, "certificate 2")
    assert parts.certified[1] == (None, dict.fromkeys(Level, True))
    events = [e for e in look.events() if e["action"] == "gdpr.level"]
    assert [(e["outcome"], e["actor"]["kind"]) for e in events] == [("allowed", "system")]
    gdpr.upkeep()
    assert len(parts.certified) == 2


async def test_a_level_whose_certificate_fails_is_certified_by_the_next_upkeep(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"))
    parts = Parts(at_once_=False)
    gdpr = made(parts)
    done = await erased(gdpr, look)
    clock = look.runtime.pixeltable_config.clock
    gdpr._erasing._config = replace(gdpr._erasing._config, clock=lambda: clock() + timedelta(hours=2))
    parts.unsigned = True
    gdpr.upkeep()
    told = (await gdpr.show(done.erasure_id, look.tenant_id)).erasure
    assert told.levels[Level.WAL].reached_at is not None
    assert told.certificate == "certificate 1"

    rewritten = list(parts.rewritten)
    parts.unsigned = False
    for _ in range(2):
        gdpr.upkeep()
    told = (await gdpr.show(done.erasure_id, look.tenant_id)).erasure
    assert (told.certificate, len(parts.certified)) == ("certificate 2", 2)
    assert {level for level, state in parts.told["certificate 2"].items() if state.reached_at} == set(Level)
    assert parts.rewritten == rewritten, "what was reached is not done again"
    assert [event["outcome"] for event in look.events() if event["action"] == "gdpr.level"] == ["allowed"]


async def test_a_level_that_another_process_reached_stays_due_until_it_is_certified(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"))
    parts = Parts(at_once_=False)
    gdpr = made(parts)
    done = await erased(gdpr, look)
    now = datetime.now(UTC)
    # By one that goes on with the same erasure, and is killed before it certifies.
    store = PostgresErasureStore(look.runtime._installation.engines.maintenance)
    store.mark(done, ErasureState.CERTIFIED, levels=[LevelState(level, now) for level in (Level.FILE, Level.WAL)])
    clock = look.runtime.pixeltable_config.clock
    gdpr._erasing._config = replace(gdpr._erasing._config, clock=lambda: clock() + timedelta(hours=2))
    gdpr.upkeep()
    told = (await gdpr.show(done.erasure_id, look.tenant_id)).erasure
    assert told.certificate == "certificate 2"
    assert {level for level, state in parts.told["certificate 2"].items() if state.reached_at} == set(Level)


async def test_two_workers_that_find_the_same_level_due_certify_it_once(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"))
    parts = Parts(at_once_=False)
    one, other = made(parts), made(parts)
    done = await erased(one, look)
    clock = look.runtime.pixeltable_config.clock
    for gdpr in (one, other):
        gdpr._erasing._config = replace(gdpr._erasing._config, clock=lambda: clock() + timedelta(hours=2))
    reached: list[object] = []

    def overtaken() -> None:
        other.upkeep()
        reached.extend(row.levels for row in look.erasures())

    parts.meanwhile.append(overtaken)
    one.upkeep()
    (now,) = look.erasures()
    assert reached == [now.levels]
    assert (now.certificate, len(parts.certified)) == ("certificate 2", 2)
    assert {level for level, state in parts.told["certificate 2"].items() if state.reached_at} == set(Level)
    assert done.certificate == "certificate 1"


async def test_a_storage_that_is_busy_keeps_no_erasure_waiting(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"))
    parts = Parts(busy=True)
    done = await erased(made(parts), look)
    assert (done.levels[Level.WAL].reached_at, done.levels[Level.WAL].due_at) == (None, parts.due_at)


async def test_without_its_entry_in_the_ledger_nothing_is_destroyed(look: Looker, made: Made) -> None:
    await look.store(sample_memory("alice"))
    subject, parts = str(look.subject("alice")), Parts(unwritable=True)
    gdpr = made(parts)
    with pytest.raises(ConfigurationError):
        await gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    assert look.remains(subject)["key"] == 1
    (row,) = look.erasures()
    assert (row.state, row.failed_step) == ("failed", "key_destroyed")
    parts.unwritable = False
    done = await gdpr.resume_request(str(row.erasure_id), look.tenant_id)
    assert done.state is ErasureState.CERTIFIED
    assert parts.certified[0][0] == "alice", "who confirmed it need not name the person again"
    assert look.remains(subject) == {}


async def test_what_is_verified_and_was_not_certified_is_certified_by_whoever_looks(look: Looker, made: Made) -> None:
    def fail() -> None:
        raise ProviderUnavailableError("a part")

    await look.store(sample_memory("alice"))
    gdpr = made(Parts())
    failpoints.arm("erase.verified", fail)
    with pytest.raises(ProviderUnavailableError):
        await gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
    failpoints.disarm_all()
    assert [row.state for row in look.erasures()] == ["verified"]
    gdpr.resume()
    assert [row.state for row in look.erasures()] == ["certified"]
    events = [e["outcome"] for e in look.events() if e["action"] == "gdpr.erase"]
    assert events == ["allowed"]


async def test_somebody_unknown_has_a_certificate_too(look: Looker, made: Made) -> None:
    parts = Parts()
    done = await erased(made(parts), look, "nobody")
    assert parts.certified == [("nobody", dict.fromkeys(AT_ONCE, True))]
    assert (done.subject_id, done.certificate) == (None, "certificate 1")
    assert (parts.ledger, parts.rewritten) == ([], [])
