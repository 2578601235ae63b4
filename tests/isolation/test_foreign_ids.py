"""An id that is not the caller's to know looks like one that does not exist: same answer, same event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import MemoryNotFoundError
from cloud.kernel.ids import new_memory_id
from cloud.memory import CloudMemoryProvider
from src.testing.samples import MALFORMED_IDS, sample_memory
from tests.isolation.probes import Event, Onlooker

_OWN_TO_AN_EVENT = {"event_id", "occurred_at", "latency_us", "request_id"}


@dataclass(frozen=True, slots=True)
class Cast:
    """A tenant with two people, and its neighbour with the same names."""

    tenant_id: str
    neighbour_id: str
    alices: str
    bobs: str
    neighbours: str


@pytest.fixture
async def cast(runtime: CloudRuntime, tenant_id: str) -> Cast:
    neighbour_id = f"{tenant_id}-2"
    runtime.tenants.create(neighbour_id, plan="team")
    with request_context(tenant_id=tenant_id, roles={"service"}):
        alices = await runtime.memory.store(sample_memory("alice"), {})
        bobs = await runtime.memory.store(sample_memory("bob"), {})
    with request_context(tenant_id=neighbour_id, roles={"service"}):
        neighbours = await runtime.memory.store(sample_memory("alice"), {})
    return Cast(tenant_id, neighbour_id, alices, bobs, neighbours)


async def found(call: Awaitable[object]) -> bool:
    """Whether a call found the memory that it was about."""
    try:
        return bool(await call)
    except MemoryNotFoundError:
        return False


CALLS: dict[str, tuple[Callable[[CloudMemoryProvider, Any], Awaitable[object]], object]] = {
    "get_by_id": (lambda memory, memory_id: memory.get_by_id(memory_id), None),
    "delete": (lambda memory, memory_id: memory.delete(memory_id), False),
    "update": (lambda memory, memory_id: found(memory.update(memory_id, {"content": "mine"})), False),
    "update of a revision": (
        lambda memory, memory_id: found(memory.update(memory_id, {"content": "mine"}, expected_revision=7)),
        False,
    ),
    "supersede": (lambda memory, memory_id: found(memory.supersede(memory_id, sample_memory("alice"), {})), False),
    "undelete": (lambda memory, memory_id: memory.undelete(memory_id), False),
    "history": (lambda memory, memory_id: found(memory.history(memory_id)), False),
}
STRANGE: dict[str, object] = {
    "36 letters": "x" * 36,
    "a wildcard": "%" * 36,
    "in upper case": "018F2B6E-7C1A-7DEF-8123-456789ABCDEF",
    "very long": "0" * 1_000_000,
    "nothing": None,
    "a number": 5,
    "bytes": b"018f2b6e-7c1a-7def-8123-456789abcdef",
    **{repr(memory_id[:40]): memory_id for memory_id in MALFORMED_IDS},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("temperature", ["hot", "cold"])
async def test_every_id_that_is_not_the_callers_gives_the_same_answer_and_event(
    runtime: CloudRuntime, onlooker: Onlooker, cast: Cast, call: str, temperature: str
) -> None:
    operation, absent = CALLS[call]
    if temperature == "hot":
        for tenant_id, user_id in ((cast.tenant_id, "bob"), (cast.neighbour_id, "alice")):
            with request_context(tenant_id=tenant_id, roles={"service"}):
                await runtime.memory.retrieve("tabs", user_id)
    shapes: list[Event] = []
    for memory_id in (cast.bobs, cast.neighbours, new_memory_id(), *STRANGE.values()):
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=cast.tenant_id, user_id="alice", roles={"member"}),
        ):
            assert await operation(runtime.memory, memory_id) is absent
        (event,) = events
        shapes.append({key: value for key, value in event.items() if key not in _OWN_TO_AN_EVENT})
    assert all(shape == shapes[0] for shape in shapes)
    assert (shapes[0]["outcome"], shapes[0]["reason"], shapes[0]["resource_ids"]) == ("allowed", "not_found", [])
    await everything_is_still_there(runtime, onlooker, cast)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("role", ["service", "tenant_admin"])
async def test_another_tenants_id_looks_absent_to_whoever_acts_for_all_of_a_tenant(
    runtime: CloudRuntime, onlooker: Onlooker, cast: Cast, call: str, role: str
) -> None:
    operation, absent = CALLS[call]
    with request_context(tenant_id=cast.tenant_id, roles={role}):
        assert await operation(runtime.memory, cast.neighbours) is absent
    await everything_is_still_there(runtime, onlooker, cast)


async def test_a_service_gets_and_deletes_for_anybody_of_its_tenant(runtime: CloudRuntime, cast: Cast) -> None:
    with request_context(tenant_id=cast.tenant_id, roles={"service"}):
        for memory_id, user_id in ((cast.alices, "alice"), (cast.bobs, "bob")):
            found = await runtime.memory.get_by_id(memory_id)
            assert found is not None
            assert found.user_id == user_id
            assert await runtime.memory.delete(memory_id) is True


async def test_a_member_who_never_stored_anything_sees_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, cast: Cast
) -> None:
    with request_context(tenant_id=cast.tenant_id, user_id="newcomer", roles={"member"}):
        assert await runtime.memory.get_by_id(cast.alices) is None
        assert await runtime.memory.delete(cast.alices) is False
        assert await runtime.memory.retrieve("tabs", "newcomer") == []
    await everything_is_still_there(runtime, onlooker, cast)


async def everything_is_still_there(runtime: CloudRuntime, onlooker: Onlooker, cast: Cast) -> None:
    held = ((cast.tenant_id, cast.alices), (cast.tenant_id, cast.bobs), (cast.neighbour_id, cast.neighbours))
    for tenant_id, memory_id in held:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            assert await runtime.memory.get_by_id(memory_id) is not None
    assert (onlooker.used(cast.tenant_id), onlooker.used(cast.neighbour_id)) == (2, 1)
