"""Laws of changing the model: every row has a vector of the model that is read, at every moment, and back again."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, OperationInProgressError
from cloud.memory.gate import Comparison, Score
from cloud.memory.placements import Placement, PlacementState
from cloud.tenancy.placements import own_placement
from cloud.tenancy.system import system_predicate
from src.memory.lifecycle import StoredMemoryId
from src.testing.samples import sample_memory

_numbers = itertools.count(1)
_WORDS = (
    "harbour gate opens early forklift repair cold store keys captain tide invoice crane fog rope ledger whistle "
    "lantern cargo manifest pilot berth anchor signal customs ferry quay winch storm compass deck engine"
).split()
_ANY_LOSS = 1.0


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


@pytest.fixture
async def place(runtime: CloudRuntime) -> Place:
    """A tenant in a table of its own, with 60 memories of two people in it."""
    tenant_id = f"embedded-{next(_numbers)}"
    runtime.tenants.create(tenant_id, plan="team", placement="own")
    made = Place(runtime, tenant_id)
    await made.store("alice", 50)
    await made.store("bob", 10)
    await runtime.drain()
    return made


class Place:
    """A tenant's own table, looked at around the product."""

    def __init__(self, runtime: CloudRuntime, tenant_id: str) -> None:
        self.runtime = runtime
        self.tenant_id = tenant_id
        self.name = own_placement(tenant_id)
        self._chance = random.Random(tenant_id)

    async def store(self, user_id: str, count: int) -> list[str]:
        """Memories of random words, each of a session of three."""
        texts = [" ".join(self._chance.sample(_WORDS, 8)) for _ in range(count)]
        memories = [
            sample_memory(user_id, content=text, metadata={"session": number // 3}) for number, text in enumerate(texts)
        ]
        with request_context(tenant_id=self.tenant_id, roles={"service"}):
            return await self.runtime.memory.store_many(memories, {})

    async def retrieve(self, user_id: str, query: str, limit: int = 5) -> list[str]:
        with request_context(tenant_id=self.tenant_id, roles={"service"}):
            return [str(memory.id) for memory in await self.runtime.memory.retrieve(query, user_id, limit)]

    def placement(self) -> Placement:
        return self.runtime._installation.placements().placement(self.name)

    def vectors(self, model: str) -> dict[str, int]:
        """How many rows hold a vector of this model in each column; anything else that is there fails."""
        config, predicate = self.runtime.pixeltable_config, system_predicate(self.tenant_id, "test")
        opens = config.models.of(model)
        counts = {}
        for column in ("embedding", "embedding_2"):
            counts[column] = 0
            for subject_id in self.runtime._installation.placements().people(self.tenant_id):
                person = config.keyring.subject_key(self.tenant_id, subject_id)
                assert person is not None
                for row in config.rows.newer(predicate, self.name, subject_id, since=0, column=column):
                    counts[column] += opens.open_vector(person.key, row) is not None
        return counts

    def rows(self) -> int:
        return self.runtime.pixeltable_config.rows.count_tenant(system_predicate(self.tenant_id, "test"), self.name)

    def snapshot_model(self, user_id: str) -> str | None:
        config = self.runtime.pixeltable_config
        person = config.keyring.resolve_subject(self.tenant_id, user_id, create=False)
        assert person is not None
        held = config.hot.get(self.tenant_id, person.subject_id)
        return held.model if held else None

    def system_events(self, action: str) -> list[tuple[Any, Any]]:
        events = self.runtime.audit.events("_system")
        return [
            (event["outcome"], event["reason"])
            for event in events
            if event["action"] == action and event["details"].get("placement") == self.name
        ]


async def test_a_model_is_changed_and_changed_back_and_the_earlier_one_is_dropped(
    runtime: CloudRuntime, place: Place
) -> None:
    assert place.vectors("wordllama") == {"embedding": 60, "embedding_2": 0}
    await place.retrieve("alice", "harbour gate")
    assert place.snapshot_model("alice") == "wordllama"

    told: list[tuple[str, int, int]] = []
    ended = runtime.embeddings.migrate(
        place.name, "hashing", tolerance=_ANY_LOSS, progress=lambda *what: told.append(what)
    )
    assert told == [("filling", 1, 1), ("judging", 1, 1)]
    assert (ended.outcome, ended.tenants) == ("switched", (place.tenant_id,))
    now = place.placement()
    assert (now.model, now.column, now.other_model, now.state) == (
        "hashing",
        "embedding_2",
        "wordllama",
        PlacementState.SWITCHED,
    )
    assert place.vectors("wordllama") == {"embedding": 60, "embedding_2": 0}
    assert place.vectors("hashing") == {"embedding": 0, "embedding_2": 60}
    await place.retrieve("alice", "harbour gate")
    assert place.snapshot_model("alice") == "hashing", "another process would never hear of the switch"

    await place.store("alice", 5)
    await runtime.drain()
    assert place.vectors("wordllama")["embedding"] == place.vectors("hashing")["embedding_2"] == 65
    assert runtime.embeddings.rollback(place.name).model == "wordllama"
    await place.retrieve("alice", "harbour gate")
    assert place.snapshot_model("alice") == "wordllama"
    assert runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS).outcome == "switched"

    finished = runtime.embeddings.finish(place.name, progress=lambda *what: told.append(what))
    assert told[-1] == ("emptying", 1, 1)
    assert (finished.model, finished.other_model, finished.state) == ("hashing", None, PlacementState.SERVING)
    assert place.vectors("wordllama") == {"embedding": 0, "embedding_2": 0}
    await place.store("bob", 3)
    await runtime.drain()
    assert place.vectors("hashing") == {"embedding": 0, "embedding_2": 68}
    # And on to the next one, in the column that is free by now.
    assert runtime.embeddings.migrate(place.name, "wordllama-128", tolerance=_ANY_LOSS).outcome == "switched"
    assert place.vectors("wordllama-128") == {"embedding": 68, "embedding_2": 0}
    assert place.system_events("embeddings.migrate") == [("allowed", None)] * 3
    assert place.system_events("embeddings.migrate.step") == [
        ("allowed", "intent"),
        ("allowed", "resumed"),
        ("allowed", "intent"),
    ]
    assert place.system_events("embeddings.rollback") == [("allowed", None)]
    assert place.system_events("embeddings.finish") == [("allowed", None)]


async def test_duplicates_are_compared_in_the_model_that_is_read(runtime: CloudRuntime, place: Place) -> None:
    assert runtime.embeddings.migrate(place.name, "wordllama-128", tolerance=_ANY_LOSS).outcome == "switched"
    (first,) = await place.store("carol", 1)
    with request_context(tenant_id=place.tenant_id, roles={"service"}):
        held = await runtime.memory.get_by_id(first)
        assert held
        again = await runtime.memory.store(sample_memory("carol", content=held.content), {"report_duplicates": True})
    assert isinstance(again, StoredMemoryId)
    assert [found.memory_id for found in again.duplicates or ()] == [first]


async def test_a_model_that_finds_less_of_the_tenants_own_memories_is_refused_and_its_vectors_are_dropped(
    runtime: CloudRuntime, place: Place
) -> None:
    before = await place.retrieve("alice", "lantern fog", 50)
    ended = runtime.embeddings.migrate(place.name, "hashing", tolerance=0.0)
    assert ended.outcome == "refused"
    assert ended.comparison is not None
    assert ended.comparison.questions >= 40
    now = place.placement()
    assert (now.model, now.other_model, now.state) == ("wordllama", None, PlacementState.SERVING)
    assert now.gate is not None
    assert (now.gate["passed"], now.gate["to"]) == (False, "hashing")
    assert place.vectors("hashing") == {"embedding": 0, "embedding_2": 0}
    assert place.vectors("wordllama") == {"embedding": 60, "embedding_2": 0}
    assert await place.retrieve("alice", "lantern fog", 50) == before
    assert place.system_events("embeddings.migrate") == [("denied", "recall_gate")]


async def test_known_answers_can_refuse_a_model_that_the_tenants_own_memories_let_pass(
    runtime: CloudRuntime, place: Place
) -> None:
    def worse(old: str, new: str) -> Comparison:
        assert (old, new) == ("wordllama", "wordllama-128")
        return Comparison({"labelled": Score(10, 0.9, 0.5)}, {"labelled": Score(10, 0.1, 0.5)})

    ended = runtime.embeddings.migrate(place.name, "wordllama-128", tolerance=0.5, labelled=worse)
    assert ended.outcome == "refused"
    assert ended.comparison is not None
    assert ended.comparison.losses()["labelled"] == pytest.approx(0.8)


async def test_the_gate_is_told_to_the_tenant_with_numbers_and_without_content(
    runtime: CloudRuntime, place: Place
) -> None:
    runtime.embeddings.migrate(place.name, "wordllama-128", tolerance=_ANY_LOSS)
    (event,) = [e for e in runtime.audit.events(place.tenant_id) if e["action"] == "embeddings.gate"]
    actor, asked = event["actor"], event["counts"]
    assert isinstance(actor, dict)
    assert isinstance(asked, dict)
    assert (actor["kind"], actor["id"]) == ("system", "embeddings")
    assert asked["people"] == 2
    assert asked["questions"] > 20
    details = event["details"]
    assert isinstance(details, dict)
    assert details.keys() == {"placement", "migration"}
    assert asked.keys() == {"people", "questions"}


async def test_while_writes_flow_no_row_is_ever_without_a_vector_of_the_model_that_is_read(
    runtime: CloudRuntime, place: Place
) -> None:
    def change() -> None:
        for _ in range(2):
            runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
            runtime.embeddings.rollback(place.name)
            runtime.embeddings.finish(place.name)

    def lacking() -> int:
        now = place.placement()
        rows, found = place.rows(), place.vectors(now.model)[now.column]
        # Rows that came between the two looks; those of a switch in between are looked at again.
        return 0 if place.placement().model != now.model else max(0, rows - found)

    ids: set[str] = set(await place.retrieve("alice", "fog", 1000))
    changing = asyncio.create_task(asyncio.to_thread(change))
    while not changing.done():
        ids |= set(await place.store("alice", 3))
        gone = min(ids)
        with request_context(tenant_id=place.tenant_id, roles={"service"}):
            assert await runtime.memory.delete(gone)
        ids.discard(gone)
        assert await asyncio.to_thread(lacking) == 0
        assert set(await place.retrieve("alice", "fog", 1000)) == ids
    await changing
    await runtime.drain()
    assert place.vectors("wordllama") == {"embedding": place.rows(), "embedding_2": 0}


async def test_a_snapshot_answers_with_one_model_whatever_is_read_elsewhere(
    runtime: CloudRuntime, place: Place
) -> None:
    """Killed between the switch and making snapshots stale: those held go on, each consistent in itself."""
    await place.retrieve("alice", "rope")
    store = runtime._installation.placements()
    changed = store.change(place.placement(), PlacementState.FILLING, other_model="hashing")
    runtime._installation.columns.name(place.name, changed.other_column, "hashing")
    store.change(changed, PlacementState.SWITCHING, swap=True)
    assert place.vectors("hashing")["embedding_2"] == 0, "what the table lacks is made when it is loaded"
    first = await place.retrieve("alice", "rope", 10)
    assert place.snapshot_model("alice") == "wordllama"
    await place.store("alice", 1)
    assert place.snapshot_model("alice") == "wordllama"
    runtime.pixeltable_config.hot.clear()
    again = await place.retrieve("alice", "rope", 10)
    assert place.snapshot_model("alice") == "hashing"
    assert len(first) == len(again) == 10


async def test_what_cannot_be_done_is_refused_and_recorded(runtime: CloudRuntime, place: Place) -> None:
    with pytest.raises(ConfigurationError, match="does not know"):
        runtime.embeddings.migrate(place.name, "no-such-model")
    with pytest.raises(ConfigurationError, match="no placement"):
        runtime.embeddings.migrate("pool_99", "hashing")
    with pytest.raises(ConfigurationError, match="no earlier model"):
        runtime.embeddings.rollback(place.name)
    assert runtime.embeddings.migrate(place.name, "wordllama").outcome == "unchanged"
    runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    with pytest.raises(ConfigurationError, match="finish, or rollback"):
        runtime.embeddings.migrate(place.name, "wordllama-128")
    assert place.system_events("embeddings.migrate") == [
        ("failed", "configuration"),
        ("allowed", "unchanged"),
        ("allowed", None),
        ("failed", "configuration"),
    ]


class _Killed(BaseException):
    """A process that ends here, as far as the code after it is concerned."""


def _die() -> None:
    raise _Killed


@pytest.mark.parametrize("at", ["embeddings.switched", "embeddings.made_stale"])
async def test_a_rollback_that_was_cut_off_is_finished_by_the_same_call_and_is_in_the_log_from_its_first_change(
    at: str, runtime: CloudRuntime, place: Place
) -> None:
    runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    failpoints.arm(at, _die)
    with pytest.raises(_Killed):
        runtime.embeddings.rollback(place.name)
    failpoints.disarm_all()
    assert (place.placement().model, place.placement().state) == ("wordllama", PlacementState.SWITCHING)
    assert place.system_events("embeddings.rollback.step") == [("allowed", "intent")]

    now = runtime.embeddings.rollback(place.name)
    assert (now.model, now.other_model, now.state) == ("wordllama", "hashing", PlacementState.SWITCHED)
    assert place.system_events("embeddings.rollback.step") == [("allowed", "intent"), ("allowed", "resumed")]
    assert place.system_events("embeddings.rollback") == [("allowed", None)]


async def test_a_rollback_is_not_undone_by_repeating_it_and_the_way_forward_is_another_migration(
    runtime: CloudRuntime, place: Place
) -> None:
    for _ in range(2):
        runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
        assert runtime.embeddings.rollback(place.name).model == "wordllama"
        with pytest.raises(ConfigurationError, match="rolled back already and is read with wordllama"):
            runtime.embeddings.rollback(place.name)
        assert place.placement().model == "wordllama"
    with pytest.raises(ConfigurationError, match="first embeddings finish$"):
        runtime.embeddings.migrate(place.name, "wordllama-128")
    assert place.system_events("embeddings.rollback") == [("allowed", None), ("failed", "configuration")] * 2


async def test_a_switch_that_was_cut_off_can_be_gone_back_from(runtime: CloudRuntime, place: Place) -> None:
    failpoints.arm("embeddings.switched", _die)
    with pytest.raises(_Killed):
        runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    failpoints.disarm_all()
    assert place.placement().state is PlacementState.SWITCHING
    now = runtime.embeddings.rollback(place.name)
    assert (now.model, now.state) == ("wordllama", PlacementState.SWITCHED)
    # And a rollback that was cut off does not keep anybody from going forward.
    runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    failpoints.arm("embeddings.switched", _die)
    with pytest.raises(_Killed):
        runtime.embeddings.rollback(place.name)
    failpoints.disarm_all()
    assert runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS).outcome == "switched"


