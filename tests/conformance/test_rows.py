"""What the data plane must do, whatever it stands on: Pixeltable, or the plain tables of ADR-020."""

from __future__ import annotations

import dataclasses
import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.gdpr.evidence import Evidence
from cloud.gdpr.holds_postgres import PostgresHoldStore
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.errors import TenantIsolationError
from cloud.kernel.ids import new_memory_id
from cloud.keys.envelope import Envelope, encode_envelope
from cloud.memory import CloudMemoryProvider
from cloud.memory.hot import HotTier
from cloud.memory.materializer import Materializer, placement_lock
from cloud.memory.model import LedgerRow, LedgerState, SealedRow
from cloud.memory.ports import Rows
from cloud.memory.vectors import envelope_place
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import DATA_DATABASE, PIXELTABLE_ROLE
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.support.plain_rows import PlainRows, move_subject

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def plain(runtime: CloudRuntime) -> Iterator[PlainRows]:
    engine = ControlEngine(runtime._installation.server.url(PIXELTABLE_ROLE, DATA_DATABASE))
    rows = PlainRows(engine, runtime.pixeltable_config.vectorizer)
    yield rows
    for name in rows._metadata.tables:
        engine.transaction(lambda connection, name=name: connection.execute(sa.text(f"DROP TABLE {name}")))
    engine.close()


class Maker:
    """Makes sealed rows of real people."""

    def __init__(self, runtime: CloudRuntime, tenant_id: str) -> None:
        self._config = runtime.pixeltable_config
        self.tenant_id = tenant_id

    def person(self) -> str:
        key = self._config.keyring.resolve_subject(self.tenant_id, f"user-{next(_numbers)}", create=True)
        assert key is not None
        return key.subject_id

    def row(self, subject_id: str, content: str = "Prefers tabs", **changed: Any) -> SealedRow:
        memory_id = changed.pop("memory_id", None) or new_memory_id()
        key = self._config.keyring.subject_key(self.tenant_id, subject_id)
        assert key is not None
        envelope = self._config.sealer.seal(
            key.key, encode_envelope(_envelope(content)), place=envelope_place(self.tenant_id, subject_id, memory_id)
        )
        facts: dict[str, Any] = {
            "memory_id": memory_id,
            "tenant_id": self.tenant_id,
            "subject_id": subject_id,
            "revision": 1,
            "generation": 1,
            "memory_type": "fact",
            "confidence": 0.75,
            "created_at": datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC),
            "expires_at": None,
            "envelope": envelope,
        }
        return SealedRow(**facts | changed)

    def vector(self, row: SealedRow) -> Any:
        key = self._config.keyring.subject_key(row.tenant_id, row.subject_id)
        return None if key is None else self._config.vectorizer.open_vector(key.key, row)


def _envelope(content: str) -> Envelope:
    memory = sample_memory("alice")
    known = {field.name for field in dataclasses.fields(Envelope)}
    facts = {name: value for name, value in memory.model_dump().items() if name in known}
    return Envelope(**facts | {"content": content})


@pytest.fixture
def make(runtime: CloudRuntime, tenant_id: str) -> Maker:
    return Maker(runtime, tenant_id)


