"""Laws of the data map at work: each entry's finder finds, each entry's eraser erases, and a lost one is noticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud import CloudRuntime, request_context
from cloud.gdpr import removal, subject_rows
from cloud.gdpr.catalog import CATALOG, DELETED_FROM
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.gdpr.places import DataMap
from cloud.gdpr.subject_rows import ROWS, SubjectRows
from cloud.kernel.errors import ErasureIncompleteError
from cloud.memory.materializer import placement_locks
from cloud.tenancy.model import pooled_placement
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker

CASCADES = {"control.intake", "control.memory_changes"}
"""Places whose rows go with the memory that they belong to, whoever deletes it."""
BESIDE = {"process.keys"}
"""Places that another entry's eraser empties too: what destroys a key forgets it."""


def map_of(look: Looker) -> DataMap:
    return look.runtime.gdpr._erasing._extents._map


async def everywhere(look: Looker) -> str:
    """A person with something in every place that an erasure empties, but intake; returns the subject id."""
    (first, _) = await look.store(*[sample_memory("alice")] * 2, idempotency_key="k")
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        await look.runtime.memory.update(first, {"confidence": 0.5})
    look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id="alice")
    await look.runtime.drain()
    await look.read("alice", [first])
    subject_id = look.subject("alice")
    assert subject_id is not None
    return subject_id


@contextmanager
def nothing_moves(look: Looker) -> Iterator[None]:
    """What is accepted stays in intake meanwhile."""
    engine = look.runtime._installation.engines.maintenance
    with placement_locks(engine, [pooled_placement(look.tenant_id)], wait_s=30) as held:
        assert held
        yield


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is looked for once."""
    monkeypatch.setattr(removal, "_PAUSES_S", ())


@dataclass(frozen=True, slots=True)
class Idle(SubjectRows):
    """Rows whose eraser does nothing."""

    def erase(self, connection: sa.Connection, tenant_id: str, subject_id: str) -> None:
        """Leaves everything."""


def disable(monkeypatch: pytest.MonkeyPatch, runtime: CloudRuntime, place: str) -> None:
    if place in ROWS:
        rows = ROWS[place]
        monkeypatch.setitem(subject_rows.ROWS, place, Idle(rows.table, rows.told))
    else:
        handlers = runtime.gdpr._erasing._extents._map.handlers
        monkeypatch.setitem(handlers, place, replace(handlers[place], erase=lambda *_: None))


def handled(look: Looker, place: str, subject_id: str) -> Iterator[int]:
    """What a place's own finder finds before and after its own eraser, with no other eraser at work."""
    predicate = system_predicate(look.tenant_id, "test")
    if place not in ROWS:
        handler = map_of(look).handlers[place]
        yield handler.find(predicate, subject_id)
        handler.erase(predicate, subject_id)
        yield handler.find(predicate, subject_id)
        return
    with look.runtime._installation.engines.maintenance._engine.connect() as connection:
        yield ROWS[place].find(connection, look.tenant_id, subject_id)
        ROWS[place].erase(connection, look.tenant_id, subject_id)
        yield ROWS[place].find(connection, look.tenant_id, subject_id)
        connection.rollback()


async def test_every_place_can_hold_something(look: Looker) -> None:
    subject_id = await everywhere(look)
    with nothing_moves(look):
        await look.store(sample_memory("alice"))
        await look.read("alice", [])
        counts = map_of(look).counts(system_predicate(look.tenant_id, "test"), subject_id)
    assert {place for place, count in counts.items() if not count} == set()


@pytest.mark.parametrize("place", DELETED_FROM)
async def test_each_places_own_eraser_empties_it(look: Looker, place: str) -> None:
    subject_id = await everywhere(look)
    with nothing_moves(look):
        await look.store(sample_memory("alice"))
        await look.read("alice", [])
        before, after = handled(look, place, subject_id)
    assert before > 0
    assert after == 0


@pytest.mark.parametrize("place", [place for place in DELETED_FROM if place not in CASCADES | BESIDE])
async def test_an_erasure_without_one_places_eraser_says_what_is_left(
    look: Looker, monkeypatch: pytest.MonkeyPatch, hurried: None, place: str
) -> None:
    subject_id = await everywhere(look)
    with monkeypatch.context() as without:
        disable(without, look.runtime, place)
        with pytest.raises(ErasureIncompleteError) as failed:
            await look.runtime.gdpr.delete_user_data("alice", look.tenant_id, confirmed=True)
        assert place in failed.value.places
    if place in ROWS:
        # Their stock was given back by the transaction that should have deleted them too.
        look.runtime._installation.engines.maintenance.transaction(
            lambda connection: ROWS[place].erase(connection, look.tenant_id, subject_id)
        )
    (erasure,) = look.erasures()
    await look.runtime.gdpr.resume_request(str(erasure.erasure_id), look.tenant_id)
    assert look.remains(subject_id) == {}


