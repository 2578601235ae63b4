"""Every operation on a person's memories, enumerated: a method that is not listed here fails a test."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cloud import CloudRuntime, request_context
from cloud.gdpr.service import CloudGDPRService
from cloud.memory import CloudMemoryProvider
from src.testing.samples import sample_memory

_exports = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Stage:
    """What an operation is tried on: a person of a tenant, with one memory and a deleted one."""

    tenant_id: str
    user_id: str
    memory_id: str
    deleted_id: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        label: Name of the method, and of the way it is called where there are several.
        action: What its audit event says.
        role: A role that may do it.
        call: Calls it on the stage's own person.
        writes: Whether it needs quota.
    """

    label: str
    action: str
    role: str
    call: Callable[[CloudMemoryProvider, CloudGDPRService, Stage], Awaitable[object]]
    writes: bool = False

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.label.partition(":")[0]


PROVIDER_OPERATIONS = (
    Operation("store", "memory.store", "service", lambda m, _, s: m.store(sample_memory(s.user_id), {}), writes=True),
    Operation(
        "store_many",
        "memory.store_many",
        "service",
        lambda m, _, s: m.store_many([sample_memory(s.user_id), sample_memory("somebody else")], {}),
        writes=True,
    ),
    Operation("retrieve", "memory.retrieve", "service", lambda m, _, s: m.retrieve("tabs?", s.user_id)),
    Operation("search", "memory.search", "service", lambda m, _, s: m.search(s.user_id, {"source": "conversation"})),
    Operation("search:ranked", "memory.search", "service", lambda m, _, s: m.search(s.user_id, {"query": "tabs?"})),
    Operation("get_by_id", "memory.get", "service", lambda m, _, s: m.get_by_id(s.memory_id)),
    Operation("delete", "memory.delete", "service", lambda m, _, s: m.delete(s.memory_id)),
    Operation("update", "memory.update", "service", lambda m, _, s: m.update(s.memory_id, {"content": "Uses spaces"})),
    Operation(
        "supersede",
        "memory.supersede",
        "service",
        lambda m, _, s: m.supersede(s.memory_id, sample_memory(s.user_id), {}),
    ),
    Operation("undelete", "memory.undelete", "service", lambda m, _, s: m.undelete(s.deleted_id)),
    Operation("history", "memory.history", "service", lambda m, _, s: m.history(s.memory_id)),
    Operation("list", "memory.list", "service", lambda m, _, s: m.list(s.user_id, filters={"source": "conversation"})),
    Operation("count", "memory.count", "service", lambda m, _, s: m.count(s.user_id)),
)
GDPR_OPERATIONS = (
    Operation("delete_user_data:preview", "gdpr.preview", "tenant_admin", lambda _, g, s: _preview(g, s)),
    Operation("delete_user_data:confirmed", "gdpr.erase", "tenant_admin", lambda _, g, s: _erase(g, s)),
    Operation("export_user_data", "gdpr.export", "tenant_admin", lambda _, g, s: _export(g, s)),
)
OPERATIONS = (*PROVIDER_OPERATIONS, *GDPR_OPERATIONS)


async def staged(runtime: CloudRuntime, tenant_id: str, directory: Path, *, user_id: str = "alice") -> Stage:
    """A person with one memory and a deleted one."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory(user_id), {})
        deleted_id = await runtime.memory.store(sample_memory(user_id), {})
        await runtime.memory.delete(deleted_id)
    return Stage(tenant_id, user_id, memory_id, deleted_id, directory)


async def _preview(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.delete_user_data(stage.user_id, stage.tenant_id)


async def _erase(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.delete_user_data(stage.user_id, stage.tenant_id, confirmed=True, reason="request 17")


async def _export(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.export_user_data(stage.user_id, stage.tenant_id, stage.directory / f"export-{next(_exports)}")