async def test_dropping_vectors_that_was_cut_off_is_finished_by_the_same_call_and_is_in_the_log_from_its_first_change(
    runtime: CloudRuntime, place: Place
) -> None:
    runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    failpoints.arm("embeddings.emptied", _die)
    with pytest.raises(_Killed):
        runtime.embeddings.finish(place.name)
    failpoints.disarm_all()
    assert place.system_events("embeddings.finish.step") == [("allowed", "intent")]
    assert runtime.embeddings.finish(place.name).state is PlacementState.SERVING
    assert place.vectors("wordllama") == {"embedding": 0, "embedding_2": 0}
    assert place.system_events("embeddings.finish.step") == [("allowed", "intent"), ("allowed", "resumed")]
    assert place.system_events("embeddings.finish") == [("allowed", None)]


async def test_of_two_migrations_at_once_one_is_refused(runtime: CloudRuntime, place: Place) -> None:
    reached, go = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go.wait(60)

    failpoints.arm("embeddings.backfilled", wait)
    migrating = asyncio.create_task(
        asyncio.to_thread(runtime.embeddings.migrate, place.name, "hashing", tolerance=_ANY_LOSS)
    )
    assert await asyncio.to_thread(reached.wait, 60)
    for call in (runtime.embeddings.rollback, runtime.embeddings.finish):
        with pytest.raises(OperationInProgressError):
            call(place.name)
    with pytest.raises(OperationInProgressError):
        runtime.embeddings.migrate(place.name, "wordllama-128")
    go.set()
    assert (await migrating).outcome == "switched"