class RowsContract:
    """The contract; a subclass names the store."""

    @pytest.fixture
    def placement(self) -> str:
        return f"contract_{next(_numbers)}"

    def test_what_was_written_is_read_as_it_was_with_its_vector(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        expires = datetime(2031, 1, 1, tzinfo=UTC)
        written = [make.row(person), make.row(person, expires_at=expires, generation=2, memory_type="decision")]
        rows.write(placement, written, [])
        found = rows.newer(mine, placement, person, since=0)
        assert {dataclasses.replace(row, embedding=None).memory_id for row in found} == {r.memory_id for r in written}
        by_id = {row.memory_id: row for row in found}
        for row in written:
            there = by_id[row.memory_id]
            assert dataclasses.replace(there, embedding=None) == row
            vector = make.vector(there)
            assert vector is not None
            assert vector.any()

    def test_only_newer_generations_are_read(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        rows.write(placement, [make.row(person, generation=g) for g in (1, 2, 3)], [])
        assert sorted(row.generation for row in rows.newer(mine, placement, person, since=1)) == [2, 3]
        assert rows.newer(mine, placement, person, since=3) == []

    def test_what_is_of_no_interest_is_left_out(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        kept, *others = written = [make.row(person, generation=g) for g in (1, 2, 3)]
        rows.write(placement, written, [])
        (found,) = rows.newer(mine, placement, person, since=0, without=[row.memory_id for row in others])
        assert found.memory_id == kept.memory_id
        assert rows.newer(mine, placement, person, since=0, without=[row.memory_id for row in written]) == []

    def test_of_known_memories_the_revisions_that_the_ledger_names_are_read(
        self, rows: Rows, make: Maker, placement: str
    ) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        expires = datetime(2031, 1, 1, tzinfo=UTC)
        same, older, _ = written = [make.row(person, generation=2, expires_at=expires) for _ in range(3)]
        rows.write(placement, written, [])
        known = {
            row.memory_id: LedgerRow(row.memory_id, revision, LedgerState.ACTIVE, 2, row.created_at, row.expires_at)
            for row, revision in ((same, 1), (older, 2))
        }
        (whole,) = (row for row in rows.newer(mine, placement, person, since=1) if row.memory_id == same.memory_id)
        assert rows.newer(mine, placement, person, since=1, known=known) == [whole]
        assert rows.newer(mine, placement, person, since=1, known={}) == []

    def test_an_update_replaces_row_and_vector(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        first = make.row(person, "Prefers tabs over spaces")
        rows.write(placement, [first], [])
        (before,) = rows.newer(mine, placement, person, since=0)
        second = make.row(person, "Sails on weekends", memory_id=first.memory_id, revision=2, generation=2)
        rows.write(placement, [], [second])
        (after,) = rows.newer(mine, placement, person, since=0)
        assert (after.revision, after.envelope) == (2, second.envelope)
        assert make.vector(after).tolist() != make.vector(before).tolist()
        assert rows.count_subject(mine, placement, person) == 1

    def test_revisions_tell_what_is_there(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        row = make.row(person, revision=3)
        assert rows.revisions((mine,), placement, [row.memory_id]) == {}
        rows.write(placement, [row], [])
        assert rows.revisions((mine,), placement, [row.memory_id, new_memory_id()]) == {row.memory_id: 3}
        assert rows.revisions((mine,), placement, []) == {}

    def test_another_tenant_with_the_same_subject_reaches_nothing(
        self, rows: Rows, make: Maker, placement: str
    ) -> None:
        person, foreign = make.person(), system_predicate(f"{make.tenant_id}x", "test")
        row = make.row(person)
        rows.write(placement, [row], [])
        assert rows.newer(foreign, placement, person, since=0) == []
        assert rows.revisions((foreign,), placement, [row.memory_id]) == {}
        assert rows.count_subject(foreign, placement, person) == 0
        assert rows.remove_subject(foreign, placement, person) == 0
        assert rows.count_subject(system_predicate(make.tenant_id, "test"), placement, person) == 1

    def test_without_a_predicate_there_is_no_query(self, rows: Rows, make: Maker, placement: str) -> None:
        rows.write(placement, [make.row(make.person())], [])
        with pytest.raises(TenantIsolationError):
            rows.revisions((), placement, [new_memory_id()])

    def test_a_removed_person_is_gone_and_nobody_else(self, rows: Rows, make: Maker, placement: str) -> None:
        one, other, mine = make.person(), make.person(), system_predicate(make.tenant_id, "test")
        rows.write(placement, [make.row(one), make.row(one), make.row(other)], [])
        assert rows.remove_subject(mine, placement, one) == 2
        assert rows.newer(mine, placement, one, since=0) == []
        assert rows.remove_subject(mine, placement, one) == 0
        assert rows.count_subject(mine, placement, other) == 1

    def test_a_row_whose_key_is_gone_is_kept_without_a_vector_and_spoils_no_other(
        self, rows: Rows, make: Maker, placement: str
    ) -> None:
        mine, stranger, person = system_predicate(make.tenant_id, "test"), str(uuid.uuid4()), make.person()
        orphan = dataclasses.replace(make.row(person), memory_id=new_memory_id(), subject_id=stranger)
        rows.write(placement, [orphan, make.row(person)], [])
        assert [row.embedding for row in rows.newer(mine, placement, stranger, since=0)] == [None]
        (good,) = rows.newer(mine, placement, person, since=0)
        assert make.vector(good) is not None

    def test_an_envelope_of_any_length_is_kept(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        row = make.row(person, "long " * 50_000)
        rows.write(placement, [row], [])
        (found,) = rows.newer(mine, placement, person, since=0)
        assert found.envelope == row.envelope

    def test_where_nothing_was_written_nothing_is_found(self, rows: Rows, make: Maker, placement: str) -> None:
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        assert rows.newer(mine, placement, person, since=0) == []
        assert rows.count_subject(mine, placement, person) == rows.remove_subject(mine, placement, person) == 0


class TestPixeltableRows(RowsContract):
    @pytest.fixture
    def rows(self, runtime: CloudRuntime) -> Rows:
        return runtime.pixeltable_config.rows


class TestPlainRows(RowsContract):
    @pytest.fixture
    def rows(self, plain: PlainRows) -> Rows:
        return plain


class TestTheWayOut:
    """From Pixeltable to plain tables, with the provider, the materializer and erasure as they are."""

    async def test_people_move_with_all_they_have_and_nothing_changes_for_them(
        self, runtime: CloudRuntime, plain: PlainRows, tenant_id: str
    ) -> None:
        config, engines = runtime.pixeltable_config, runtime._installation.engines
        contents = [f"{number}: tabs on {day}" for number, day in enumerate(("Monday", "Friday", "Sunday"))]
        with request_context(tenant_id=tenant_id, roles={"service"}):
            for user in ("alice", "bob"):
                memories = [sample_memory(user).model_copy(update={"content": text}) for text in contents]
                await runtime.memory.store_many(memories, {})
            await runtime.drain()
            asked = ("tabs on Friday", "alice")
            before = [(m.id, m.content) for m in await runtime.memory.retrieve(*asked)]
        assert len(before) == 3

        (tenant,) = [found for found in runtime.tenants.list() if found.tenant_id == tenant_id]
        mine = system_predicate(tenant_id, "move")
        people = config.keyring.subjects(tenant_id)
        with placement_lock(engines.worker, tenant.placement, wait_s=10) as held:
            assert held
            moved = [move_subject(config.rows, plain, mine, tenant.placement, person) for person in people]
            # Done again, as after a crash: nothing is doubled, nothing is lost.
            assert [move_subject(config.rows, plain, mine, tenant.placement, person) for person in people] == [0, 0]
        assert moved == [3, 3]
        assert [config.rows.count_subject(mine, tenant.placement, person) for person in people] == [0, 0]

        out = dataclasses.replace(config, rows=plain, hot=HotTier(capacity_bytes=1 << 20))
        memory = CloudMemoryProvider(out, runtime.tenant_provider, runtime.audit, runtime.usage)
        with request_context(tenant_id=tenant_id, roles={"service", "tenant_admin"}):
            assert [(m.id, m.content) for m in await memory.retrieve(*asked)] == before
            erased = await CloudGDPRService(
                PostgresErasureStore(engines.maintenance),
                PostgresHoldStore(engines.maintenance),
                engines.maintenance,
                out,
                runtime.gdpr._admissions,
                runtime.audit,
                evidence=Evidence(ledger=runtime._installation.ledger),
            ).delete_user_data("bob", tenant_id, confirmed=True, reason="request 17")
        memory.close()
        assert erased is not None
        left = [plain.count_subject(mine, tenant.placement, person) for person in people]
        assert sorted(left) == [0, 3]

    async def test_the_materializer_moves_into_plain_tables_exactly_once(
        self, runtime: CloudRuntime, plain: PlainRows, make: Maker
    ) -> None:
        """What a killed batch had written already is found by id and revision, and not written again."""
        loop = Materializer(
            runtime._installation.engines.worker, plain, lambda tenant_id: system_predicate(tenant_id, "test")
        )
        person, mine = make.person(), system_predicate(make.tenant_id, "test")
        row = make.row(person)
        plain.write("contract_twice", [row], [])
        (before,) = plain.newer(mine, "contract_twice", person, since=0)
        plain.write("contract_twice", [row], [])
        assert plain.newer(mine, "contract_twice", person, since=0) == [before]
        assert loop.batch("contract_twice").total == 0