# One map for both


@dataclass(frozen=True, slots=True)
class Person:
    """What is kept of a person: how many of each."""

    materialized: int
    waiting: int
    updated: bool
    deleted: bool
    keys: int
    repeatable: bool
    is_read: bool


people = st.builds(
    Person,
    materialized=st.integers(0, 2),
    waiting=st.integers(0, 2),
    updated=st.booleans(),
    deleted=st.booleans(),
    keys=st.integers(0, 2),
    repeatable=st.booleans(),
    is_read=st.booleans(),
)


async def kept(look: Looker, person: Person, user_id: str) -> None:
    """Keep that much of a person."""
    context = {"idempotency_key": f"k-{user_id}"} if person.repeatable else {}
    ids = await look.store(*[sample_memory(user_id)] * person.materialized, **context) if person.materialized else []
    await look.runtime.drain()
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        if person.updated and ids:
            await look.runtime.memory.update(ids[0], {"confidence": 0.5})
        if person.deleted and ids:
            await look.runtime.memory.delete(ids[-1])
    for _ in range(person.keys):
        look.runtime.api_keys.create(look.tenant_id, roles={"member"}, user_id=user_id)
    if person.waiting:
        await look.store(*[sample_memory(user_id)] * person.waiting)
    if person.is_read:
        await look.read(user_id, ids)


def told(directory: Path) -> dict[str, int]:
    """How much an export tells of each place from which anything is told."""

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (directory / name).read_text("utf-8").split("\n") if line]

    (person,) = lines("person.json")
    memories = lines("memories.jsonl")
    return {
        "control.memories": len(memories),
        # A memory is in one of the two, wherever it is when it is asked for.
        "pixeltable.memories": len([memory for memory in memories if "content" in memory]),
        "control.intake": len([memory for memory in memories if "content" in memory]),
        "control.memory_changes": len(person.get("memory_changes", ())),
        "control.api_keys": len(person.get("api_keys", ())),
        "control.idempotency_keys": len(person.get("idempotency_keys", ())),
        "keyring.subject": int(person["subject_id"] is not None),
    }


async def test_what_is_exported_is_what_is_erased(look: Looker, tmp_path: Path) -> None:
    places = {place.name: place for place in CATALOG}
    numbers = iter(range(1_000))
    exported = {place.name for place in CATALOG if place.exported_in is not None and place.name in DELETED_FROM}
    assert {name for name in DELETED_FROM if name not in exported} == {
        name for name in DELETED_FROM if places[name].not_told
    }

    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    @given(people)
    def law(person: Person) -> None:
        asyncio.run(one(person, f"person-{(number := next(numbers))}", tmp_path / str(number)))

    async def one(person: Person, user_id: str, directory: Path) -> None:
        await kept(look, person, user_id)
        with nothing_moves(look):
            preview = await look.runtime.gdpr.delete_user_data(user_id, look.tenant_id)
            await look.runtime.gdpr.export_user_data(user_id, look.tenant_id, directory / "before")
        found = told(directory / "before")
        assert found.keys() == exported
        assert isinstance(preview, ErasurePreview)
        there = {name for name, count in preview.counts.items() if count and name in exported}
        one_of = {"pixeltable.memories", "control.intake"}
        assert {name for name, count in found.items() if count} - one_of == there - one_of
        assert bool(found["pixeltable.memories"]) == bool(one_of & there)
        for name in exported & {"control.memories", "control.memory_changes", "control.api_keys"}:
            assert found[name] == preview.counts.get(name, 0), name
        erased = await look.runtime.gdpr.delete_user_data(user_id, look.tenant_id, confirmed=True)
        assert isinstance(erased, Erasure)
        assert {name for name, count in erased.counts.items() if count and name in exported} - one_of == there - one_of
        await look.runtime.gdpr.export_user_data(user_id, look.tenant_id, directory / "after")
        assert not any(told(directory / "after").values())

    await asyncio.to_thread(law)