async def test_a_tenant_that_moves_in_during_a_migration_has_vectors_of_both_models(
    runtime: CloudRuntime, place: Place
) -> None:
    runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS)
    # Out, to a table that is read with another model, and back in.
    assert runtime.tenants.move(place.tenant_id, to="pooled").copied == 60
    await place.store("alice", 2)
    assert runtime.tenants.move(place.tenant_id, to="own").copied >= 60
    await runtime.drain()
    assert place.vectors("hashing") == {"embedding": 0, "embedding_2": 62}
    assert place.vectors("wordllama") == {"embedding": 62, "embedding_2": 0}
    assert len(await place.retrieve("alice", "fog", 1000)) == 52
    assert place.snapshot_model("alice") == "hashing"


async def test_a_table_of_the_first_release_gets_a_model_by_name_and_its_second_column(runtime: CloudRuntime) -> None:
    import pixeltable as pxt

    from cloud.memory.pixeltable import sealed_embedding
    from cloud.memory.pixeltable_handles import DIRECTORY, SCHEMA
    from cloud.storage.pixeltable_tables import create_operational_table

    tenant_id = "of-the-first-release"
    place = Place(runtime, tenant_id)
    path = f"{DIRECTORY}.{place.name}"

    def as_it_was() -> None:
        pxt.create_dir(DIRECTORY, if_exists="ignore")
        table = create_operational_table(path, SCHEMA, ["memory_id"])
        table.add_btree_index("subject_id", idx_name="by_subject")
        table.add_computed_column(
            embedding=sealed_embedding(table.tenant_id, table.subject_id, table.memory_id, table.envelope)
        )

    def columns() -> dict[str, str]:
        return {
            name: str(column["computed_with"])
            for name, column in pxt.get_table(path).get_metadata()["columns"].items()
            if column["is_computed"]
        }

    pool = runtime.pixeltable_config.rows._tables._pool  # type: ignore[attr-defined]
    pool.run_blocking(as_it_was)
    runtime.tenants.create(tenant_id, plan="team", placement="own")
    ids = set(await place.store("alice", 12))
    await runtime.drain()
    (written,) = pool.run_blocking(columns).items()
    assert written[0] == "embedding"
    assert "sealed_embedding_of" in written[1]
    assert "'wordllama'" in written[1]
    assert runtime.embeddings.migrate(place.name, "hashing", tolerance=_ANY_LOSS).outcome == "switched"
    assert place.vectors("hashing") == {"embedding": 0, "embedding_2": 12}
    assert place.vectors("wordllama") == {"embedding": 12, "embedding_2": 0}
    assert set(await place.retrieve("alice", "fog", 100)) == ids
